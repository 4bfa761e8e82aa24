"""What stands in several files because each needs it: the version and the address of the repository."""

import re
import tomllib

import yaml
from book_numbers import ROOT
from notebook_form import SETUP_CELL

import ddpm


def read_yaml(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert read_yaml("CITATION.cff")["version"] == version
    assert ddpm.__version__ == version
    assert re.findall(r"--branch v(\S+)", SETUP_CELL) == [version]


def test_the_address_of_the_repository_is_the_same_everywhere() -> None:
    address = read_yaml("_config.yml")["repository"]["url"]
    assert read_yaml("CITATION.cff")["repository-code"] == address
    assert re.findall(r"https://github\.com[^\"\s]+", SETUP_CELL) == [address]
    owner, name = address.removeprefix("https://github.com/").split("/")
    assert read_yaml("_config.yml")["html"]["baseurl"] == f"https://{owner}.github.io/{name}/"


def test_every_citation_key_has_surname_year_and_word() -> None:
    text = (ROOT / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert keys
    assert [key for key in keys if not re.fullmatch(r"[a-z]+(19|20)\d\d[a-z]+", key)] == []
    years = dict(re.findall(r"^@\w+\{([^,]+),.*?^  year *= *\{(\d+)\}", text, re.MULTILINE | re.DOTALL))
    assert {key: year for key, year in years.items() if year not in key} == {}

"""Imports point down: the method imports torch and its support, nothing imports the book, there is no cycle."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ddpm"
METHOD = {f"ddpm.{path.stem}" for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
SUPPORT = {
    f"ddpm.support.{path.stem}" for path in (PACKAGE / "support").glob("*.py") if path.stem != "__init__"
}
# `from_pretrained` and `save_pretrained` find those who read and write files by the package's public names, when asked.
ALLOWED_ROOT_IMPORT = "ddpm.diffusion"
HEAVY = ("accelerate", "torchvision", "sklearn", "matplotlib", "huggingface_hub")


FILES = {path.relative_to(PACKAGE.parent).with_suffix("").parts: path for path in PACKAGE.rglob("*.py")}
MODULES = {".".join(parts).removesuffix(".__init__"): path for parts, path in FILES.items()}


def imports(module: str) -> set[str]:
    """All modules that this one imports, also inside functions; of `from a import b`, a.b where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


GRAPH = {module: imports(module) for module in MODULES}


@pytest.mark.parametrize(
    ("layer", "below", "known"),
    [(METHOD, SUPPORT, {"ddpm.schedule", "ddpm.unet"}), (SUPPORT, set(), {"ddpm.support.checks"})],
    ids=["method", "support"],
)
def test_method_imports_only_torch_its_support_and_itself(layer, below, known):
    assert known <= layer
    others = {
        (module, name)
        for module in layer
        for name in GRAPH[module] - layer - below
        if name.partition(".")[0] not in {"torch", "tqdm", *sys.stdlib_module_names}
    }
    assert others == ({(ALLOWED_ROOT_IMPORT, "ddpm")} if layer is METHOD else set())


def test_nothing_imports_the_book():
    for module, names in GRAPH.items():
        if not f"{module}.".startswith("ddpm.book."):
            assert not [name for name in names if f"{name}.".startswith("ddpm.book.")], module


def test_no_cycle_among_modules():
    edges = {module: names & set(MODULES) for module, names in GRAPH.items()}
    edges[ALLOWED_ROOT_IMPORT] -= {"ddpm"}
    TopologicalSorter(edges).prepare()
    # The command line, above everything, takes public names from the package as users do.
    lower = {module for module in GRAPH if not f"{module}.".startswith("ddpm.cli.")}
    assert {module for module in lower if "ddpm" in GRAPH[module]} == {ALLOWED_ROOT_IMPORT}


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        ("import ddpm", ["torch", *HEAVY]),
        ("import ddpm; ddpm.data, ddpm.editing.inpaint", HEAVY),
        (f"import {', '.join(sorted(METHOD | SUPPORT))}", HEAVY),
        ("from ddpm.data import image_folder, load_dataset", ["sklearn", "torchvision"]),
        # To import it takes a second; the network calls of a few pictures take no longer.
        ("import ddpm.cli.drawing", ["torchvision", "torch._dynamo"]),
        ("from ddpm.book import check", ["matplotlib", "skimage"]),
    ],
)
def test_imports_load_nothing_heavy(imports, absent):
    code = f"import sys; {imports}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

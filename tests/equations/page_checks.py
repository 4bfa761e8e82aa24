"""The checks that stand on the pages: each is run on wrong formulas, as the checks of the ledger are.

For every labelled equation, `pages/<chapter>.toml` names the formula as the page computes it (a piece of the source of
one of its code cells) and what each mutant of the ledger makes of that piece:

    ["eq:log-snr"]
    formula = "torch.log(alpha_bar) - torch.log(1 - alpha_bar)"
    ["eq:log-snr".mutants]
    "noise over signal" = "torch.log(1 - alpha_bar) - torch.log(alpha_bar)"

The cell that holds the formula is also the one that checks it, unless `check = "…"` names a piece of the cell that
does. Only the cells that the check needs are run. A mutant which the page has no way to express stands under `cannot`,
with the reason.
"""

import ast
import symtable
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import torch

HERE = Path(__file__).parent
CHAPTERS = HERE.parents[1] / "chapters"


@dataclass(frozen=True)
class PageCheck:
    """How a page checks one equation.

    Attributes:
        label: the equation's label.
        page: the chapter's file name without its ending.
        formula: the piece of source that computes the formula.
        check: a piece of the cell that checks it; empty if it is the cell with the formula.
        mutants: what stands in place of the formula, by the name of the mistake.
        cannot: why the page cannot express a mutant of the ledger, by the name of the mistake.
    """

    label: str
    page: str
    formula: str
    check: str = ""
    mutants: dict[str, str] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)


def page_checks() -> dict[str, PageCheck]:
    """The checks of all pages by label."""
    return {
        label: PageCheck(label, path.stem, **entry)
        for path in sorted((HERE / "pages").glob("*.toml"))
        for label, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }


def code_cells(page: str) -> list[str]:
    """The source of a chapter's code cells, without the hidden one that prepares Colab."""
    cells = nbformat.read(CHAPTERS / f"{page}.ipynb", as_version=4).cells
    return [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and "remove-cell" not in cell.metadata.get("tags", [])
    ]


@dataclass(frozen=True)
class _Names:
    """What a cell does with the names of the page.

    Attributes:
        needed: those it reads before it binds them.
        bound: those it binds, or whose items or attributes it changes.
        fresh: those it binds without regard to what they were.
    """

    needed: set[str]
    bound: set[str]
    fresh: set[str]


def _names(source: str) -> _Names:
    needed, bound, fresh = set[str](), set[str](), set[str]()
    for statement in ast.parse(source).body:
        read, stored = _globals(symtable.symtable(ast.unparse(statement), "cell", "exec"))
        own = _globals_of_target(statement)
        needed |= read - own - fresh
        bound |= stored | set(_changed(statement))
        if not isinstance(statement, ast.If | ast.Try | ast.While | ast.AugAssign):
            fresh |= stored - read | own
    return _Names(needed, bound, fresh)


def _globals(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """The page's names that a statement reads, in functions too, and those that it binds."""
    symbols = table.get_symbols()
    if table.get_type() == "module":
        read = {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    else:
        read = {symbol.get_name() for symbol in symbols if symbol.is_global()}
    stored = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    for child in table.get_children():
        read |= _globals(child)[0]
    return read, stored


def _globals_of_target(statement: ast.stmt) -> set[str]:
    """The loop variables of a for statement."""
    targets = ast.walk(statement.target) if isinstance(statement, ast.For) else ()
    return {node.id for node in targets if isinstance(node, ast.Name)}


def _changed(statement: ast.stmt) -> Iterator[str]:
    """The names whose items or attributes a statement sets, or whose method it calls for its effect."""
    for node in ast.walk(statement):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            targets = [node.value.func]
        for target in targets:
            owner = target
            while isinstance(owner, ast.Subscript | ast.Attribute):
                owner = owner.value
            if isinstance(owner, ast.Name) and owner is not target:
                yield owner.id


def needed_cells(cells: list[str], last: int) -> list[int]:
    """The indices of the cells that cell `last` needs, itself included: those that bind or change what it reads."""
    names = [_names(source) for source in cells[: last + 1]]
    # A cell of imports may set a default besides.
    needed = {last} | {k for k in range(last) if cells[k].startswith(("import ", "from "))}
    wanted = names[last].needed.copy()
    for k in range(last - 1, -1, -1):
        if k in needed or names[k].bound & wanted:
            needed.add(k)
            wanted = wanted - names[k].fresh | names[k].needed
    return sorted(needed)


class Page:
    """The cells that one check needs, run up to the one that holds the formula."""

    def __init__(self, check: PageCheck) -> None:
        cells = code_cells(check.page)
        holds = [k for k, source in enumerate(cells) if check.formula in source]
        assert len(holds) == 1, f"{check.label}: {len(holds)} cells of {check.page} hold {check.formula!r}"
        assert cells[holds[0]].count(check.formula) == 1, f"{check.label}: {check.formula!r} stands twice"
        checks = [k for k, source in enumerate(cells) if check.check and check.check in source] or holds
        assert len(checks) == 1, f"{check.label}: {len(checks)} cells of {check.page} hold {check.check!r}"
        self.check, self.cells, self.holder = check, cells, holds[0]
        needed = {*needed_cells(cells, checks[0]), *needed_cells(cells, holds[0])}
        self.rest = sorted(k for k in needed if k >= self.holder)
        self.namespace: dict[str, Any] = {"display": lambda *_: None, "__name__": "page"}
        for k in sorted(needed - set(self.rest)):
            self._run(cells[k])

    def _run(self, source: str) -> None:
        exec(compile(source, self.check.page, "exec"), self.namespace)
        plt.close("all")

    def run(self, replacement: str | None = None) -> None:
        """Run the formula, or what stands in its place, and the check. Raises AssertionError where it is rejected."""
        for k in self.rest:
            source = self.cells[k]
            if k == self.holder and replacement is not None:
                source = source.replace(self.check.formula, replacement)
            self._run(source)


def survivors(check: PageCheck) -> list[str]:
    """The mutants that the page's own check accepts; raises if it rejects the right formula."""
    dtype = torch.get_default_dtype()
    try:
        page, alive = Page(check), []
        page.run()
        for mistake, replacement in check.mutants.items():
            try:
                page.run(replacement)
            except AssertionError:
                continue
            alive.append(mistake)
        return alive
    finally:
        torch.set_default_dtype(dtype)

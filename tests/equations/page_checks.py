"""The checks that stand on the pages: each is run on wrong formulas, as the checks of the ledger are.

For every labelled equation, `pages/<chapter>.toml` names the formula as the page computes it (a piece of the source of
one of its code cells) and what each mutant of the ledger makes of that piece:

    ["eq:log-snr"]
    formula = "torch.log(alpha_bar) - torch.log(1 - alpha_bar)"
    ["eq:log-snr".mutants]
    "noise over signal" = "torch.log(1 - alpha_bar) - torch.log(alpha_bar)"

The cell that holds the formula is also the one that checks it, unless `check = "…"` names a piece of the cell that
does. Of the cells before it only the statements that the check needs are run. A mutant which the page has no way to
express stands under `cannot`, with the reason.
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


def _statements(source: str) -> list[str]:
    """The statements of a cell, one by one."""
    return [ast.unparse(statement) for statement in ast.parse(source).body]


@dataclass(frozen=True)
class _Names:
    """What a piece of source does with the names of the page.

    Attributes:
        needed: those it reads before it binds them.
        bound: those it binds, or whose items or attributes it changes.
        fresh: those it binds without regard to what they were.
    """

    needed: set[str]
    bound: set[str]
    fresh: set[str]


def _names(body: list[ast.stmt]) -> _Names:
    """Of statements one after the other."""
    whole = _Names(set(), set(), set())
    for one in map(_names_of_one, body):
        whole.needed.update(one.needed - whole.fresh)
        whole.bound.update(one.bound)
        whole.fresh.update(one.fresh)
    return whole


def _names_of_one(statement: ast.stmt) -> _Names:
    """Of one statement; a loop is taken to run at least once."""
    changed = set(_changed(statement))
    if isinstance(statement, ast.For | ast.With):
        if isinstance(statement, ast.For):
            given, targets = [statement.iter], [statement.target]
        else:
            given = [item.context_expr for item in statement.items]
            targets = [item.optional_vars for item in statement.items if item.optional_vars]
        own = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        read = {name for one in given for name in _globals(_table(one))[0]}
        inside = _names(statement.body)
        return _Names(read | inside.needed - own, inside.bound | own | changed, inside.fresh | own)
    read, stored = _globals(_table(statement))
    if isinstance(statement, ast.AugAssign) and (owner := _owner(statement.target)):
        read.add(owner)
    certain = not isinstance(statement, ast.If | ast.Try | ast.While)
    return _Names(read, stored | changed, stored - read if certain else set())


def _table(node: ast.AST) -> symtable.SymbolTable:
    return symtable.symtable(ast.unparse(node), "cell", "exec")


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


# Calls that change nothing that they are given, and modules whose calls draw only.
_HARMLESS = {"print", "display", "assert_close", "figures", "plt"}


def _changed(statement: ast.stmt) -> Iterator[str]:
    """The names whose items or attributes a statement sets, or that it hands to a call, or whose, for its effect."""
    for node in ast.walk(statement):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if {_last_name(function), _owner(function)} & _HARMLESS:
                continue
            targets = [function]
            yield from (owner for given in node.value.args if (owner := _owner(given)))
        elif isinstance(node, ast.Attribute) and node.attr == "backward":
            # The gradient, and what an optimiser does with it, reaches everything.
            yield from (other.id for other in ast.walk(statement) if isinstance(other, ast.Name))
        yield from (owner for one in targets if not isinstance(one, ast.Name) and (owner := _owner(one)))


def _owner(expression: ast.expr) -> str | None:
    """The name whose item or attribute this is, or that it is."""
    while isinstance(expression, ast.Subscript | ast.Attribute):
        expression = expression.value
    return expression.id if isinstance(expression, ast.Name) else None


def _last_name(function: ast.expr) -> str | None:
    """What a function is called, without what it is an attribute of."""
    return function.attr if isinstance(function, ast.Attribute) else _owner(function)


def needed_pieces(pieces: list[str], last: int) -> list[int]:
    """The indices of the pieces of source that the piece `last` needs, itself included: they bind what it reads."""
    names = [_names(ast.parse(source).body) for source in pieces[: last + 1]]
    needed = {last} | {k for k in range(last) if pieces[k].startswith(("import ", "from "))}
    before: set[int] = set()
    while needed != before:
        before = needed.copy()
        # A function may read what is bound after it, when it is called.
        late = {name for k in needed if pieces[k].startswith("def ") for name in names[k].needed}
        wanted = names[last].needed | late
        for k in range(last - 1, -1, -1):
            if k in needed or names[k].bound & wanted:
                needed.add(k)
                wanted = wanted - names[k].fresh | names[k].needed
    return sorted(needed)


class Page:
    """What one check needs, run up to the cell that holds the formula."""

    def __init__(self, check: PageCheck) -> None:
        cells = code_cells(check.page)
        holds = [k for k, source in enumerate(cells) if check.formula in source]
        assert len(holds) == 1, f"{check.label}: {len(holds)} cells of {check.page} hold {check.formula!r}"
        assert cells[holds[0]].count(check.formula) == 1, f"{check.label}: {check.formula!r} stands twice"
        checks = [k for k, source in enumerate(cells) if check.check and check.check in source] or holds
        assert len(checks) == 1, f"{check.label}: {len(checks)} cells of {check.page} hold {check.check!r}"
        before = [piece for source in cells[: holds[0]] for piece in _statements(source)]
        self.check, self.pieces, self.holder = check, before + cells[holds[0] :], len(before)
        last = len(before) + checks[0] - holds[0]
        needed = {*needed_pieces(self.pieces, last)}
        for replacement in (check.formula, *check.mutants.values()):
            source = self.pieces[self.holder].replace(check.formula, replacement)
            needed |= {*needed_pieces([*before, source], self.holder)}
        self.rest = sorted(k for k in needed if k >= self.holder)
        self.namespace: dict[str, Any] = {"display": lambda *_: None, "__name__": "page"}
        for k in sorted(needed - set(self.rest)):
            self._run(self.pieces[k])

    def _run(self, source: str) -> None:
        exec(compile(source, self.check.page, "exec"), self.namespace)
        plt.close("all")

    def run(self, replacement: str | None = None) -> None:
        """Run the formula, or what stands in its place, and the check. Raises AssertionError where it is rejected."""
        for k in self.rest:
            source = self.pieces[k]
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

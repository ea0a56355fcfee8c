"""The table of who may import whom, held over every import: top-level, lazy and for types alike."""

import ast
import importlib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from mcpkg.backends import BACKENDS

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "mcpkg"
MAY_IMPORT = {
    "util": set(),
    "method": {"util"},
    "world": {"util"},
    "data": {"method", "util"},
    "backends": {"world", "data", "method", "util"},
    "inference": {"data", "method", "util"},
    "training": {"inference", "data", "method", "util"},
    "metrics": {"training", "inference", "data", "method", "world", "util"},
    "viz": {"metrics", "training", "inference", "data", "method", "world", "util"},
    "course": {"viz", "metrics", "training", "inference", "backends", "data", "method", "world", "util"},
    "cli": {"course", "viz", "metrics", "training", "inference", "backends", "data", "method", "world", "util"},
    "factory": {"course", "viz", "metrics", "training", "inference", "backends", "data", "method", "world", "util"},
}
"""Package -> the packages that it may import, besides itself."""
MODULES = sorted(PACKAGE.rglob("*.py"))
COMPUTED = ("__init__.py", "util/lazy.py", "util/optional.py", "util/registry.py", "cli/machine_checks.py")
"""Paths below mcpkg/ of modules that import what others name, in strings, which `names_in_strings` finds."""


def name_of(path: Path) -> str:
    parts = ("mcpkg", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}
VERSION = "mcpkg.__version__"
"""The only name of `mcpkg` itself that every module may import: the others come from the packages."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


PUBLIC = {
    alias.name: node.module
    for node in ast.walk(tree_of(PACKAGE / "__init__.py"))
    if isinstance(node, ast.ImportFrom) and node.module != "typing"
    for alias in node.names
}
"""Public name of `mcpkg` -> the module that it is from."""


def imported_module(module: str, name: str) -> str:
    """Return the module that `from module import name` loads; for a public name of `mcpkg`, the package it is from."""
    if module == "mcpkg" and name in PUBLIC:
        return PUBLIC[name]
    submodule = f"{module}.{name}"
    return submodule if submodule in NAMES | {VERSION} else module


def imports_of(path: Path, typed: bool = True) -> list[tuple[str, int]]:
    """Every module of mcpkg that the file imports, with the line: anywhere in the file, also inside functions.

    Args:
        typed: also those under `if TYPE_CHECKING`.
    """
    tree, found = tree_of(path), []
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING"))
    left_out = set() if typed else {id(node) for block in blocks for part in block.body for node in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import. Write it in full."
            found += [(imported_module(node.module, alias.name), node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            literal = node.args and isinstance(node.args[0], ast.Constant)
            computed = path.relative_to(PACKAGE).as_posix() in COMPUTED
            assert literal or computed, f"{path}:{node.lineno}: a computed name."
            found += [(node.args[0].value, node.lineno)] if literal else []
    return [(name, line) for name, line in found if name == "mcpkg" or name.startswith("mcpkg.")]


def names_in_strings(path: Path) -> list[tuple[str, int]]:
    """Every string that names a module of mcpkg, or "module:function" in it: it may be imported later."""
    strings = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)]
    found = [(str(node.value).partition(":")[0], node.lineno) for node in strings]
    return [(name, line) for name, line in found if name in NAMES - {"mcpkg"}]


def test_the_table_names_every_package():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(MAY_IMPORT)
    TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError


def test_the_house_has_few_rooms():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(entries) <= 14, sorted(entries)


@pytest.mark.parametrize("path", MODULES[1:], ids=name_of)
def test_imports_only_what_the_table_allows(path):
    """`mcpkg` itself imports nothing when it is imported, so every module may ask it for the version, and only that."""
    own = name_of(path).split(".")[1]
    for imported, line in imports_of(path) + names_in_strings(path):
        if imported == VERSION:
            continue
        package = imported.partition(".")[2].partition(".")[0]  # "" for `mcpkg` itself
        assert package in MAY_IMPORT[own] | {own}, f"{path}:{line}: {own} may not import {imported}."


def test_a_public_name_counts_as_an_import_of_its_module(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("from mcpkg import __version__, personalise\nimport mcpkg\nfrom mcpkg.util import errors\n")
    expected = [(VERSION, 1), ("mcpkg.training.trainer", 1), ("mcpkg", 2), ("mcpkg.util.errors", 3)]
    assert imports_of(file) == expected


def test_no_circle_within_a_package():
    """`mcpkg`, and packages that use `lazy_exports`, are not counted: they import their modules on first use."""
    graph = {name_of(path): {name for name, _ in imports_of(path, typed=False)} & NAMES for path in MODULES}
    lazy = {"mcpkg"}
    lazy |= {name_of(p) for p in MODULES if p.name == "__init__.py" and "lazy_exports(" in p.read_text()}
    TopologicalSorter({name: of - lazy for name, of in graph.items() if name not in lazy}).prepare()


def test_every_import_is_looked_at():
    """Against a count that knows nothing of syntax trees: lines that import from mcpkg."""
    lines = sum(
        line.strip().startswith(("from mcpkg", "import mcpkg"))
        for path in MODULES
        for line in path.read_text().splitlines()
    )
    statements = sum(len({line for _, line in imports_of(path)}) for path in MODULES)
    assert statements >= lines > 300


@pytest.mark.parametrize("entry", BACKENDS.values(), ids=BACKENDS)
def test_a_backends_loader_lies_in_its_folder(entry):
    """The registry imports by a computed name, which the tests above cannot see."""
    module, _, _ = entry.loader.partition(":")
    assert module in NAMES and module.startswith("mcpkg.backends.")


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.relative_to(PACKAGE).parts[0] not in ("backends", "cli", "factory")],
    ids=name_of,
)
def test_no_backends_name_outside_backends_and_cli(path):
    """As a separate word in a string that is no docstring. factory makes the built-in backends, so it may name them."""
    tree = tree_of(path)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            assert not set(node.value.replace("`", " ").replace("'", " ").split()) & set(BACKENDS), (
                f"{path}:{node.lineno}"
            )


@pytest.mark.parametrize("path", sorted(TESTS.glob("real/**/*.py")) + sorted(TESTS.glob("ui/**/*.py")), ids=str)
def test_tests_that_need_more_packages_import_from_here_what_there_is(path):
    """They run seldom, so that a name that has moved would not be missed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("mcpkg", "tests"):
            module = importlib.import_module(node.module)
            absent = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not absent, f"{node.module} has no {absent}"

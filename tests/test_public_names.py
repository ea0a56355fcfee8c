import ast
import subprocess
import sys
from dataclasses import is_dataclass
from importlib import import_module
from inspect import isfunction
from pathlib import Path

import pytest

import mcpkg

PROBE = """
import sys, time
start = time.perf_counter()
import mcpkg
assert time.perf_counter() - start < 0.3, time.perf_counter() - start
assert 'torch' not in sys.modules
mcpkg.MAGICAPTURE
assert 'torch' not in sys.modules
"""


def test_importing_is_quick_and_loads_no_torch():
    subprocess.run([sys.executable, "-c", PROBE], check=True, cwd=mcpkg.__path__[0] + "/..")


def test_public_names_are_functions_settings_and_methods():
    values = {name: getattr(mcpkg, name) for name in mcpkg.__all__ if name != "__version__"}
    assert all(isfunction(value) or is_dataclass(value) for value in values.values())  # is_dataclass: class or instance
    assert {"load_portraits", "personalise", "generate_portraits", "evaluate_portraits", "MAGICAPTURE"} <= values.keys()


PACKAGES = sorted(path.parent.name for path in Path(mcpkg.__file__).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("package", ["mcpkg", *(f"mcpkg.{name}" for name in PACKAGES)])
def test_what_type_checkers_see_is_what_there_is(package):
    """The block under TYPE_CHECKING is also what is resolved on first use."""
    exported = import_module(package)
    blocks = [
        node
        for node in ast.parse(Path(exported.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and hasattr(exported, "__all__")
    ]
    imports = [(node.module, alias) for block in blocks for node in block.body for alias in node.names]
    assert all(alias.asname == alias.name for _, alias in imports)  # `import x as x` re-exports, for a type checker
    assert {alias.name for _, alias in imports} == set(getattr(exported, "__all__", ())) - {"__version__"}
    for module, alias in imports:
        assert getattr(import_module(module), alias.name) is getattr(exported, alias.name), alias.name


def test_no_public_name_is_hidden_by_a_module():
    """Once imported, the module mcpkg.x is what `mcpkg.x` means."""
    modules = {path.stem for path in Path(mcpkg.__file__).parent.iterdir()}
    assert not modules & set(mcpkg.__all__) - {"__version__"}


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match="no attribute 'personalize'. Public names: .*personalise"):
        _ = mcpkg.personalize

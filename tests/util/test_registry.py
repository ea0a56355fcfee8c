import subprocess
import sys

import pytest

from mcpkg.util.registry import Registry


@pytest.fixture
def shapes():
    registry = Registry("shape")

    @registry.register("square")
    def area_of_square(side):
        return side * side

    @registry.register("line")
    def area_of_line(side):
        return 0

    return registry


def test_functions_are_found_by_name_in_the_order_of_registration(shapes):
    assert shapes["square"](3) == 9
    assert list(shapes) == ["square", "line"]
    assert "square" in shapes and "circle" not in shapes and shapes.get("circle") is None


def test_the_decorator_leaves_the_function_as_it_is(shapes):
    def area(side):
        return side

    assert shapes.register("other")(area) is area


def test_an_unknown_name_raises_with_the_names_to_choose_from(shapes):
    with pytest.raises(ValueError, match=r"^shape 'circle' unknown. Choose from \['square', 'line'\]\.$"):
        shapes["circle"]


def test_a_name_is_registered_once(shapes):
    with pytest.raises(ValueError, match="shape 'line' is registered twice"):
        shapes.register("line")(lambda side: side)
    assert shapes["line"](3) == 0


def test_it_loads_without_torch():
    code = "import sys, mcpkg.util.registry; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


HOME = """
SOLIDS = None
from solids import REGISTRY

@REGISTRY.register('unit-cube')
def cube(): ...

@REGISTRY.register("ball")
def ball(): ...
"""


def test_names_of_a_home_are_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "solids.py").write_text(
        "from mcpkg.util.registry import Registry\nREGISTRY = Registry('solid', ('solid_shapes',))\n"
    )
    (tmp_path / "solid_shapes.py").write_text(HOME)
    monkeypatch.syspath_prepend(tmp_path)
    from solids import REGISTRY

    assert REGISTRY.names == ("unit-cube", "ball") and "solid_shapes" not in sys.modules
    assert REGISTRY["ball"].__name__ == "ball"  # asking for a function imports its home
    assert "solid_shapes" in sys.modules
    with pytest.raises(ValueError, match=r"solid 'cone' unknown. Choose from \['unit-cube', 'ball'\]"):
        REGISTRY["cone"]

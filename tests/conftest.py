"""Shapes in signatures are checked here, at run time; our own warnings are errors."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401, the hook below looks it up by name

# Before anything imports mcpkg: what is already imported goes unchecked.
install_import_hook("mcpkg", "tests.typecheck.typecheck")

WEIGHTS = Path(__file__).parent.parent / "mcpkg" / "mini" / "weights"
MISSING = [name for name in ("base/model_index.json", "restorer.safetensors") if not (WEIGHTS / name).is_file()]
needs_weights = pytest.mark.skipif(
    bool(MISSING), reason=f"weights are not there: {MISSING}. Train them with python -m mcpkg.mini.train base, or restorer."
)


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error:::mcpkg")


@pytest.fixture
def generator():
    """A random stream of its own for each test."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def pipeline():
    """A fresh tiny pipeline that a test may change."""
    from tests.tiny import tiny_pipeline

    return tiny_pipeline()

"""Shapes in signatures are checked here, at run time; our own warnings are errors."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401, the hook below looks it up by name

# Before anything imports mcpkg: what is already imported goes unchecked.
install_import_hook("mcpkg", "tests.typecheck.typecheck")

BASE = Path(__file__).parent.parent / "mcpkg" / "mini" / "weights" / "base"
needs_weights = pytest.mark.skipif(
    not (BASE / "model_index.json").is_file(),
    reason="the diffusion model's weights are not there: train them with python -m mcpkg.mini.train base",
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

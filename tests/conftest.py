"""Shapes in signatures are checked here, at run time; our own warnings are errors."""

import pytest
from jaxtyping import install_import_hook

import tests.helpers.typecheck  # noqa: F401, the hook below looks it up by name

# Before anything imports mcpkg: what is already imported goes unchecked.
install_import_hook("mcpkg", "tests.helpers.typecheck.typecheck")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error:::mcpkg")


SLOWEST = ("test_full_size.py", "test_contributing.py", "test_notebooks_sd15.py", "test_train.py")


def pytest_collection_modifyitems(items):
    """The slowest files first, so that none is left to one process at the end."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


@pytest.fixture
def generator():
    """A random stream of its own for each test."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def pipeline():
    """A fresh tiny pipeline that a test may change."""
    from tests.helpers.tiny_pipeline import tiny_pipeline

    return tiny_pipeline()

"""MagiCapture (arXiv 2309.06895) to read, run and measure: one person's face in another portrait's style."""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load_backend": "mcpkg.backends",
    "load_portraits": "mcpkg.portraits",
    "personalise": "mcpkg.trainer",
    "generate_portraits": "mcpkg.generate",
    "evaluate_portraits": "mcpkg.evaluate",
    "capture_attention": "mcpkg.attention",
    "MAGICAPTURE": "mcpkg.config",
    "WITHOUT_REFOCUSING": "mcpkg.config",
    "WITHOUT_IDENTITY": "mcpkg.config",
    "WITHOUT_COMPOSED": "mcpkg.config",
    "WITHOUT_REFOCUSING_AND_COMPOSED": "mcpkg.config",
    "WITHOUT_MASKS": "mcpkg.config",
    "ONE_PHASE": "mcpkg.config",
    "CUSTOM_DIFFUSION": "mcpkg.config",
    "DREAMBOOTH": "mcpkg.config",
    "TEXTUAL_INVERSION": "mcpkg.config",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    """Import a public name on first use, so that `import mcpkg` stays quick and loads no torch (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'mcpkg' has no attribute {name!r}. Public names: {', '.join(_HOME)}.")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""MagiCapture (arXiv 2309.06895) to read, run and measure: one person's face in another portrait's style."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcpkg.backends import load_backend as load_backend
    from mcpkg.data.portraits import load_portraits as load_portraits
    from mcpkg.inference.generate import generate_portraits as generate_portraits
    from mcpkg.inference.sampling import Sampling as Sampling
    from mcpkg.method.attention_capture import capture_attention as capture_attention
    from mcpkg.method.config import CUSTOM_DIFFUSION as CUSTOM_DIFFUSION
    from mcpkg.method.config import DREAMBOOTH as DREAMBOOTH
    from mcpkg.method.config import MAGICAPTURE as MAGICAPTURE
    from mcpkg.method.config import ONE_PHASE as ONE_PHASE
    from mcpkg.method.config import TEXTUAL_INVERSION as TEXTUAL_INVERSION
    from mcpkg.method.config import WITHOUT_COMPOSED as WITHOUT_COMPOSED
    from mcpkg.method.config import WITHOUT_IDENTITY as WITHOUT_IDENTITY
    from mcpkg.method.config import WITHOUT_MASKS as WITHOUT_MASKS
    from mcpkg.method.config import WITHOUT_REFOCUSING as WITHOUT_REFOCUSING
    from mcpkg.method.config import WITHOUT_REFOCUSING_AND_COMPOSED as WITHOUT_REFOCUSING_AND_COMPOSED
    from mcpkg.metrics.evaluate import evaluate_portraits as evaluate_portraits
    from mcpkg.training.trainer import personalise as personalise

__version__ = "0.1.0"

_PACKAGES = {
    "load_backend": "backends",
    "load_portraits": "data",
    "personalise": "training",
    "generate_portraits": "inference",
    "Sampling": "inference",
    "evaluate_portraits": "metrics",
    "capture_attention": "method",
    "MAGICAPTURE": "method",
    "WITHOUT_REFOCUSING": "method",
    "WITHOUT_IDENTITY": "method",
    "WITHOUT_COMPOSED": "method",
    "WITHOUT_REFOCUSING_AND_COMPOSED": "method",
    "WITHOUT_MASKS": "method",
    "ONE_PHASE": "method",
    "CUSTOM_DIFFUSION": "method",
    "DREAMBOOTH": "method",
    "TEXTUAL_INVERSION": "method",
}
__all__ = ["__version__", *_PACKAGES]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import mcpkg` stays quick and loads no torch (PEP 562)."""
    if name not in _PACKAGES:
        raise AttributeError(f"module 'mcpkg' has no attribute {name!r}. Public names: {', '.join(_PACKAGES)}.")
    return getattr(import_module(f"mcpkg.{_PACKAGES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

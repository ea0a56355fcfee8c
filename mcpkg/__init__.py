"""MagiCapture (arXiv 2309.06895) to read, run and measure: one person's face in another portrait's style."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.backends import load_backend as load_backend
    from mcpkg.data.portraits import load_portraits as load_portraits
    from mcpkg.inference.generate import generate_portraits as generate_portraits
    from mcpkg.inference.sampling import Sampling as Sampling
    from mcpkg.method.attention_capture import capture_attention as capture_attention
    from mcpkg.method.methods import (
        CUSTOM_DIFFUSION as CUSTOM_DIFFUSION,
        DREAMBOOTH as DREAMBOOTH,
        MAGICAPTURE as MAGICAPTURE,
        ONE_PHASE as ONE_PHASE,
        TEXTUAL_INVERSION as TEXTUAL_INVERSION,
        WITHOUT_COMPOSED as WITHOUT_COMPOSED,
        WITHOUT_IDENTITY as WITHOUT_IDENTITY,
        WITHOUT_MASKS as WITHOUT_MASKS,
        WITHOUT_REFOCUSING as WITHOUT_REFOCUSING,
        WITHOUT_REFOCUSING_AND_COMPOSED as WITHOUT_REFOCUSING_AND_COMPOSED,
    )
    from mcpkg.metrics.evaluate import evaluate_portraits as evaluate_portraits
    from mcpkg.training.trainer import personalise as personalise

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
__all__ += ["__version__"]

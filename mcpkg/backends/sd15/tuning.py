"""Settings that suit Stable Diffusion 1.5, as values: nothing here loads a model."""

from mcpkg.method.config import Method
from mcpkg.method.recipes import COLAB, SHORT


def tune(method: Method) -> Method:
    """The recipe `colab`, the default."""
    return COLAB.apply(method)


def tune_short(method: Method) -> Method:
    """The recipe `short`, for lessons."""
    return SHORT.apply(method)

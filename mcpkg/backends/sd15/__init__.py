"""Stable Diffusion 1.x, with models that look at photographs of faces."""

import transformers

_logs = transformers.utils.logging
_level = _logs.get_verbosity()
_logs.set_verbosity_error()  # no advice to install torchvision for image processors that are not used here
try:
    from mcpkg.backends.sd15.models import load_sd15
finally:
    _logs.set_verbosity(_level)

__all__ = ["load_sd15"]

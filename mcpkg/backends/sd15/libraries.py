"""What is used of diffusers and transformers, imported without their advice to install packages not used here."""

import transformers

_logs = transformers.utils.logging
_level = _logs.get_verbosity()
_logs.set_verbosity_error()
try:
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
finally:
    _logs.set_verbosity(_level)

__all__ = [
    "AutoencoderKL",
    "AutoencoderTiny",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTokenizer",
    "DDIMScheduler",
    "StableDiffusionPipeline",
    "UNet2DConditionModel",
]

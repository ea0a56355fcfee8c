"""Counts what the parts of a pass of Stable Diffusion 1.5 cost, on tensors of the true shapes without values."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mcpkg.backends.sd15.libraries import AutoencoderKL, CLIPTextModel, UNet2DConditionModel
from mcpkg.backends.sd15.price import GIB, Parts
from mcpkg.backends.sd15.shapes import SD15, Shapes, text_config

HALF = 2  # bytes of a value


def count_parts(shapes: Shapes = SD15) -> Parts:
    """What `price.PARTS` holds, in a few seconds and next to no memory."""
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**shapes.unet).eval(), AutoencoderKL(**shapes.vae).eval()
        encoder = CLIPTextModel(text_config(shapes)).eval()
        cells, channels, width = shapes.unet["sample_size"], 4, shapes.unet["cross_attention_dim"]
        latents = torch.empty(1, channels, cells, cells)
        image = torch.empty(1, 3, *(shapes.vae["sample_size"],) * 2)
        tokens, timestep = torch.zeros(1, 77, dtype=torch.long), torch.zeros(1)
        prompt = torch.empty(1, 77, width, requires_grad=True)
        predicted = torch.empty_like(latents, requires_grad=True)
    for model in (unet, vae, encoder):
        model.requires_grad_(False)

    def denoise(prompt: Tensor) -> Tensor:
        return unet(latents, timestep, prompt).sample

    def decode(latents: Tensor) -> Tensor:
        return vae.decode(latents).sample

    text, _, _ = _count(lambda tokens: encoder(tokens).last_hidden_state, tokens)
    encoded, _, _ = _count(lambda image: vae.encode(image).latent_dist.mean, image)
    forward, backward, kept = _count(denoise, prompt)
    decoded, decode_backward, decode_kept = _count(decode, predicted)
    with _checkpointed(unet):
        _, backward_again, _ = _count(denoise, prompt)
    with _checkpointed(vae):
        _, decode_backward_again, _ = _count(decode, predicted)
    unet.requires_grad_(True)
    _, backward_whole, _ = _count(denoise, prompt)
    return Parts(
        text=text, unet=forward, unet_backward=backward, unet_weights=backward_whole - backward,
        unet_again=backward_again - backward, encode=encoded, decode=decoded, decode_backward=decode_backward,
        decode_again=decode_backward_again - decode_backward, unet_gib=kept, decode_gib=decode_kept,
    )  # fmt: skip


def _count(function: Callable[[Tensor], Tensor], given: Tensor) -> tuple[float, float, float]:
    """TFLOP forward, TFLOP backward, and GiB that are kept for the gradient, in fp16.

    Note:
        Attention's weights (cells x cells) are left out of what is kept: on a GPU they are never stored.
    """
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        is_attention = tensor.ndim >= 3 and tensor.shape[-1] == tensor.shape[-2] >= 1024
        if not is_attention and not isinstance(tensor, torch.nn.Parameter):
            kept += tensor.numel() * HALF
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = function(given)
        forward = counter.get_total_flops()
        if result.requires_grad:
            result.sum().backward()
        return forward / 1e12, (counter.get_total_flops() - forward) / 1e12, kept / GIB


@contextmanager
def _checkpointed(model):
    model.enable_gradient_checkpointing()
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()

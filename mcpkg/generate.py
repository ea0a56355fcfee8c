"""Draw portraits with a personalised model, and read where its words looked meanwhile."""

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.adapter import Adapter
from mcpkg.attention import capture_attention
from mcpkg.backends.base import Backend
from mcpkg.prompts import encode_prompts, token_positions


@dataclass(frozen=True)
class Generated:
    """Portraits in [0, 1] and what is needed to make them again."""

    images: Float[Tensor, "n 3 h w"]
    seeds: tuple[int, ...]
    prompt: str
    maps: dict[str, Float[Tensor, "n k k"]] = field(default_factory=dict)
    """Role -> attention of its word, a mean over steps, layers and heads; empty unless asked for."""


@torch.no_grad()
def generate_portraits(
    backend: Backend,
    adapter: Adapter | None = None,
    prompt: str | None = None,
    n: int = 8,
    seed: int = 0,
    steps: int = 25,
    guidance: float | None = None,
    lora_scale: float = 1.0,
    capture: bool = False,
    batch_size: int = 8,
) -> Generated:
    """Generate portraits; image i starts from seed + i, whatever the batch size.

    Args:
        adapter: from `personalise`; None draws with the plain model.
        prompt: by default the adapter's composed prompt.
        n: how many images.
        steps: of DPM-Solver++.
        guidance: classifier-free guidance scale; by default the backend's own.
        lora_scale: strength of the learned weights, from 0 to 1.
        capture: also return the placeholders' attention maps (those in the prompt).

    Raises:
        ValueError: n or steps below 1, or neither prompt nor adapter given.
    """
    if n < 1 or steps < 1:
        raise ValueError(f"n is {n} and steps is {steps}. Give 1 or more of each.")
    if prompt is None:
        if adapter is None:
            raise ValueError("no prompt given. Without an adapter there is no default one.")
        prompt = adapter.prompt
    guidance = backend.default_guidance if guidance is None else guidance
    seeds = tuple(range(seed, seed + n))
    images, maps = [], []
    with adapter.applied(backend, lora_scale) if adapter else nullcontext():
        words = {role: word.token for role, word in adapter.placeholders.items()} if adapter and capture else {}
        words = {role: token for role, token in words.items() if token in prompt}
        for start in range(0, n, batch_size):
            batch, heat = _draw(backend, prompt, seeds[start : start + batch_size], steps, guidance, words)
            images.append(batch)
            maps.append(heat)
    return Generated(
        images=torch.cat(images),
        seeds=seeds,
        prompt=prompt,
        maps={role: torch.cat([heat[role] for heat in maps]) for role in words},
    )


def _draw(
    backend: Backend, prompt: str, seeds: tuple[int, ...], steps: int, guidance: float, words: dict[str, str]
) -> tuple[Float[Tensor, "b 3 h w"], dict[str, Float[Tensor, "b k k"]]]:
    pipeline = backend.sampler()
    prompts = [prompt] * len(seeds)
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    positions = {role: token_positions(tokenizer, prompts, token) for role, token in words.items()}
    size = backend.attention_size
    capture = (
        capture_attention(pipeline.unet, positions, min_size=size, max_size=size, keep="mean")
        if words
        else nullcontext()
    )
    with capture as store:
        latents = pipeline(
            prompt_embeds=encode_prompts(tokenizer, text_encoder, prompts),
            negative_prompt_embeds=encode_prompts(tokenizer, text_encoder, [""] * len(seeds)),
            height=backend.image_size_px,
            width=backend.image_size_px,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
        ).images
    return backend.decode(latents).clamp(0, 1).float(), {role: store.mean(role) for role in words}

"""Leakage while portraits are drawn, map by map."""

import torch

from mcpkg.adapter import Adapter
from mcpkg.attention import capture_attention
from mcpkg.backends.base import Backend
from mcpkg.generate import full_prompt, generate_portraits
from mcpkg.leakage import LeakageRow, leakage_rows
from mcpkg.masks import ROLE_MASKS
from mcpkg.prompts import token_positions


@torch.no_grad()
def trace_leakage(
    backend: Backend,
    adapter: Adapter,
    n: int = 8,
    seed: int = 0,
    all_layers: bool = False,
    lora_scale: float = 1.0,
    edit: str = "",
    guidance: float | None = None,
    plain_guidance: bool = True,
    batch_size: int = 4,
    **drawing: float | str | bool | None,
) -> list[LeakageRow]:
    """Draw portraits and give every attention map's leakage: by token, sample, layer, head and timestep.

    Args:
        n, seed, lora_scale, edit, guidance, plain_guidance, drawing: see `generate_portraits`; samples are counted
            from 0.
        all_layers: also the layers of other grids than `backend.attention_size`.
        batch_size: portraits whose maps are held at a time.

    Returns:
        Rows whose leakage is NaN where the portrait does not show exactly one face, for then nobody can say where
        the words should have looked.
    """
    size = None if all_layers else backend.attention_size
    prompt, rows = full_prompt(adapter, None, edit), []
    guidance = backend.default_guidance if guidance is None else guidance
    with adapter.applied(backend, lora_scale, plain_guidance and guidance > 1):
        pipeline = backend.pipeline
        for start in range(0, n, batch_size):
            count = min(batch_size, n - start)
            positions = {
                word.token: token_positions(pipeline.tokenizer, [prompt] * count, word.token)
                for word in adapter.placeholders.values()
            }
            with capture_attention(pipeline.unet, positions, min_size=size, max_size=size, keep="all") as store:
                generated = generate_portraits(
                    backend, prompt=prompt, n=count, seed=seed + start, batch_size=count, guidance=guidance, **drawing
                )
            faces = backend.face_parser.parse(generated.images)
            one_face = (faces.count == 1).float()[:, None, None, None]
            regions = {
                word.token: (ROLE_MASKS[role](faces) * one_face).cpu() for role, word in adapter.placeholders.items()
            }
            rows += [row._replace(sample=row.sample + start) for row in leakage_rows(store, regions)]
    return rows

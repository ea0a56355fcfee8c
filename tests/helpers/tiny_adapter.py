"""Adapters for the tiny backend whose learned values are drawn instead of trained: made in no time."""

from dataclasses import replace

import torch

from mcpkg.inference.adapter import Adapter
from mcpkg.inference.model_patching import temporarily_patched, whole_weights
from mcpkg.method.lora import add_lora, read_lora
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.placeholders import REFERENCE, SOURCE


def tiny_adapter(backend, method=MAGICAPTURE, vectors=1, seed=0) -> Adapter:
    """With all that the method trains, large enough to change a picture plainly."""
    rng = torch.Generator().manual_seed(seed)
    method = replace(method, vectors=vectors)
    kinds = {kind for phase in method.phases for kind in phase.trains}
    width = backend.pipeline.text_encoder.config.hidden_size
    placeholders = {"source": replace(SOURCE, vectors=vectors), "reference": replace(REFERENCE, vectors=vectors)}
    lora = {}
    if "lora" in kinds:
        with temporarily_patched(backend):
            add_lora(backend.pipeline.unet, method.lora_rank, method.lora_layers, tokens=method.lora_tokens)
            lora = {k: 0.3 * torch.randn(v.shape, generator=rng) for k, v in read_lora(backend.pipeline.unet).items()}
    deltas = {
        name: (0.3 if "attn2" in name else 0.05) * torch.randn(weight.shape, generator=rng)
        for of_kind in whole_weights(backend, kinds).values()
        for name, weight in of_kind.items()
    }
    return Adapter(
        method=method,
        seed=seed,
        placeholders=placeholders,
        embeddings={p.token: torch.randn(vectors, width, generator=rng) for p in placeholders.values()},
        lora=lora,
        deltas=deltas,
        record={"seconds": 1.5, "source_images": 5, "reference_images": 4},
        backend=backend.name,
    )

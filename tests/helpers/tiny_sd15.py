"""Stable Diffusion 1.5's backend with the layout of its models, but few channels."""

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mcpkg.backends.clip_scores import ClipImages, MaskedClipStyle
from mcpkg.backends.sd15.shapes import Shapes
from mcpkg.cli.sd15_dry_run import assumed_portraits, random_backend

SMALL = Shapes(
    unet={
        "sample_size": 16, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 768, "attention_head_dim": 4,
        "norm_num_groups": 8, "layers_per_block": 1,
    },
    vae={
        "sample_size": 128, "block_out_channels": (16, 16, 32, 32), "layers_per_block": 1, "latent_channels": 4,
        "scaling_factor": 0.18215, "norm_num_groups": 8, "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    text={"hidden_size": 768, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    vocabulary=1000,
)  # fmt: skip


def tiny_sd15():
    """As `dry_run.random_backend`, with what contract tests look at beside the models."""
    backend, _ = random_backend(SMALL)
    backend.strangers = _faces(backend)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56,
            patch_size=14, projection_dim=8,
        ))  # fmt: skip
    backend.style_reader = MaskedClipStyle(ClipImages(clip.eval()))
    return backend


def _faces(backend):
    def strangers(n):
        portraits = assumed_portraits(backend, seed=3, n=n)
        return portraits.images, portraits.faces.landmarks

    return strangers

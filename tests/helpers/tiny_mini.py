"""An autoencoder with the mini model's interface and a few thousand random weights."""

import torch
from diffusers import AutoencoderKL

from mcpkg.factory.setting import LATENT_CHANNELS


def tiny_autoencoder() -> AutoencoderKL:
    """For images of 128 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=LATENT_CHANNELS, sample_size=128,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.5,
        )  # fmt: skip

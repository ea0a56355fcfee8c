"""A Stable Diffusion of a few thousand random weights, built from configs in well under a second."""

from __future__ import annotations

import string

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = [
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "with",
    "and",
    "photo",
    "person",
    "man",
    "woman",
    "face",
    "head",
    "style",
    "look",
    "hair",
    "black",
    "white",
    "red",
    "blue",
    "garment",
    "suit",
    "dress",
    "hat",
    "background",
    "plain",
    "portrait",
    "picture",
    "painting",
    "good",
    "nice",
    "clean",
    "bright",
    "one",
    "looking",
    "at",
    "camera",
]
IMAGE_SIZE_PX = 32
LATENT_SIZE = 8
LATENT_CHANNELS = 5
TEXT_LENGTH = 20


def tiny_tokenizer(words=WORDS) -> CLIPTokenizer:
    """A CLIP tokenizer that reads each of the words as one token and knows nothing else but letters."""
    # Every merge grows a word's ending to the left. Since each involves the ending, no two can compete.
    endings = {word[i:] for word in words for i in range(len(word))}
    endings = sorted(endings, key=lambda ending: (len(ending), ending))
    merges = [(ending[0], f"{ending[1:]}</w>") for ending in endings if len(ending) > 1]
    letters = list(string.ascii_lowercase)
    entries = ["<|startoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    entries += [f"{ending}</w>" for ending in endings if len(ending) > 1] + ["<|endoftext|>"]
    vocab = {entry: i for i, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH)


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """Cross-attention with 2 heads on grids of 8 and 4, each in the down and the up blocks, and in the middle."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            block_out_channels=(16, 16),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        ).eval()


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """Tokenizer, text encoder, UNet, autoencoder (4 times smaller latents) and scheduler, in float32, evaluating."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=TEXT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ).eval()
        vae = AutoencoderKL(
            sample_size=IMAGE_SIZE_PX,
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=4,
            mid_block_add_attention=False,
            scaling_factor=0.5,
        ).eval()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=tiny_unet(seed),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

"""The recipe of each built-in model: architecture, loss, learning rate, steps, and measurements at the end."""

from __future__ import annotations

from functools import partial

from mcpkg.backends.mini.nets import FaceParserNet, IdentityEmbedder, RestorerNet, StyleReaderNet
from mcpkg.factory.autoencoder import (
    autoencoder_loss,
    build_autoencoder,
    build_decoder,
    decoder_loss,
    save_autoencoder,
    save_decoder,
)
from mcpkg.factory.setting import Recipe
from mcpkg.factory.text_to_image import TextToImage, denoising_loss, save_pipeline
from mcpkg.factory.vision import (
    identity_loss,
    parser_loss,
    restorer_loss,
    save_identity,
    save_parser,
    save_restorer,
    save_style,
    style_loss,
)

_identity = partial(Recipe, lambda s: IdentityEmbedder(s.recipe.width), identity_loss, save_identity)

RECIPES: dict[str, Recipe] = {
    "autoencoder": Recipe(
        build_autoencoder, autoencoder_loss, save_autoencoder, 4400, 2e-3, batch_size=8, uses_autoencoder=False
    ),
    "autoencoder_decoder": Recipe(build_decoder, decoder_loss, save_decoder, 2000, 5e-4, batch_size=8),
    # The two embedders differ in seed and width, so that one can measure what the other was used to optimise.
    "identity_train": _identity(1500, 2e-3, batch_size=64, width=32),
    "identity_score": _identity(1500, 2e-3, batch_size=64, width=24, seed=1),
    "parser": Recipe(lambda s: FaceParserNet(), parser_loss, save_parser, 1800, 2e-3, batch_size=24),
    "style_reader": Recipe(lambda s: StyleReaderNet(), style_loss, save_style, 2500, 2e-3, batch_size=48),
    "restorer": Recipe(lambda s: RestorerNet(), restorer_loss, save_restorer, 2000, 3e-3, batch_size=8),
    "base": Recipe(
        TextToImage, denoising_loss, save_pipeline, 14_500, 1e-3, batch_size=16, population="web", ema_decay=0.999
    ),
}

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny

from mcpkg.backends import load_backend
from mcpkg.method.identity import identity_loss
from mcpkg.method.identity_decoding import decode_faces, face_squares
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.training.trainer import personalise
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_pipeline import LATENT_CHANNELS

SMALL_FACE = torch.tensor([[[0.68, 0.28], [0.72, 0.28], [0.70, 0.30], [0.68, 0.32], [0.72, 0.32]]])


def test_a_square_lies_around_the_face_and_within_the_frame():
    # Landmarks lie sqrt(2) / 50 from their middle, but for the nose: a mean of 0.0226. In 64 cells, 3 times that is
    # 4.3; with 4 cells of context 8.3, rounded up to 9 on each side. The middle is at (44.8, 19.2).
    corners, side = face_squares(SMALL_FACE, 64)
    assert side == 18
    assert corners.tolist() == [[36, 10]]
    corners, side = face_squares(SMALL_FACE + torch.tensor([0.28, -0.28]), 64)  # at the upper right corner
    assert corners.tolist() == [[64 - side, 0]]
    assert face_squares(SMALL_FACE, 8)[1] == 8  # never more than there is


def test_landmarks_move_into_the_frame_of_the_part():
    backend = tiny_backend()
    latents = torch.randn(1, LATENT_CHANNELS, 64, 64)
    part, inside = decode_faces(backend, latents, SMALL_FACE, "face")
    whole, same = decode_faces(backend, latents, SMALL_FACE, "whole")
    assert torch.equal(same, SMALL_FACE)
    assert part.shape[-1] == 18 * 4 and whole.shape[-1] == 64 * 4
    # The nose is at cell (44.8, 19.2) of the whole, at (8.8, 9.2) of the part.
    assert torch.allclose(inside[0, 2], torch.tensor([8.8 / 18, 9.2 / 18]))


@pytest.mark.slow
def test_the_gradient_of_the_faces_part_is_nearly_that_of_the_whole():
    backend = load_backend("mini")
    images, landmarks = backend.strangers(4)
    # A quarter of the frame, as in a portrait with shoulders: the same face in a picture twice as large.
    large = torch.nn.functional.pad(images, (64, 64, 64, 64), mode="replicate")
    landmarks = landmarks / 2 + 0.25
    latents = backend.encode(large).detach()
    target = backend.identity_trainer.embed(*backend.strangers(5))[-1:].expand(4, -1)

    def gradient(decoding):
        leaf = latents.clone().requires_grad_()
        identity_loss(
            backend.identity_trainer.embed(*decode_faces(backend, leaf, landmarks, decoding)), target
        ).sum().backward()
        return leaf.grad.flatten(1)

    agreement = torch.cosine_similarity(gradient("whole"), gradient("face"), dim=1)
    assert face_squares(landmarks, latents.shape[-1])[1] < latents.shape[-1]
    assert agreement.min() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("decoding", ["face", "tiny"])
def test_training_uses_the_chosen_decoding(decoding):
    backend = tiny_backend()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backend.tiny_autoencoder = AutoencoderTiny(
            latent_channels=LATENT_CHANNELS, encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
            num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3,
        )  # fmt: skip
    portraits, seen = tiny_portraits(backend), []
    phases = tuple(replace(phase, steps=2) for phase in MAGICAPTURE.phases)
    method = replace(MAGICAPTURE, phases=phases, identity_decoding=decoding, identity_max_timestep=1.0)
    adapter = personalise(backend, portraits, portraits, method, on_step=lambda r: seen.append(r.terms), progress=False)
    assert adapter.record["identity_images"] > 0
    assert all("identity" in terms for terms in seen[2:])


def test_a_missing_tiny_autoencoder_is_named():
    with pytest.raises(ValueError, match="identity_decoding 'tiny': tiny has no tiny autoencoder here. Take 'face'"):
        decode_faces(tiny_backend(), torch.zeros(1, LATENT_CHANNELS, 8, 8), SMALL_FACE, "tiny")


def test_an_unknown_decoding_is_named():
    with pytest.raises(ValueError, match="decoding: 'half' unknown. Choose from"):
        decode_faces(tiny_backend(), torch.zeros(1, LATENT_CHANNELS, 8, 8), SMALL_FACE, "half")

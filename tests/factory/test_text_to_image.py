"""The diffusion model is shown where words belong, and is saved as a pipeline that diffusers loads."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from mcpkg.factory.data import RenderBatch, generator_for
from mcpkg.factory.recipes import RECIPES
from mcpkg.factory.setting import LATENT_CHANNELS, Setting, read_metadata, save_folder
from mcpkg.factory.text_to_image import (
    FACE,
    MAX_VELOCITY_WEIGHT,
    RecordedAttention,
    TextToImage,
    _denoise,
    draw_timesteps,
    grounding,
    save_pipeline,
    scheduler,
    tokenize,
)
from mcpkg.method.diffusion import velocity_weight
from mcpkg.world.attributes import PARTS
from mcpkg.world.captions import Caption, write_captions
from mcpkg.world.population import BALANCED
from tests.helpers.tiny_mini import tiny_autoencoder


@pytest.fixture(scope="module")
def model() -> TextToImage:
    torch.manual_seed(0)
    return TextToImage()


def batch_of(parts: torch.Tensor) -> RenderBatch:
    rng = generator_for(0, 0)
    people = BALANCED.people(len(parts), rng)
    return RenderBatch(
        images=torch.rand(len(parts), 3, *parts.shape[1:], generator=rng), parts=parts,
        landmarks=torch.zeros(len(parts), 5, 2), people=people, looks=BALANCED.looks(people, rng),
        identity=torch.arange(len(parts)),
    )  # fmt: skip


# A frame of 2 x 2 cells whose left column is face and whose right column is hair; the only word speaks of the face.
HALVES = torch.tensor([[[1, 2], [1, 2]]])
WORD = torch.tensor([[[part == "face" for part in PARTS]]])


@pytest.mark.parametrize(
    ("places", "divergence", "inside"),
    [
        ([0.5, 0.0, 0.5, 0.0], 0.0, 1.0),  # evenly over its part
        ([0.25, 0.25, 0.25, 0.25], 0.6931, 0.5),  # everywhere: ln 2
        ([0.75, 0.0, 0.25, 0.0], 0.1438, 1.0),  # inside but uneven: -(ln 1.5 + ln 0.5) / 2
    ],
)
def test_grounding_is_lowest_for_uniform_attention_over_the_part(places, divergence, inside):
    attention = torch.tensor(places)[None, :, None]  # b hw n
    loss, share = grounding([attention], WORD, batch_of(HALVES))
    assert loss.item() == pytest.approx(divergence, abs=1e-4) and share.item() == pytest.approx(inside, abs=1e-4)


def test_grounding_ignores_words_of_parts_that_are_not_in_the_picture():
    attention = torch.full((1, 4, 1), 0.25)
    loss, _ = grounding([attention], WORD, batch_of(torch.zeros(1, 2, 2, dtype=torch.int64)))
    assert loss.item() == 0


@pytest.mark.slow
def test_each_word_keeps_its_parts_when_it_becomes_a_token(model):
    caption = Caption(("a", "bald", "man"), ((), (1, 2), (1, 2, 3, 4, 5)))
    ids, parts = tokenize(model.tokenizer, [caption, Caption((), ())])
    assert model.tokenizer.convert_ids_to_tokens(ids[0, :5].tolist())[1:4] == ["a</w>", "bald</w>", "man</w>"]
    assert parts[0, 2].nonzero().flatten().tolist() == [1, 2] and parts[0].sum() == 7
    assert not parts[1].any()


@pytest.mark.slow
def test_captions_fit_the_encoder_word_by_word(model, generator):
    people = BALANCED.people(300, generator)
    captions = write_captions(people, BALANCED.looks(people, generator), generator, dropout=0.0)
    ids, _ = tokenize(model.tokenizer, captions)
    lengths = (ids != model.tokenizer.eos_token_id).sum(dim=1) - 1
    assert lengths.tolist() == [len(caption.words) for caption in captions]


def test_recorded_attention_computes_the_same_as_fused_attention(model, generator):
    noisy, t = torch.randn(2, LATENT_CHANNELS, 16, 16, generator=generator), torch.tensor([10, 900])
    words = torch.randn(2, 32, 128, generator=generator)
    shown = dict(model.unet.attn_processors)
    assert sum(isinstance(processor, RecordedAttention) for processor in shown.values()) == 6
    with torch.no_grad():
        slow = model.unet(noisy, t, words).sample
        model.unet.set_attn_processor(AttnProcessor2_0())
        fast = model.unet(noisy, t, words).sample
    model.unet.set_attn_processor(shown)
    assert torch.allclose(slow, fast, atol=1e-4)


@pytest.mark.slow
def test_both_terms_have_gradients_and_a_step_is_repeatable(model):
    parts = torch.randint(len(PARTS), (4, 16, 16), generator=generator_for(0, 1))
    latents = torch.randn(4, LATENT_CHANNELS, 16, 16, generator=generator_for(0, 2))
    t = torch.tensor([10, 300, 600, 950])

    def step(weight: float):
        return _denoise(model, latents, batch_of(parts), t, generator_for(0, 3), weight, dropout=0.1)

    loss, terms = step(0.02)
    loss.backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None]
    model.zero_grad()
    assert torch.isfinite(loss) and idle == [] and terms["grounding"] > 0
    assert step(0.02)[0].item() == loss.item()
    assert loss.item() - step(0.0)[0].item() == pytest.approx(0.02 * terms["grounding"].item(), rel=1e-3)


def test_errors_in_the_face_count_three_times(model, monkeypatch):
    parts = torch.zeros(2, 16, 16, dtype=torch.int64)
    parts[:, :8] = FACE
    latents, t = torch.zeros(2, LATENT_CHANNELS, 16, 16), torch.tensor([500, 500])
    noise = torch.randn(latents.shape, generator=generator_for(0, 4))

    def loss(rows: slice) -> float:
        """Of a model that says 1 too much in these rows and is right elsewhere."""
        wrong = torch.zeros(2, LATENT_CHANNELS, 16, 16)
        wrong[:, :, rows] = 1
        no_maps = [torch.ones(2, 256, 32)]
        monkeypatch.setattr(model, "forward", lambda *_: (noise + wrong, no_maps))
        monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
        total, terms = _denoise(model, latents, batch_of(parts), t, generator_for(0, 3), 0.0, dropout=0.0)
        monkeypatch.undo()
        assert terms["denoising"].item() == pytest.approx(0.5)
        return total.item()

    # half of the cells weigh 3, half 1, their mean is 2: 0.5 * 3 / 2 and 0.5 * 1 / 2, times the timestep's own weight
    level = velocity_weight(t, scheduler(), MAX_VELOCITY_WEIGHT)[0].item()
    assert loss(slice(0, 8)) == pytest.approx(0.75 * level) and loss(slice(8, 16)) == pytest.approx(0.25 * level)


def test_timesteps_prefer_the_middle_and_reach_both_ends():
    t = draw_timesteps(20_000, generator_for(0, 5))
    assert 0 <= t.min() < 20 and 980 < t.max() < 1000
    # In the middle fifth, uniform has 0.2 and logit-normal P(|N| < logit(0.6)) = 0.315: 0.5 (0.2 + 0.315) = 0.257.
    assert ((t >= 400) & (t < 600)).float().mean().item() == pytest.approx(0.257, abs=0.015)


def test_an_encoder_that_changed_during_the_run_raises(model, tmp_path):
    setting = Setting(RECIPES["base"], 0, 1, "web", 64, tmp_path, tmp_path, torch.device("cpu"))
    vae = tiny_autoencoder()
    vae.save_pretrained(tmp_path / "base" / "vae")
    assert setting.autoencoder is not None  # loaded at the start
    nn.init.ones_(vae.quant_conv.bias)
    vae.save_pretrained(tmp_path / "base" / "vae")
    with pytest.raises(ValueError, match="not the encoder of the start of the run"):
        save_pipeline(model, setting, {"recipe": "base"})


@pytest.mark.slow
def test_the_saved_folder_is_a_stable_diffusion_pipeline(model, tmp_path, monkeypatch):
    setting = Setting(RECIPES["base"], 0, 1, "web", 64, tmp_path, tmp_path, torch.device("cpu"))
    vae = tiny_autoencoder()
    save_folder(vae.save_pretrained, tmp_path / "base" / "vae", {"recipe": "autoencoder", "seed": "7"})
    assert setting.autoencoder.config.scaling_factor == 0.5
    nn.init.ones_(vae.decoder.conv_out.bias)  # the decoder is trained on while the diffusion model learns
    save_folder(vae.save_pretrained, tmp_path / "base" / "vae", {"recipe": "autoencoder_decoder", "seed": "8"})
    monkeypatch.setattr(Setting, "unseen", lambda self, images: [batch_of(torch.zeros(2, 128, 128, dtype=torch.int64))])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    measured = save_pipeline(model, setting, {"recipe": "base", "seed": "0"})
    assert set(measured) == {"denoising", "grounding", "inside"}
    recorded = {path.parent.name: read_metadata(path) for path in tmp_path.rglob("*.safetensors")}
    assert {name: (metadata["recipe"], metadata["seed"]) for name, metadata in recorded.items()} == {
        "vae": ("autoencoder_decoder", "8"), "unet": ("base", "0"), "text_encoder": ("base", "0"),
    }  # fmt: skip

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae.config.scaling_factor == 0.5 and (pipeline.vae.decoder.conv_out.bias == 1).all()
    assert {module.dtype for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    images = pipeline("a red dress", num_inference_steps=2, guidance_scale=3.0, output_type="pt").images
    assert images.shape == (1, 3, 128, 128)
    key = "conv_in.weight"
    assert torch.allclose(pipeline.unet.state_dict()[key], state[f"unet.{key}"], atol=1e-3)

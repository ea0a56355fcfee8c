import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mcpkg.inference.generate import draw_batches, generate_portraits, starting_noise
from mcpkg.inference.provenance import read_provenance, save_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.methods import MAGICAPTURE
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend


@pytest.fixture(scope="module")
def backend():
    return tiny_backend()


@pytest.fixture(scope="module")
def adapter(backend):
    return tiny_adapter(backend)


@pytest.mark.slow
def test_images_are_portraits_of_the_backends_size(backend, adapter):
    generated = generate_portraits(backend, adapter, sampling=Sampling(n=3, seed=5, steps=2))
    assert generated.images.shape == (3, 3, 32, 32)
    assert generated.seeds == (5, 6, 7)
    assert generated.prompt == "a photo of a <v1> person in the <v2> style"
    assert generated.images.min() >= 0 and generated.images.max() <= 1
    assert generated.maps is None


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["dpm_solver", "euler_ancestral"])  # the second adds noise in each step
def test_an_image_depends_on_its_seed_alone(backend, adapter, scheduler):
    common = {"steps": 2, "scheduler": scheduler}
    together = generate_portraits(backend, adapter, sampling=Sampling(n=3, seed=5, **common))
    apart = generate_portraits(backend, adapter, sampling=Sampling(n=3, seed=5, **common), batch_size=2)
    listed = generate_portraits(backend, adapter, sampling=Sampling(seeds=(7, 100, 5), **common))
    assert torch.allclose(together.images, apart.images, atol=1e-5)
    assert listed.seeds == (7, 100, 5)
    assert torch.allclose(together.images[[2, 0]], listed.images[[0, 2]], atol=1e-5)
    assert not torch.allclose(together.images[0], together.images[1], atol=1e-2)


@pytest.mark.slow
def test_capture_changes_no_image_and_gives_maps(backend, adapter):
    plain = generate_portraits(backend, adapter, sampling=Sampling(n=3, steps=2), batch_size=2)
    captured = generate_portraits(backend, adapter, sampling=Sampling(n=3, steps=2), batch_size=2, capture=True)
    assert torch.equal(plain.images, captured.images)
    assert captured.maps.roles == ("source", "reference")
    for role in captured.maps.roles:
        heatmap = captured.maps.heatmap(role)
        assert heatmap.shape == (3, 8, 8)
        assert (heatmap >= 0).all() and (heatmap <= 1).all()


@pytest.mark.slow
def test_maps_of_several_batches_are_those_of_one(backend, adapter):
    together, apart = (
        generate_portraits(backend, adapter, sampling=Sampling(n=3, steps=2), batch_size=size, capture=True).maps
        for size in (3, 2)
    )
    for role in together.roles:
        assert together.rows[role].tolist() == apart.rows[role].tolist() == [True] * 3
        assert torch.allclose(together.heatmap(role), apart.heatmap(role), atol=1e-5)


@pytest.mark.slow
def test_batches_come_one_by_one_and_hold_what_one_batch_holds(backend, adapter, monkeypatch):
    drawn, decode = [], backend.decode

    def counted(latents):
        drawn.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(backend, "decode", counted)
    sampling = Sampling(seeds=(9, 2, 4), steps=2)
    batches = draw_batches(backend, adapter, None, sampling, "all", batch_size=2)
    assert drawn == []  # nothing is drawn before it is asked for
    first = next(batches)
    assert drawn == [2] and first.seeds == (9, 2)
    (second,) = batches
    assert drawn == [2, 1] and second.seeds == (4,)
    (whole,) = draw_batches(backend, adapter, None, sampling, "all", batch_size=3)
    assert whole.seeds == (9, 2, 4)
    assert torch.allclose(torch.cat((first.images, second.images)), whole.images, atol=1e-5)
    assert first.prompt == second.prompt == whole.prompt
    assert first.settings == second.settings == whole.settings
    for role in ("source", "reference"):
        # keep="all": one map a step, which the mean over the steps of `generate_portraits` is of
        assert whole.maps.select(role).shape[:2] == (3, 2)
        parts = torch.cat((first.maps.select(role), second.maps.select(role)))
        assert torch.allclose(parts, whole.maps.select(role), atol=1e-5)
    mean = generate_portraits(backend, adapter, sampling=sampling, capture=True).maps
    assert torch.allclose(mean.heatmap("source"), whole.maps.heatmap("source"), atol=1e-5)


def test_an_abandoned_drawing_leaves_the_models_as_they_were(backend, adapter):
    before = {name: p.clone() for name, p in backend.pipeline.unet.named_parameters()}
    batches = draw_batches(backend, adapter, None, Sampling(n=2, steps=1), batch_size=1)
    next(batches)
    batches.close()
    after = dict(backend.pipeline.unet.named_parameters())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert "<v1>" not in backend.pipeline.tokenizer.get_vocab()


def test_only_placeholders_in_the_prompt_are_captured(backend, adapter):
    generated = generate_portraits(
        backend, adapter, "a photo of a <v1> person", sampling=Sampling(n=1, steps=2), capture=True
    )
    assert generated.maps.roles == ("source",)
    with pytest.raises(ValueError, match="role: 'reference' unknown"):
        generated.maps.heatmap("reference")


def test_it_works_without_guidance_and_without_adapter(backend):
    generated = generate_portraits(backend, sampling=Sampling(n=1, steps=2, guidance=1.0), prompt="a photo of a person")
    assert generated.images.shape == (1, 3, 32, 32)


@pytest.mark.slow
def test_an_edit_is_what_one_would_have_written_oneself(backend, adapter):
    written = "a photo of a <v1> person in the <v2> style with red hat"
    edited = generate_portraits(backend, adapter, sampling=Sampling(n=1, steps=2, edit="with red hat"))
    assert edited.prompt == written
    assert torch.equal(
        edited.images, generate_portraits(backend, adapter, written, sampling=Sampling(n=1, steps=2)).images
    )
    assert generate_portraits(backend, adapter, sampling=Sampling(n=1, steps=1, edit=", red hat")).prompt.endswith(
        "<v2> style, red hat"
    )


@pytest.mark.slow
def test_a_negative_prompt_and_the_lora_scale_change_the_image(backend, adapter):
    plain = generate_portraits(backend, adapter, sampling=Sampling(n=1, steps=2)).images
    without_hat = generate_portraits(
        backend, adapter, sampling=Sampling(n=1, steps=2, negative_prompt="red hat")
    ).images
    weak = generate_portraits(backend, adapter, sampling=Sampling(n=1, steps=2, lora_scale=0.2)).images
    assert (plain - without_hat).abs().max() > 1e-4 and (plain - weak).abs().max() > 1e-4


@pytest.mark.slow
def test_spread_moves_the_starts_apart_and_keeps_them_normal(backend):
    own = starting_noise(backend, range(400))
    near = starting_noise(backend, range(400), spread=0.6)
    same = starting_noise(backend, range(3), spread=0.0)
    assert torch.equal(same, own[:1].expand(3, -1, -1, -1))
    assert torch.equal(near[0], own[0])
    assert torch.allclose(near[7], 0.6 * own[7] + 0.8 * own[0])  # 0.36 + 0.64 = 1
    assert near[1:].var(dim=0).mean() == pytest.approx(0.36, abs=0.02)  # they differ by 0.6 of what is their own
    assert near.square().mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"prompt": "a photo of a person"}, "neither <v1> nor <v2>"),
        ({"sampling": Sampling(edit="with a hat " * 20)}, "Shorten it"),
    ],
)
def test_impossible_options_are_refused(backend, adapter, options, message):
    with pytest.raises(ValueError, match=message):
        generate_portraits(backend, adapter, **options)


def test_without_adapter_a_prompt_is_needed(backend):
    with pytest.raises(ValueError, match="no prompt given"):
        generate_portraits(backend)


@pytest.mark.slow
def test_guidance_leads_away_from_the_plain_model_unless_told_otherwise(backend, adapter, monkeypatch):
    """At guidance g the noise is u + g (c - u); after a single step the latents are linear in it."""
    monkeypatch.setattr(backend, "decode", lambda latents: latents[:, :3] / 1000 + 0.5)

    def draw(adapter, prompt=None, **options):
        return generate_portraits(backend, adapter, prompt, Sampling(n=1, steps=1, **options))

    plain, prompted = draw(None, prompt="", guidance=1.0).images, draw(adapter, guidance=1.0)
    assert torch.allclose(draw(adapter, guidance=3.0).images, plain + 3 * (prompted.images - plain), atol=1e-5)
    by_itself = draw(adapter, guidance=3.0, plain_guidance=False)
    assert not torch.allclose(by_itself.images, plain + 3 * (prompted.images - plain), atol=1e-3)
    assert not prompted.settings["plain_guidance"] and not by_itself.settings["plain_guidance"]


# --- On disk ----------------------------------------------------------------------------------------------------------


def test_where_lora_acts_at_words_only_there_is_nothing_else_to_be_guided_away_from(backend):
    method = replace(MAGICAPTURE, lora_layers="cross_attention_kv", lora_tokens="placeholders")
    at_words = tiny_adapter(backend, method)

    def draw(**settings):
        return generate_portraits(backend, at_words, sampling=Sampling(n=2, steps=2, **settings), batch_size=1).images

    plain = draw()
    torch.testing.assert_close(draw(plain_guidance=False), plain)
    assert not torch.allclose(draw(lora_scale=0.0), plain, atol=1e-3)
    # A placeholder in the negative prompt brings its LoRA along.
    away = {"negative_prompt": "a <v1> person"}
    assert not torch.allclose(draw(plain_guidance=False, **away), draw(**away), atol=1e-3)
    draw(guidance=1.0)  # half as many rows


def test_the_norm_of_the_words_changes_the_image_and_is_recorded(backend, adapter):
    as_learned, shorter = (
        generate_portraits(backend, adapter, sampling=Sampling(n=1, steps=2, word_norm=norm)) for norm in (None, 0.2)
    )
    assert not torch.allclose(as_learned.images, shorter.images, atol=1e-3)
    assert "word_norm" not in as_learned.settings and shorter.settings["word_norm"] == 0.2


@pytest.fixture(scope="module")
def generated(backend, adapter):
    return generate_portraits(
        backend, adapter, sampling=Sampling(seeds=(3, 12), steps=2, guidance=2.5, lora_scale=0.5, edit="red hat")
    )


def test_each_file_records_how_it_was_made(generated, tmp_path):
    paths = save_portraits(generated, tmp_path / "new")
    assert [path.name for path in paths] == ["seed_00003.png", "seed_00012.png"]
    assert read_provenance(paths[1]) == {
        "statement": "AI-generated",
        "prompt": "a photo of a <v1> person in the <v2> style red hat",
        "seed": 12,
        "model": "tiny",
        "method": "MagiCapture",
        "negative_prompt": "",
        "guidance": 2.5,
        "plain_guidance": True,
        "steps": 2,
        "lora_scale": 0.5,
        "spread": 1.0,
        "first_seed": 3,
    }
    assert Image.open(paths[0]).text["Comment"] == "AI-generated"  # for readers that do not know mcpkg
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [path.name for path in paths]


def test_what_a_file_records_is_enough_to_draw_it_again(backend, adapter, generated, tmp_path):
    facts = read_provenance(save_portraits(generated, tmp_path)[1])
    settings = {key: facts[key] for key in ("negative_prompt", "guidance", "plain_guidance", "steps", "lora_scale")}
    again = generate_portraits(backend, adapter, facts["prompt"], Sampling(seeds=(facts["seed"],), **settings))
    assert torch.allclose(again.images[0], generated.images[1], atol=1e-5)


def test_pixels_and_prompts_beyond_latin_survive(generated, tmp_path):
    images = torch.stack((torch.zeros(3, 4, 4), torch.ones(3, 4, 4)))
    black, white = save_portraits(replace(generated, prompt="portræt i 着物", images=images), tmp_path)
    assert read_provenance(white)["prompt"] == Image.open(white).text["Description"] == "portræt i 着物"
    assert Image.open(black).getpixel((0, 0)) == (0, 0, 0) and Image.open(white).getpixel((3, 3)) == (255, 255, 255)


def test_a_file_without_provenance_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.jpg")
    (tmp_path / "notes.png").write_text(json.dumps({"statement": "AI-generated"}))
    for name in ("plain.png", "plain.jpg"):
        with pytest.raises(ValueError, match=f"{name}: no provenance of mcpkg"):
            read_provenance(tmp_path / name)
    with pytest.raises(ValueError, match="notes.png: cannot be read as an image"):
        read_provenance(tmp_path / "notes.png")
    with pytest.raises(FileNotFoundError, match="gone.png: no such file"):
        read_provenance(tmp_path / "gone.png")

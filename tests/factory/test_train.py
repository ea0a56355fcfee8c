"""The training loop goes on exactly where it was killed; every recipe teaches every weight."""

import itertools
import json
import runpy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mcpkg.factory import checkpoint, train
from mcpkg.factory.data import _render_chunk, generator_for
from mcpkg.factory.recipes import RECIPES
from mcpkg.factory.setting import HELD_OUT, Recipe, Setting, read_metadata, save_folder
from tests.helpers.tiny_mini import tiny_autoencoder


@pytest.fixture(autouse=True)
def no_weights_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("mcpkg.factory.setting.WEIGHTS", tmp_path / "package")


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """Two trainings that are compared must not differ by what was faster at the moment."""
    monkeypatch.setattr(train, "faster_precision", lambda *_: "fp32")


def setting_of(recipe: Recipe, folder, steps: int = 1) -> Setting:
    return Setting(
        recipe, seed=0, steps=steps, population="web", images=64,
        checkpoints=folder, out=folder / "weights", device=torch.device("cpu"), held_out_images=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """One chunk of portraits in the place of every pool that a recipe asks for, and an autoencoder."""
    folder = tmp_path_factory.mktemp("pools")
    for name, size, chunk, times in [
        ("128-0-0-64", 128, 0, 1), ("256-0-0-64", 256, 0, 1),
        ("128-0-1000000-64", 128, 15625, 1), ("256-0-1000000-128", 256, 15625, 2),
    ]:  # fmt: skip
        home = folder / f"pool-web-{name}"
        home.mkdir()
        for key, rows in _render_chunk("web", size, 0, chunk).items():
            np.save(home / f"{key}.npy", np.concatenate([rows] * times))
    save_autoencoder(folder / "weights")
    return folder


def save_autoencoder(out) -> None:
    save_folder(tiny_autoencoder().save_pretrained, out / "base" / "vae", {"recipe": "autoencoder", "seed": "7"})


class Killed(Exception):
    pass


def _toy(kill_at: int | None = None) -> Recipe:
    steps = itertools.count()

    def loss(model, setting, rng, progress):
        if next(steps) == kill_at:
            raise Killed
        x = torch.randn(8, 2, generator=rng)
        return (model(x) - x.sum(dim=1, keepdim=True)).square().mean(), {}

    return Recipe(
        lambda setting: nn.Linear(2, 1), loss, lambda *_: {},
        steps=8, learning_rate=0.1, batch_size=8, uses_autoencoder=False,
    )  # fmt: skip


def _run(recipe: Recipe, path, steps: int = 8, **changes) -> train.FactoryState:
    torch.manual_seed(0)
    state = train.FactoryState(replace(setting_of(recipe, path.parent, steps), **changes), path)
    if path.exists():
        state.load()
    train.run_training(state, "toy")
    return state


def test_a_killed_run_resumes_exactly(tmp_path, monkeypatch):
    whole = _run(_toy(), tmp_path / "whole.safetensors")
    monkeypatch.setattr(train, "SAVE_EVERY_S", -1)  # a checkpoint after each step
    with pytest.raises(Killed):
        _run(_toy(kill_at=5), tmp_path / "killed.safetensors")
    resumed = _run(_toy(), tmp_path / "killed.safetensors")
    assert resumed.step == 8
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert torch.equal(resumed.ema.weight, whole.ema.weight)


def test_a_checkpoint_records_commit_machine_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "current_commit", lambda: "1111111")
    path = tmp_path / "toy.safetensors"
    first = _run(_toy(), path)
    assert first.seconds > 0
    monkeypatch.setattr(checkpoint, "current_commit", lambda: "2222222-dirty")
    assert _run(_toy(), path).origin["commit"] == "1111111"  # it was finished: nothing was trained since
    longer = _run(_toy(), path, steps=12)
    assert longer.step == 12 and longer.seconds > first.seconds
    recorded = read_metadata(path)
    assert recorded["commit"] == "1111111; 2222222-dirty"
    assert recorded["machine"] == f"{torch.get_num_threads()} threads, cpu"
    assert float(recorded["seconds"]) == longer.seconds and longer.hours() == "0.00"


def test_a_checkpoint_without_such_records_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "current_commit", lambda: "2222222")
    path = tmp_path / "toy.safetensors"
    _run(_toy(), path)
    save_file(load_file(path), path, metadata={"step": "8"})
    state = _run(_toy(), path, steps=12)
    assert state.hours() == "0.00 since step 8" and state.origin["commit"] == "unknown; 2222222"


def test_a_start_from_finished_weights_is_recorded(tmp_path):
    file = tmp_path / "finished.safetensors"
    save_file({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.zeros(1)}, file, {"recipe": "toy", "steps": "6"})
    state = train.FactoryState(setting_of(_toy(), tmp_path), tmp_path / "toy.safetensors")
    state.start_from(file)
    assert state.model.weight.tolist() == state.ema.weight.tolist() == [[1.0, 2.0]]
    state.save()
    assert read_metadata(state.path)["started_from"] == "recipe toy, steps 6"


def test_a_folder_of_parts_can_be_the_start(tmp_path):
    for part, weight in (("0", 1.0), ("1", 2.0)):
        (tmp_path / "finished" / part).mkdir(parents=True)
        save_file({"weight": torch.full((1, 1), weight)}, tmp_path / "finished" / part / "model.safetensors")
    recipe = replace(_toy(), build=lambda _: nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)))
    state = train.FactoryState(setting_of(recipe, tmp_path), tmp_path / "toy.safetensors")
    state.start_from(tmp_path / "finished")
    assert [layer.weight.item() for layer in state.model] == [1.0, 2.0]


def test_weights_of_another_model_cannot_be_the_start(tmp_path):
    state = train.FactoryState(setting_of(_toy(), tmp_path), tmp_path / "toy.safetensors")
    with pytest.raises(FileNotFoundError, match="missing: no weights to start from"):
        state.start_from(tmp_path / "missing")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors: weights of another model. Missing key"):
        state.start_from(tmp_path / "other.safetensors")


def test_a_checkpoint_is_not_resumed_with_other_portraits(tmp_path):
    path = tmp_path / "toy.safetensors"
    _run(_toy(), path)
    with pytest.raises(ValueError, match=r"toy.safetensors: trained with images 64, not 128\. Give the same"):
        _run(_toy(), path, images=128)


def test_a_checkpoint_is_not_resumed_with_another_autoencoder(tmp_path):
    recipe, path = replace(_toy(), uses_autoencoder=True), tmp_path / "toy.safetensors"
    save_autoencoder(tmp_path / "weights")
    _run(recipe, path)
    vae = tiny_autoencoder()
    nn.init.ones_(vae.decoder.conv_out.bias)  # leaves the latents as they are
    vae.save_pretrained(tmp_path / "weights" / "base" / "vae")
    _run(recipe, path)
    nn.init.ones_(vae.encoder.conv_out.bias)
    vae.save_pretrained(tmp_path / "weights" / "base" / "vae")
    with pytest.raises(ValueError, match="trained with autoencoder"):
        _run(recipe, path)


def _train_together(rank: int, folder) -> None:
    """One of two processes; spawned, so it sees nothing of this test but the folder."""
    train.faster_precision = lambda *_: "fp32"  # rounding of bf16 would depend on how a batch is shared
    dist.init_process_group("gloo", init_method=(folder / "address").as_uri(), rank=rank, world_size=2)
    torch.manual_seed(0)
    state = train.FactoryState(setting_of(_toy(), folder, steps=8), folder / "toy.safetensors")
    train.run_training(state, "toy", rank, processes=2)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_on_both_halves_of_each_batch(tmp_path):
    torch.multiprocessing.spawn(_train_together, (tmp_path,), nprocs=2)

    def loss_of_both_halves(model, setting, rng, progress):
        step = round(progress * 8)
        halves = [torch.randn(8, 2, generator=generator_for(0, 2 * step + rank)) for rank in range(2)]
        return torch.stack([(model(x) - x.sum(dim=1, keepdim=True)).square().mean() for x in halves]).mean(), {}

    alone = _run(replace(_toy(), loss=loss_of_both_halves), tmp_path / "alone.safetensors")
    together = load_file(tmp_path / "toy.safetensors")
    torch.testing.assert_close(together["model.weight"], alone.model.weight.detach())
    torch.testing.assert_close(together["ema.weight"], alone.ema.weight)


def test_a_batch_that_cannot_be_divided_evenly_raises():
    with pytest.raises(ValueError, match="--processes: a batch of 24 cannot be divided among 5"):
        train.main(train.Arguments("parser", processes=5))


def test_the_average_starts_fast_and_ends_slow(tmp_path):
    state = train.FactoryState(setting_of(_toy(), tmp_path), tmp_path / "toy.safetensors")
    with torch.no_grad():
        state.ema.bias.fill_(0.0)
        state.model.bias.fill_(1.0)
    state.average()  # step 0: decay 1/10
    assert state.ema.bias.item() == pytest.approx(0.9)
    state.step = 10**6
    state.average()  # decay 0.998: 0.9 + 0.002 * 0.1
    assert state.ema.bias.item() == pytest.approx(0.9002)


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [train.one_cycle(progress) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0])


def test_a_diverged_run_raises(tmp_path):
    recipe = replace(_toy(), loss=lambda model, *_: (model.weight.sum() * float("nan"), {}))
    with pytest.raises(FloatingPointError, match="step 0; lower the learning rate"):
        _run(recipe, tmp_path / "toy.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["autoencoder", "identity_train", "identity_score", "parser", "style_reader", "restorer"]
)
def test_a_recipe_teaches_every_weight(name, pools):
    recipe = replace(RECIPES[name], batch_size=8)
    setting = setting_of(recipe, pools)
    torch.manual_seed(0)
    model = recipe.build(setting)
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, std=0.01)  # some start at 0, where nothing before them learns
    loss, terms = recipe.loss(model, setting, generator_for(0, 0), 0.75)
    loss.backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert torch.isfinite(loss) and idle == [] and all(torch.isfinite(term) for term in terms.values())


@pytest.mark.slow
def test_further_training_of_the_decoder_keeps_the_latents(pools, tmp_path):
    save_autoencoder(tmp_path)
    recipe = replace(RECIPES["autoencoder_decoder"], batch_size=2)
    setting = replace(setting_of(recipe, pools), out=tmp_path)
    vae = recipe.build(setting).train()
    loss, _ = recipe.loss(vae, setting, generator_for(0, 0), 0.5)
    loss.backward()
    learnt = {key.split(".")[0] for key, p in vae.named_parameters() if p.grad is not None}
    assert learnt == {"decoder", "post_quant_conv"}
    measured = recipe.save(vae.eval(), setting, {"recipe": "autoencoder_decoder", "seed": "0"})
    assert measured["latent_std"] == 2.0
    again = AutoencoderKL.from_pretrained(tmp_path / "base" / "vae")
    assert again.config.scaling_factor == 0.5
    recorded = read_metadata(next(tmp_path.rglob("*.safetensors")))
    assert recorded["recipe"] == "autoencoder_decoder" and json.loads(recorded["encoder"])["seed"] == "7"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoencoder", "identity_train", "parser", "style_reader"])
def test_finished_weights_record_their_provenance(name, pools, tmp_path):
    recipe = RECIPES[name]
    setting = replace(setting_of(recipe, pools), out=tmp_path)
    provenance = {"recipe": name, "seed": "0", "steps": "0", "population": "web", "commit": "unknown"}
    measured = recipe.save(recipe.build(setting).eval(), setting, provenance)
    (path,) = tmp_path.rglob("*.safetensors")
    with safe_open(path, "pt") as file:
        assert provenance.items() <= file.metadata().items()
        assert {str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118  # a safetensors file is no mapping <= {"torch.float16", "torch.int64"}
    assert measured and all(np.isfinite(list(measured.values())))


@pytest.mark.slow
def test_a_restorer_is_measured_on_damaged_pictures(pools, tmp_path):
    # Untrained it is bicubic enlargement; of undamaged pictures that alone reaches more than 30 dB.
    recipe = RECIPES["restorer"]
    setting = replace(setting_of(recipe, pools), out=tmp_path)
    measured = recipe.save(recipe.build(setting).eval(), setting, {"recipe": "restorer"})
    assert read_metadata(tmp_path / "restorer.safetensors")["recipe"] == "restorer"
    assert measured["psnr_db"] == pytest.approx(measured["bicubic_psnr_db"], abs=1e-3) and measured["psnr_db"] < 30


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "autoencoder"])
def test_a_missing_autoencoder_raises_before_anything_is_rendered(name, tmp_path):
    arguments = train.Arguments(name, checkpoints=tmp_path / "checkpoints", out=tmp_path, device="cpu")
    with pytest.raises(FileNotFoundError, match="First: python -m mcpkg.factory.train autoencoder"):
        train.main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_command_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "base", "--out", str(tmp_path), "--images", str(HELD_OUT + 1)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(train.__file__, run_name="__main__")
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and "where the held-out portraits begin" in error


def test_held_out_portraits_cannot_be_used_for_training(tmp_path):
    setting = setting_of(RECIPES["base"], tmp_path)
    for images in (0, HELD_OUT + 1):
        with pytest.raises(ValueError, match=f"--images: {images} is not in 1 to {HELD_OUT}"):
            replace(setting, images=images)


def test_a_resumed_training_keeps_its_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "faster_precision", lambda *_: "bf16")
    path = tmp_path / "toy.safetensors"
    assert _run(_toy(), path, steps=3).precision == "bf16"
    monkeypatch.setattr(train, "faster_precision", lambda *_: pytest.fail("measured again"))
    assert _run(_toy(), path, steps=6).precision == "bf16"
    assert read_metadata(path)["precision"] == "bf16"


def test_the_probe_leaves_no_trace_in_the_model(tmp_path, monkeypatch):
    """The first step's loss and gradient are computed, but on a copy."""
    seen = []

    def probe(take_step, device):
        take_step()
        seen.append(device)
        return "fp32"

    plain = _run(_toy(), tmp_path / "plain.safetensors").model.weight
    monkeypatch.setattr(train, "faster_precision", probe)
    assert torch.equal(_run(_toy(), tmp_path / "probed.safetensors").model.weight, plain)
    assert len(seen) == 1

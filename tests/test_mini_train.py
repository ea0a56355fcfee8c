"""The training loop goes on exactly where it was killed; every recipe teaches every weight."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from mcpkg.mini import train
from mcpkg.mini.data import _render_chunk, generator_for
from mcpkg.mini.recipes import RECIPES
from mcpkg.mini.setting import Recipe, Setting


def setting_of(recipe: Recipe, folder, steps: int = 1) -> Setting:
    return Setting(
        recipe, seed=0, steps=steps, population="web", images=64,
        checkpoints=folder, out=folder / "weights", device=torch.device("cpu"), held_out_images=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """One chunk of portraits in the place of every pool that a recipe asks for."""
    folder = tmp_path_factory.mktemp("pools")
    for name, size, chunk in [("128-0-0-64", 128, 0), ("256-0-0-64", 256, 0), ("128-0-1000000-64", 128, 15625)]:
        home = folder / f"pool-web-{name}"
        home.mkdir()
        for key, rows in _render_chunk("web", size, 0, chunk).items():
            np.save(home / f"{key}.npy", rows)
    return folder


class Killed(Exception):
    pass


def _toy(kill_at: int | None = None) -> Recipe:
    steps = itertools.count()

    def loss(model, setting, rng, progress):
        if next(steps) == kill_at:
            raise Killed
        x = torch.randn(8, 2, generator=rng)
        return (model(x) - x.sum(dim=1, keepdim=True)).square().mean(), {}

    return Recipe(lambda setting: nn.Linear(2, 1), loss, lambda *_: {}, steps=8, learning_rate=0.1, batch_size=8)


def _run(recipe: Recipe, path) -> train.TrainingState:
    torch.manual_seed(0)
    state = train.TrainingState(setting_of(recipe, path.parent, steps=8), path)
    if path.exists():
        state.load()
    train.train(state, "toy")
    return state


def test_a_killed_run_goes_on_exactly(tmp_path, monkeypatch):
    whole = _run(_toy(), tmp_path / "whole.safetensors")
    monkeypatch.setattr(train, "SAVE_EVERY_S", -1)  # a checkpoint after each step
    with pytest.raises(Killed):
        _run(_toy(kill_at=5), tmp_path / "killed.safetensors")
    resumed = _run(_toy(), tmp_path / "killed.safetensors")
    assert resumed.step == 8
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert torch.equal(resumed.ema.weight, whole.ema.weight)


def test_the_average_starts_fast_and_ends_slow(tmp_path):
    state = train.TrainingState(setting_of(_toy(), tmp_path), tmp_path / "toy.safetensors")
    with torch.no_grad():
        state.ema.bias.fill_(0.0)
        state.model.bias.fill_(1.0)
    state.average()  # step 0: decay 1/10
    assert state.ema.bias.item() == pytest.approx(0.9)
    state.step = 10**6
    state.average()  # decay 0.998: 0.9 + 0.002 * 0.1
    assert state.ema.bias.item() == pytest.approx(0.9002)


def test_the_learning_rate_rises_and_falls_back_to_nothing():
    rates = [train.one_cycle(progress) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0])


def test_a_diverged_run_stops_and_says_so(tmp_path):
    recipe = replace(_toy(), loss=lambda model, *_: (model.weight.sum() * float("nan"), {}))
    with pytest.raises(FloatingPointError, match="step 0; lower the learning rate"):
        _run(recipe, tmp_path / "toy.safetensors")


@pytest.mark.parametrize(
    "name", ["autoencoder", "identity_train", "identity_score", "parser", "style_reader", "restorer"]
)
def test_a_recipe_teaches_every_weight(name, pools):
    recipe = replace(RECIPES[name], batch_size=8)
    setting = setting_of(recipe, pools)
    torch.manual_seed(0)
    model = recipe.build(setting)
    if name == "restorer":
        nn.init.normal_(model.leave.weight, std=0.01)  # it starts at 0, where nothing behind it learns
    loss, terms = recipe.loss(model, setting, generator_for(0, 0), 0.75)
    loss.backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert torch.isfinite(loss) and idle == [] and all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("name", ["autoencoder", "identity_train", "parser", "style_reader"])
def test_finished_weights_say_how_they_came_to_be(name, pools, tmp_path):
    recipe = RECIPES[name]
    setting = replace(setting_of(recipe, pools), out=tmp_path)
    provenance = {"recipe": name, "seed": "0", "steps": "0", "population": "web", "commit": "unknown"}
    measured = recipe.save(recipe.build(setting).eval(), setting, provenance)
    (path,) = tmp_path.rglob("*.safetensors")
    with safe_open(path, "pt") as file:
        assert provenance.items() <= file.metadata().items()
        assert {str(file.get_tensor(key).dtype) for key in file.keys()} <= {"torch.float16", "torch.int64"}
    assert measured and all(np.isfinite(list(measured.values())))


def test_an_autoencoder_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("mcpkg.mini.setting.WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="mcpkg.mini.train autoencoder"):
        setting_of(RECIPES["base"], tmp_path).trained_autoencoder()

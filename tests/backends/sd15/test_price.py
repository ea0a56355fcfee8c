import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from benchmarks import sd15_step
from benchmarks.sd15_parts import count_parts
from mcpkg.backends.sd15 import models
from mcpkg.backends.sd15.price import CARDS, PARTS, Parts, needs_checkpointing, price_line, price_of
from mcpkg.method.methods import DREAMBOOTH, MAGICAPTURE, TEXTUAL_INVERSION, WITHOUT_IDENTITY
from mcpkg.method.recipes import AUTHORS, COLAB, RECIPES, SHORT
from tests.helpers.tiny_sd15 import tiny_sd15

ROUND = Parts(
    text=0, unet=1, unet_backward=1, unet_weights=1, unet_again=0.5, encode=1, decode=3, decode_backward=3,
    decode_again=2, unet_gib=1, decode_gib=3,
)  # fmt: skip
T4 = CARDS["T4"]


def test_the_recipes_cost_what_they_promise_on_a_t4():
    assert price_of(COLAB.apply(MAGICAPTURE), T4.gib).minutes(T4) <= 40
    assert price_of(SHORT.apply(MAGICAPTURE), T4.gib).minutes(T4) <= 8
    assert price_of(COLAB.apply(MAGICAPTURE), T4.gib, checkpointing=True).minutes(T4) <= 40
    assert price_of(SHORT.apply(MAGICAPTURE), T4.gib, checkpointing=True).minutes(T4) <= 8


def test_the_papers_price_by_hand():
    """Phase 1: 1200 steps of 4 passes of 2 samples, each 1 + 1. Phase 2: 1500 x 4 x 3. Identity: 1500 x 4 composed
    samples, of which 0.5 / 0.8 are below T', each decoded by 3 + 3; 10 images are encoded by 1 each."""
    price = price_of(MAGICAPTURE, None, images=10, checkpointing=False, parts=ROUND)
    assert price.tflop == pytest.approx(
        {"encoding": 10, "phase 1": 9600 * 2, "phase 2": 18000 * 2, "identity loss of phase 2": 6000 * 0.625 * 6}
    )
    again = price_of(MAGICAPTURE, None, images=10, checkpointing=True, parts=ROUND)
    assert again.tflop["phase 2"] == 18000 * 2.5 and again.tflop["identity loss of phase 2"] == 3750 * 8


def test_one_task_a_pass_and_a_pass_of_its_own_are_counted():
    """1500 samples, of which two in three are judged: each decoded by 3 + 3 and passed through the UNet again by 2."""
    price = price_of(AUTHORS.apply(MAGICAPTURE), None, checkpointing=False, parts=ROUND)
    assert price.tflop["encoding"] == 20  # with mirror images
    assert price.tflop["phase 1"] == 1200 * 2 and price.tflop["phase 2"] == 1500 * 2
    assert price.tflop["identity loss of phase 2"] == pytest.approx(1000 * (6 + 2))


def test_a_method_pays_for_what_it_trains():
    assert list(price_of(TEXTUAL_INVERSION, None).tflop) == ["encoding", "phase 1"]
    assert list(price_of(WITHOUT_IDENTITY, None).tflop) == ["encoding", "phase 1", "phase 2"]
    dreambooth = price_of(DREAMBOOTH, None, checkpointing=False, parts=ROUND)
    assert dreambooth.tflop["phase 1"] == 2000 * 3 * 3  # also the gradient to the weights
    assert dreambooth.tflop["encoding"] == 10 + 32 * 25 * 2  # the prior's images are drawn
    tiny = replace(MAGICAPTURE, identity_decoding="tiny")
    assert price_of(tiny, None, parts=ROUND).tflop["identity loss of phase 2"] == 0


def test_gradients_are_checkpointed_where_memory_asks_for_it():
    colab = COLAB.apply(MAGICAPTURE)
    assert needs_checkpointing(colab, None)  # on a processor, always
    assert not needs_checkpointing(colab, T4.gib) and needs_checkpointing(colab, 6.0)
    assert needs_checkpointing(MAGICAPTURE, T4.gib) and not needs_checkpointing(MAGICAPTURE, CARDS["A100"].gib)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice, card_gib, on", [("auto", None, True), ("auto", 80.0, False), ("on", 80.0, True), ("off", None, False)]
)
def test_the_models_are_prepared_by_the_rule_or_the_switch(choice, card_gib, on):
    pipeline = tiny_sd15().pipeline
    models.set_checkpointing(pipeline, choice, MAGICAPTURE, card_gib)
    assert pipeline.unet.is_gradient_checkpointing == pipeline.vae.is_gradient_checkpointing == on


def test_the_price_is_one_line_and_loads_no_torch():
    line = price_line(COLAB.apply(MAGICAPTURE), 10)
    assert "\n" not in line and "5,271 TFLOP, in minutes: T4 12, L4 6, A100 2 (if" in line and "fp32" not in line
    dreambooth = price_line(DREAMBOOTH, 10)
    assert "T4 too small" in dreambooth and dreambooth.endswith("needs fp32, which takes several times as long")
    code = "import sys; from mcpkg.backends.sd15 import price; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_parts_are_what_torch_counts():
    counted = asdict(count_parts())
    assert counted == pytest.approx(asdict(PARTS), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_benchmark_prints_the_price_of_each_recipe(recipe, monkeypatch, capsys):
    monkeypatch.setattr(sd15_step, "count_parts", lambda shapes: PARTS)
    sd15_step.main(count=True, recipe=recipe, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["cards"]) == {"T4", "L4", "A100"} and answer["assumptions"]
    for card in answer["cards"].values():
        assert card["minutes"] == pytest.approx(card["tflop_total"] / card["tflop_per_second"] / 60, rel=0.01, abs=0.06)
        assert card["bytes"] > 2**30

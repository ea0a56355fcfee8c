import json

import pytest
import torch
import tyro

from benchmarks import step_cost
from benchmarks.references import spelled_out
from benchmarks.step_cost import VARIANTS, Variant, open_bench
from mcpkg.method.batch import ROLES
from mcpkg.method.prompts import find_token, tokenize_prompts
from mcpkg.method.refocusing import capture_placeholders
from mcpkg.util.images import save_image
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


def named_tiny(name, device):
    """Stands in for `load_backend`, also in a process of its own, which looks it up by name."""
    return tiny_backend()


@pytest.fixture
def folders(tmp_path):
    for seed, folder in enumerate(("ann", "chic")):
        for number, image in enumerate(tiny_portraits(tiny_backend(), 3, seed=seed).images):
            save_image(image, tmp_path / folder / f"{number}.png")
    return {"source": tmp_path / "ann", "reference": tmp_path / "chic"}


@pytest.fixture
def bench(folders):
    with open_bench(tiny_backend, **folders) as opened:
        yield opened


def gradients(bench, variant):
    """What a step of this variant leaves for the optimiser."""
    found = {}

    class Watch:
        def step(self, number):
            found.update({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
            for parameter in parameters.values():
                parameter.grad = None

    optimizer, parameters = bench.optimizer, bench.optimizer.parameters
    bench.optimizer = Watch()
    bench.step(variant, seed=5)
    bench.optimizer = optimizer
    return found


@pytest.mark.slow
def test_spelled_out_attention_has_the_same_maps_and_the_same_output(bench):
    backend, rng = bench.training.backend, torch.Generator().manual_seed(0)
    prompts = [f"a photo of {ROLES['source'].token} person", f"a photo in the {ROLES['reference'].token} style"]
    pipeline, ids = backend.pipeline, tokenize_prompts(backend.pipeline.tokenizer, prompts)
    args = torch.randn(2, 5, 8, 8, generator=rng), 10, pipeline.text_encoder(ids).last_hidden_state
    before = pipeline.unet.attn_processors
    with capture_placeholders(backend, ids, bench.phase.refocusing) as captured:
        fast = pipeline.unet(*args).sample
    positions = {role: find_token(pipeline.tokenizer, ids, placeholder.token) for role, placeholder in ROLES.items()}
    with spelled_out(backend, positions) as maps:
        slow, in_full = pipeline.unet(*args).sample, maps()
    assert pipeline.unet.attn_processors == before
    torch.testing.assert_close(slow, fast, atol=1e-5, rtol=0)
    assert captured.maps.keys() == in_full.maps.keys() == ROLES.keys()
    for role in ROLES:
        assert list(captured.maps[role]) == list(in_full.maps[role])
        for layer, expected in captured.maps[role].items():
            torch.testing.assert_close(in_full.maps[role][layer], expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_capture_beside_and_in_place_of_the_fast_path_teach_the_same(bench):
    beside, in_place = (gradients(bench, VARIANTS[name]) for name in ("refocusing", "prompt-to-prompt"))
    plain = gradients(bench, VARIANTS["plain"])
    assert beside.keys() == in_place.keys() == plain.keys()
    for name in beside:
        torch.testing.assert_close(in_place[name], beside[name], atol=1e-5, rtol=1e-3)
    assert any(not torch.allclose(plain[name], beside[name], atol=1e-5) for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant, rows, judged",
    [
        (Variant(), [3], 0),  # one sample of each task
        (Variant(lora="peft"), [3], 0),
        (Variant(identity=True), [3], 1),
        (Variant(identity=True, pass_per_task=True), [1, 1, 1], 1),
        (VARIANTS["authors' way"], [3, 1], 1),
    ],
)
def test_a_step_runs_what_its_variant_says(bench, variant, rows, judged):
    seen = []
    handle = bench.training.backend.pipeline.unet.register_forward_hook(lambda *args: seen.append(args[1][0].shape[0]))
    before = [p.detach().clone() for p in bench.optimizer.parameters.values()]
    assert bench.step(variant, seed=0) > 0
    handle.remove()
    assert seen == rows
    assert bench.identity_images == judged  # timesteps are below T'
    assert any(not torch.equal(a, b) for a, b in zip(before, bench.optimizer.parameters.values(), strict=True))


@pytest.mark.slow
def test_the_limit_has_no_lora_and_trains_nothing(bench):
    unet = bench.training.backend.pipeline.unet
    before = [p.detach().clone() for p in bench.optimizer.parameters.values()]
    assert bench.step(VARIANTS["bare UNet without LoRA"], seed=0) > 0
    assert bench.training.backend.pipeline.unet is unet
    assert all(torch.equal(a, b) for a, b in zip(before, bench.optimizer.parameters.values(), strict=True))
    assert all(parameter.grad is None for parameter in bench.optimizer.parameters.values())


def test_ratios_are_taken_within_a_round():
    # A machine that slows down by the round: 1, 2, 3, 4 seconds a plain step, refocusing half as much again.
    class Slowing:
        def step(self, variant, seed):
            return (seed - step_cost.WARMUP_STEPS + 1) * (1.5 if variant.refocusing else 1.0)

    costs = step_cost.measure_time(Slowing(), {name: VARIANTS[name] for name in ("plain", "refocusing")}, steps=4)
    same = {"ratio": 1.0, "ratio_quartiles": [1.0, 1.0], "ratio_of_fastest": 1.0}
    half_more = {"ratio": 1.5, "ratio_quartiles": [1.5, 1.5], "ratio_of_fastest": pytest.approx(1.5)}
    assert costs == {"plain": {"seconds": 2.5} | same, "refocusing": {"seconds": 3.75} | half_more}


@pytest.mark.slow
def test_the_command_prints_every_variant_with_its_memory(folders, monkeypatch, capsys):
    monkeypatch.setattr(step_cost, "load_backend", named_tiny)
    step_cost.main(steps=2, variants=("identity",), as_json=True, **folders)
    result = json.loads(capsys.readouterr().out)
    assert list(result["variants"]) == ["plain", "identity"]
    for cost in result["variants"].values():
        assert cost["seconds"] > 0 and cost["peak_mb"] > cost["peak_mb_of_steps"] > 0
    assert result["bars"] == {}  # nothing that they compare was asked for
    assert result["settings"]["backend"] == "tiny" and result["settings"]["samples"] == 3
    assert "identity" in step_cost.table(result)


def test_the_flag_for_json_is_called_json():
    with pytest.raises(ValueError, match="below 2"):
        tyro.cli(step_cost.main, args=["--json", "--steps", "1"])


@pytest.mark.parametrize(
    "options, message",
    [({"variants": ("fast",)}, r"--variants: \['fast'\] unknown"), ({"steps": 1}, "--steps: 1 is below 2")],
)
def test_bad_options_are_named_before_anything_is_loaded(monkeypatch, options, message):
    monkeypatch.setattr(step_cost, "load_backend", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        step_cost.main(**options)

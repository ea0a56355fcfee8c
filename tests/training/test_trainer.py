import ast
import inspect
import json
import math
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.references import peft_layers
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.export import kohya_lora
from mcpkg.inference.generate import generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import LossWeights, Refocusing
from mcpkg.method.identity import JudgedFaces, jitter_landmarks
from mcpkg.method.lora import LORA_TARGETS
from mcpkg.method.methods import (
    CUSTOM_DIFFUSION,
    DREAMBOOTH,
    FOR_OTHER_TOOLS,
    MAGICAPTURE,
    METHODS,
    WITHOUT_REFOCUSING,
)
from mcpkg.method.objective import BatchLoss, training_loss, weighted_sum
from mcpkg.method.prompts import encode_prompts
from mcpkg.method.variations import with_weights
from mcpkg.training.optimizer import PhaseOptimizer, Trainable, learning_rate_fraction
from mcpkg.training.trainer import Training, open_training, personalise
from mcpkg.util.errors import Notice
from tests.helpers.tiny_backend import LANDMARKS, tiny_backend, tiny_portraits
from tests.helpers.tiny_training import short, train, weights_of


@pytest.mark.slow
@pytest.mark.parametrize("method", [MAGICAPTURE, CUSTOM_DIFFUSION, DREAMBOOTH], ids=lambda method: method.name)
def test_the_backend_is_as_before(method):
    before = weights_of(tiny_backend())
    backend, _ = train(short(method))
    after = weights_of(backend)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "<v1>" not in backend.pipeline.tokenizer.get_vocab()
    assert all(parameter.requires_grad for parameter in backend.pipeline.unet.parameters())


def test_the_backend_is_as_before_after_an_error():
    before = weights_of(tiny_backend())
    backend = tiny_backend()
    portraits = tiny_portraits(backend)

    def fail(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        personalise(backend, portraits, portraits, short(MAGICAPTURE), on_step=fail, progress=False)
    after = weights_of(backend)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_method_for_other_tools_predicts_nearly_what_it_did_without_a_prompt():
    changes = []
    for weight in (0.0, 1.0):
        method = with_weights(short(FOR_OTHER_TOOLS, steps=40), "preserved", empty=max(weight, 1e-9))
        backend, adapter = train(method)
        channels, size = backend.pipeline.unet.config.in_channels, backend.attention_size
        noisy = torch.randn(8, channels, size, size, generator=torch.Generator().manual_seed(0))
        t = torch.arange(100, 900, 100)
        text = encode_prompts(backend.pipeline.tokenizer, backend.pipeline.text_encoder, [""] * 8)
        with torch.no_grad():
            before = backend.pipeline.unet(noisy, t, text).sample
            with adapter.applied(backend):
                changes.append((backend.pipeline.unet(noisy, t, text).sample - before).square().mean().item())
    without, preserved = changes
    assert preserved < 0.5 * without


@pytest.mark.slow
@pytest.mark.parametrize("layers, tokens", [*((layers, "all") for layers in LORA_TARGETS), ("all", "placeholders")])
def test_lora_learns_and_exports_what_it_does_in_layers_of_peft(layers, tokens):
    method = short(replace(MAGICAPTURE, lora_layers=layers, lora_tokens=tokens), steps=5)
    losses, exported = [], []
    for others in (nullcontext, peft_layers):
        backend = tiny_backend()
        source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)
        with (
            open_training(backend, source, reference, method, seed=0) as training,
            others(backend.pipeline.unet),
        ):
            losses.append([report.loss for report in training.steps(show_progress=False)])
            exported.append(kohya_lora(training.adapter().lora))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(*exported, atol=1e-3, rtol=0)  # the learning rate is 1e-2


@pytest.mark.slow
def test_a_lora_at_the_words_alone_is_trained_also_while_previews_are_drawn():
    method = short(replace(MAGICAPTURE, lora_layers="cross_attention_kv", lora_tokens="placeholders"))
    _, at_words = train(method)
    learned = [tensor for name, tensor in at_words.lora.items() if ".lora_B." in name]
    assert learned and all(tensor.any() for tensor in learned)  # U starts at 0
    assert at_words.method.lora_tokens == "placeholders"
    _, everywhere = train(replace(method, lora_tokens="all"))
    assert any(not torch.equal(tensor, everywhere.lora[name]) for name, tensor in at_words.lora.items())

    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)
    with open_training(backend, source, reference, method, seed=0) as training:
        for _ in training.steps(show_progress=False):
            generate_portraits(backend, training.live_adapter(), sampling=Sampling(n=1, steps=1))
        with_previews = training.adapter()
    assert all(torch.equal(tensor, with_previews.lora[name]) for name, tensor in at_words.lora.items())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter_to_the_bit():
    _, first = train(short(MAGICAPTURE), seed=3)
    torch.rand(7)  # torch's global state plays no part
    _, again = train(short(MAGICAPTURE), seed=3)
    _, other = train(short(MAGICAPTURE), seed=4)
    assert all(torch.equal(first.lora[name], again.lora[name]) for name in first.lora)
    assert all(torch.equal(first.embeddings[token], again.embeddings[token]) for token in ("<v1>", "<v2>"))
    assert not torch.equal(first.embeddings["<v1>"], other.embeddings["<v1>"])


@pytest.mark.slow
def test_each_phase_trains_what_it_names():
    _backend, adapter = train(short(MAGICAPTURE))
    ups = [tensor for name, tensor in adapter.lora.items() if "lora_B" in name]
    assert ups and all(tensor.abs().sum() > 0 for tensor in ups)
    assert all("attn2" in name for name in adapter.lora)
    assert not adapter.deltas

    embeddings_only = replace(short(MAGICAPTURE), phases=short(MAGICAPTURE).phases[:1])
    _, adapter = train(embeddings_only)
    assert not adapter.lora

    _, adapter = train(short(CUSTOM_DIFFUSION))
    assert adapter.deltas and all(".attn2.to_k." in name or ".attn2.to_v." in name for name in adapter.deltas)
    assert all(delta.abs().sum() > 0 for delta in adapter.deltas.values())


@pytest.mark.slow
def test_a_text_encoder_lora_learns_is_saved_and_draws_at_its_own_strength(tmp_path):
    method = short(replace(MAGICAPTURE, text_lora=True))
    before = weights_of(tiny_backend())
    backend, adapter = train(method)
    after = weights_of(backend)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not hasattr(backend.pipeline.text_encoder, "peft_config")  # another training would warn of it
    of_text = [name for name in adapter.lora if name.startswith("text_encoder.")]
    assert len(of_text) == 2 * 4 * 2  # two layers, four projections, U and V
    assert all(adapter.lora[name].any() for name in of_text if "lora_B" in name)
    again = Adapter.load(adapter.save(tmp_path))
    assert all(torch.equal(again.lora[name], tensor) for name, tensor in adapter.lora.items())

    def drawn(**strength):
        sampling = Sampling(n=1, steps=2, plain_guidance=False, **strength)
        return generate_portraits(backend, again, sampling=sampling).images

    assert torch.equal(drawn(), drawn(text_lora_scale=1.0))
    assert not torch.equal(drawn(), drawn(text_lora_scale=0.0))
    with open_training(backend, *[tiny_portraits(backend, 2)] * 2, method, seed=0) as training:
        for _ in training.steps(show_progress=False):
            pass
        live = generate_portraits(
            backend, training.live_adapter(), sampling=Sampling(n=1, steps=2, plain_guidance=False)
        )
        kept = training.adapter()
    torch.testing.assert_close(
        generate_portraits(backend, kept, sampling=Sampling(n=1, steps=2, plain_guidance=False)).images,
        live.images, atol=1e-4, rtol=0,
    )  # fmt: skip


@pytest.mark.slow
def test_a_text_encoder_lora_has_a_rate_of_its_own():
    method, reports = short(replace(MAGICAPTURE, text_lora=True), steps=1), []
    phases = tuple(replace(phase, text_learning_rate=3e-3) for phase in method.phases)
    train(replace(method, phases=phases), on_step=reports.append)
    assert reports[0].learning_rates == {"embeddings": 1e-2}  # words alone in the first phase
    assert reports[1].learning_rates == {"embeddings": 1e-2, "lora": 1e-2, "text_lora": 3e-3}


@pytest.mark.slow
def test_reports_name_the_terms_of_each_phase():
    reports = []
    train(short(MAGICAPTURE, steps=8, identity_max_timestep=1.0, identity_every=2), on_step=reports.append)
    assert [report.step for report in reports] == [*range(8), *range(8)]
    assert set(reports[0].terms) == {"source", "reference"}
    first, second = reports[8:10]
    assert set(first.terms) == {"source", "reference", "composed", "refocusing", "identity"}
    assert set(second.terms) == {"source", "reference", "composed", "refocusing"}


@pytest.mark.slow
def test_a_term_of_weight_zero_is_not_computed():
    reports = []
    train(short(WITHOUT_REFOCUSING), on_step=reports.append)
    assert all("refocusing" not in report.terms for report in reports)


@pytest.mark.slow
def test_predictions_without_a_face_are_counted_and_left_out():
    backend = tiny_backend()
    portraits = tiny_portraits(backend)

    class Blind(type(backend.face_parser)):
        def parse(self, images):
            faces = super().parse(images)
            return replace(faces, found=torch.zeros_like(faces.found))

    backend.face_parser = Blind()
    reports = []
    method = short(MAGICAPTURE, identity_max_timestep=1.0)
    adapter = personalise(backend, portraits, portraits, method, on_step=reports.append, progress=False)
    assert all("identity" not in report.terms for report in reports)
    assert adapter.record["no_face_images"] == adapter.record["identity_images"] == 3 * 2


@pytest.mark.slow
def test_losses_fall():
    method = short(MAGICAPTURE, steps=60)
    reports = []
    train(replace(method, phases=method.phases[1:]), on_step=reports.append)
    early, late = (sum(report.loss for report in part) for part in (reports[:15], reports[-15:]))
    assert late < early


@pytest.mark.slow
def test_half_precisions_train_and_other_precisions_are_refused():
    train(short(MAGICAPTURE, steps=1), precision="bf16")
    train(short(MAGICAPTURE, steps=1), precision="fp16")
    with pytest.raises(ValueError, match="precision: 'fp8' unknown"):
        train(short(MAGICAPTURE, steps=1), precision="fp8")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_runs(method):
    _, adapter = train(short(method, steps=1))
    assert adapter.method.name == method.name and set(adapter.embeddings) == {"<v1>", "<v2>"}


@pytest.mark.slow
def test_learning_rates_rise_and_then_fall_to_the_last_step():
    # 40 steps, of which 2 warm up; then 38 fall: (40 - step) / 38
    assert [learning_rate_fraction(step, 40, 0.05) for step in (0, 1, 2, 21, 39)] == [0.5, 1.0, 1.0, 0.5, 1 / 38]
    reports = []
    train(short(MAGICAPTURE), on_step=reports.append)
    assert reports[0].learning_rates == {"embeddings": 1e-2}
    assert reports[-1].learning_rates == {"embeddings": 1e-2 / 2, "lora": 1e-2 / 2}  # the last of 3, 1 of them warm-up
    assert all(report.seconds > 0 for report in reports)


def test_accumulated_passes_are_averaged_into_one_step(monkeypatch):
    backend = tiny_backend()
    portraits = tiny_portraits(backend)
    slopes = iter((1.0, 3.0))
    with open_training(
        backend, portraits, portraits, replace(short(MAGICAPTURE), accumulation_steps=2), seed=0
    ) as training:

        def loss_of_known_slope(*_):
            loss = next(slopes) * (1 + (training.embeddings.weight - training.embeddings.weight.detach()).sum())
            return BatchLoss(loss, {"source": loss.detach()[None]}, None, JudgedFaces(torch.zeros(0), 1, 1))

        monkeypatch.setattr("mcpkg.training.trainer.training_loss", loss_of_known_slope)
        report = next(training.steps(show_progress=False))
    # every value's gradient is (1 + 3) / 2 = 2
    assert report.gradient_norm == pytest.approx(2 * training.embeddings.weight.numel() ** 0.5)
    assert report.loss == report.terms["source"] == 2.0
    assert report.no_face_images == training.progress.no_face_images == training.progress.identity_images == 2


@pytest.mark.slow
def test_the_bar_in_a_terminal_shows_the_loss_terms(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    backend = tiny_backend()
    portraits = tiny_portraits(backend)
    personalise(backend, portraits, portraits, short(MAGICAPTURE))
    bar = capsys.readouterr().err
    assert "MagiCapture" in bar and "6/6" in bar
    assert "phase 2 of 2" in bar and "refocusing 0." in bar and "composed" in bar


@pytest.mark.slow
def test_a_state_of_another_method_is_refused():
    backend = tiny_backend()
    portraits = tiny_portraits(backend)
    with open_training(backend, portraits, portraits, short(MAGICAPTURE), seed=0) as training:
        state = training.state()
    with open_training(backend, portraits, portraits, short(CUSTOM_DIFFUSION), seed=0) as training:
        with pytest.raises(ValueError, match="parameters of another method or backend"):
            training.restore(state)
    lonely = replace(state, tensors={name: x for name, x in state.tensors.items() if "generator" not in name})
    with open_training(backend, portraits, portraits, short(MAGICAPTURE), seed=0) as training:
        with pytest.raises(ValueError, match="Use as many processes as before"):
            training.restore(lonely)


def test_a_state_is_a_copy_that_training_does_not_touch():
    backend = tiny_backend()
    portraits = tiny_portraits(backend)
    with open_training(backend, portraits, portraits, short(MAGICAPTURE), seed=0) as training:
        steps = training.steps(show_progress=False)
        next(steps)
        state = training.state()
        kept = {name: x.clone() for name, x in state.tensors.items()}
        next(steps)
    assert state.progress.step == 1
    assert all(torch.equal(kept[name], x) for name, x in state.tensors.items())


ONE_OF_TWO = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from tests.training.test_run_folder import Killed, killing_after, run, same
from tests.training.test_trainer import norm_of_gradients
folder, process = Path(sys.argv[1]), PartialState(cpu=True).process_index
print("norm", norm_of_gradients(1.0 + process))
whole = run(folder / "whole")
try:
    run(folder / "killed", on_step=killing_after(3), save_every=2)
except Killed:
    pass
assert same(run(folder / "killed", save_every=2), whole)
print("embeddings", whole.embeddings["<v1>"].flatten().tolist())
"""


def norm_of_gradients(value):
    """The norm that an optimiser step sees when this process's only gradient is the value."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    trainable = Trainable({"embeddings": {"placeholders": parameter}}, {})
    method = short(MAGICAPTURE)
    optimizer = PhaseOptimizer(method.phases[0], method, trainable)
    parameter.grad = torch.tensor([value])
    return optimizer.step(0)[1]


@pytest.mark.slow
def test_two_processes_average_gradients_end_alike_and_resume(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, tmp_path], cwd=Path(__file__).parents[2], text=True,
            env=os.environ | world | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240)[0].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1] and said[0][0] == "norm 1.5"  # of gradients 1 and 2
    embeddings = torch.tensor(json.loads(said[0][1].removeprefix("embeddings ")))
    assert not torch.equal(embeddings, train(short(MAGICAPTURE, steps=4))[1].embeddings["<v1>"].flatten())


@pytest.mark.slow
def test_a_training_in_fp16_goes_on_to_the_same_bits():
    backend = tiny_backend()
    portraits, method = tiny_portraits(backend), short(MAGICAPTURE, steps=4)

    def ends(state=None):
        with open_training(backend, portraits, portraits, method, 0, "fp16") as training:
            if state is not None:
                training.restore(state)
            states = [training.state() for _ in training.steps(False)]
            return training.adapter(), states

    whole, states = ends()
    again, _ = ends(states[1])
    assert {"moment scaler scale", "moment scaler _growth_tracker"} <= states[1].tensors.keys()
    assert all(torch.equal(whole.lora[name], again.lora[name]) for name in whole.lora)


def test_a_step_whose_gradient_overflows_in_fp16_is_left_out():
    parameter = torch.nn.Parameter(torch.zeros(1))
    method = short(MAGICAPTURE)
    optimizer = PhaseOptimizer(
        method.phases[0], method, Trainable({"embeddings": {"placeholders": parameter}}, {}), "fp16"
    )
    scale = optimizer.scaler.get_scale()
    optimizer.backward((parameter * torch.inf).sum())
    optimizer.step(0)
    assert parameter.item() == 0 and optimizer.scaler.get_scale() == scale / 2
    optimizer.backward(parameter.sum())
    optimizer.step(1)
    assert parameter.item() < 0


def test_an_optimizer_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match=r"'adamw8bit': needs bitsandbytes, .* pip install 'mcpkg\[gpu\]'"):
        train(short(MAGICAPTURE, optimizer="adamw8bit"))


def test_a_gradient_that_is_not_finite_changes_nothing(monkeypatch):
    backend = tiny_backend()
    portraits = tiny_portraits(backend)
    with open_training(backend, portraits, portraits, short(MAGICAPTURE), seed=0) as training:
        before = training.embeddings.weight.detach().clone()

        def loss_of_infinite_slope(*_):
            loss = 1 + (training.embeddings.weight - training.embeddings.weight.detach()).abs().sqrt().sum()
            return BatchLoss(loss, {"source": loss.detach()[None]}, None, JudgedFaces(torch.zeros(0), 1, 1))

        monkeypatch.setattr("mcpkg.training.trainer.training_loss", loss_of_infinite_slope)
        with pytest.warns(Notice, match="phase 1, step 0: a loss or gradient is not finite, and is left out"):
            report = next(training.steps(show_progress=False))
        assert torch.equal(training.embeddings.weight, before)
    assert not math.isfinite(report.gradient_norm) and training.progress.left_out == 1


def test_the_sum_is_over_tasks_of_means_over_samples():
    terms = {
        "source": torch.tensor([1.0, 3.0]),
        "identity": torch.tensor([0.5]),
        "refocusing": torch.tensor([1.0, 1.0, 2.0, 4.0]),
    }
    # (1 + 3) / 2 + 10 * 0.5 / 1 + 2 * (1 + 1 + 2 + 4) / 2 = 2 + 5 + 8
    phase = replace(MAGICAPTURE.phases[1], weights=LossWeights(identity=10.0), refocusing=Refocusing(weight=2.0))
    assert weighted_sum(terms, phase, 2).item() == 15.0


def test_jitter_keeps_the_shape_of_a_face(generator):
    faces = LANDMARKS.expand(50, -1, -1)
    moved = jitter_landmarks(faces, generator)
    eyes, mouth = (lambda points, i: (points[:, i] - points[:, i + 1]).norm(dim=1)), 3
    assert torch.allclose(eyes(moved, 0) / eyes(moved, mouth), eyes(faces, 0) / eyes(faces, mouth), atol=1e-4)
    assert 0 < (moved - faces).abs().mean() < 0.02


def test_one_step_of_training_is_read_on_one_page():
    """From the batch to the optimiser's step, signatures and docstrings included."""
    lines = 0
    for function in (Training._take_step, training_loss):
        function = inspect.unwrap(function)  # the file, not what checks the shapes
        tree = ast.parse(Path(function.__code__.co_filename).read_text())
        (node,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function.__name__)
        lines += node.end_lineno - node.lineno + 1
    assert lines <= 60

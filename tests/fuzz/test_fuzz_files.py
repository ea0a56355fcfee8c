"""Malformed adapters, checkpoints, run folders and scores: each is refused in one line, and changes nothing."""

import json
import re

import pytest
from safetensors.torch import load_file, save_file

from mcpkg.inference import adapter_files
from mcpkg.inference.adapter import LORA_FILE, SUMMARY_FILE, Adapter
from mcpkg.method.config import to_dict
from mcpkg.method.methods import CUSTOM_DIFFUSION, MAGICAPTURE
from mcpkg.metrics.grid import read_outcome
from mcpkg.metrics.grid.table import read_plan
from mcpkg.metrics.grid.worker import run_cells
from mcpkg.metrics.scores import read_scores
from mcpkg.training.checkpoints import load_checkpoint, read_steps, save_checkpoint
from mcpkg.training.progress import TrainingState
from mcpkg.training.run_file import FORMAT, read_run
from mcpkg.training.trainer import open_training
from mcpkg.util.schema import sealed
from tests.fuzz.harness import judge
from tests.fuzz.mutations import damaged, tensor_variants, variants
from tests.helpers.adapter_folder import as_before_digests, change_summary
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_grid import METHODS as METHODS_OF_A_GRID, tiny_grid
from tests.helpers.tiny_training import short

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]
METHODS = {"lora": MAGICAPTURE, "weights": CUSTOM_DIFFUSION}


@pytest.fixture(scope="module")
def backend():
    return tiny_backend()


def saved(tmp_path, method=MAGICAPTURE):
    return tiny_adapter(tiny_backend(), method).save(tmp_path / "adapter")


def use(folder, backend):
    """What every command does first with an adapter: load it, and put it into the models."""
    with Adapter.load(folder).applied(backend):
        pass


def flags_of(backend):
    """What a half-applied adapter would leave behind."""
    unet, embedding = backend.pipeline.unet, backend.pipeline.text_encoder.get_input_embeddings()
    return len(list(unet.modules())), embedding.num_embeddings, len(backend.pipeline.tokenizer)


ACCEPTED_FIELDS = [
    # A seed was any number in earlier versions; the model's name, the prompt and the record are only shown.
    "seed=(minus|huge)", "(backend|prompt)=text", "record=(object|more)",
    r"record\.\w+=(deleted|minus|half|huge)",
    # Words are looked up only when a placeholder is new; the names of methods are free.
    r"placeholders\.\w+\.initializer=text", "method.name=text",
    # Earlier versions lacked some fields, so that these have a default. Digests show what is lost by damage.
    r"placeholders\.\w+\.vectors=deleted", r"method\.phases\.\d\.\w+=deleted", r"method\.phases\.\d\.\w+\.\w+=deleted",
    r"method\.\w+=deleted", r"method\.phases\.1\.weights=object", r"method\.phases\.\d\.refocusing=object",
    # Another method, which learns the same tensors, or the same method without one part.
    r"method\.phases\.0=deleted", r"method\.(masked|flip|one_task|sampled_latents)=true", "method.gradient_clip=huge",
    r"method\.(composed_source|identity_max_timestep|identity_warmup|weight_decay|gradient_clip)=half",
    r"method\.(lora_noise|warmup|colour_jitter|mask_floor)=half", r"method\.reference_initializer=text",
    r"method\.phases\.\d\.(weights\.\w+|refocusing\.weight|learning_rate|embedding_learning_rate|max_timestep)=half",
    r"method\.phases\.\d\.(text_learning_rate|early_reference|embedding_norm)=half",
]  # fmt: skip
NEEDED_FIELDS = [
    r"method\.(name|phases)=deleted",
    r"method\.phases\.\d\.(steps|trains|tasks)=deleted",
    # A phase learns something, from something; what it learned is there. Identity needs the composed task.
    r"method\.phases\.0\.trains\.0=deleted",
    r"method\.phases\.1\.(trains\.0|tasks\.2)=deleted",
    r"method\.phases\.0\.weights\.identity=(deleted|half)",
]


def accepted_field(name):
    """Whether a changed field of adapter.json leaves an adapter that is valid, if one of another method."""
    fits = [any(re.fullmatch(one, name) for one in of) for of in (ACCEPTED_FIELDS, NEEDED_FIELDS)]
    return fits == [True, False]


@pytest.mark.parametrize("with_digests", [True, False], ids=["sealed", "before digests"])
def test_adapter_json(tmp_path, backend, with_digests):
    folder = saved(tmp_path)
    if not with_digests:
        as_before_digests(folder)
    file = folder / SUMMARY_FILE
    values = json.loads(file.read_text())
    values.pop("sha256", None)

    def inputs():
        for name, changed in list(variants(values))[:: 1 if with_digests else 6]:

            def read(changed=changed):
                text = json.dumps(changed)
                try:
                    text = json.dumps(sealed(changed)) if with_digests else text
                except ValueError:  # NaN, which has no digest
                    text = json.dumps(changed | {"sha256": "0" * 64})
                file.write_text(text)
                use(folder, backend)

            yield name, read

    problems = judge("adapter.json", inputs(), accepted_field, lambda: flags_of(backend))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("kind", METHODS)
def test_tensors_of_adapters(tmp_path, backend, kind):
    folder = saved(tmp_path, METHODS[kind])
    for file in sorted(folder.glob("*.safetensors")):
        whole = load_file(file)

        def inputs(file=file, whole=whole):
            for name, tensors in tensor_variants(whole, list(whole)[:: max(1, len(whole) // 6)]):

                def read(tensors=tensors):
                    save_file({key: x.contiguous() for key, x in tensors.items()}, file)
                    change_summary(folder)
                    use(folder, backend)

                yield f"{file.name} {name}", read

        problems = judge("tensors of adapters", inputs(), unchanged=lambda: flags_of(backend))
        assert not problems, "\n".join(problems)
        save_file(whole, file)


def test_bytes_of_adapters(tmp_path, backend):
    folder = saved(tmp_path)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()

        def inputs(file=file, whole=whole):
            for name, data in damaged(whole, flips=50, cuts=12):
                yield f"{file.name} {name}", lambda data=data: (file.write_bytes(data), use(folder, backend))

        problems = judge("bytes of adapters", inputs(), unchanged=lambda: flags_of(backend))
        assert not problems, "\n".join(problems)
        file.write_bytes(whole)


@pytest.fixture(scope="module")
def training():
    """A training that has taken three of its steps, into the second phase."""
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 2)
    with open_training(backend, portraits, portraits, short(MAGICAPTURE, steps=2), seed=0) as training:
        for _ in zip(range(3), training.steps(show_progress=False)):
            pass
        yield training


def learned(training):
    named = training.trainable.named()
    return {name: x.detach().clone().sum().item() for name, x in named.items()}, training.progress.step


PROGRESS = ("phase", "step", "identity_images", "no_face_images", "seconds", "left_out", "left_out_in_a_row")


def accepted_progress(name):
    """Counters that are only shown may be any number from 0; earlier versions lacked some."""
    path, _, what = name.partition("=")
    if path in ("identity_images", "no_face_images"):
        return what in ("huge", "beyond", "deleted")
    accepted = {"left_out": ("huge", "beyond", "deleted"), "left_out_in_a_row": ("huge", "beyond", "deleted")}
    accepted |= {"seconds": ("half", "huge", "deleted"), "": ()}
    return what in accepted.get(path, ())


def test_checkpoints(tmp_path, training):
    state, file = training.state(), tmp_path / "checkpoint.safetensors"
    names = sorted(state.tensors)
    chosen = names[:: len(names) // 25] + [name for name in names if "placeholders" in name or "generator" in name]

    def of_tensors():
        for name, tensors in tensor_variants(state.tensors, chosen):

            def read(tensors=tensors):
                save_checkpoint(TrainingState({k: x.contiguous() for k, x in tensors.items()}, state.progress), file)
                training.restore(load_checkpoint(file))

            yield name, read

    def of_bytes():
        save_checkpoint(state, file)
        whole = file.read_bytes()
        for name, data in damaged(whole, flips=150, cuts=20):
            yield name, lambda data=data: (file.write_bytes(data), training.restore(load_checkpoint(file)))

    for group, inputs in (("tensors of checkpoints", of_tensors()), ("bytes of checkpoints", of_bytes())):
        problems = judge(group, inputs, unchanged=lambda: learned(training))
        assert not problems, "\n".join(problems)


def test_progress_of_checkpoints(tmp_path, training):
    """With digests that are right."""
    from mcpkg.training import checkpoints

    state, file = training.state(), tmp_path / "checkpoint.safetensors"
    progress = {name: getattr(state.progress, name) for name in PROGRESS}

    def inputs():
        for name, changed in variants(progress):

            def read(changed=changed):
                values = json.dumps({"progress": changed, "sha256": "0"})
                checked = checkpoints.check_json(values, checkpoints._State, file, "").progress
                save_checkpoint(TrainingState(state.tensors, checked), file)
                training.restore(load_checkpoint(file))

            yield name, read

    problems = judge("progress", inputs(), accepted_progress)
    assert not problems, "\n".join(problems)


def test_run_json(tmp_path):
    """Fields are held to their types; what is trained is compared with what was."""
    from mcpkg.training.run_folder import check_folder

    file = tmp_path / "run.json"
    settings = json.loads(json.dumps({"method": to_dict(MAGICAPTURE), "seed": 0, "source": {"0.png": "00ff"}}))
    session = {"from_step": 0, "device": "cpu", "threads": 1, "machine": "x86_64", "python": "3.11", "versions": {}}
    values = {"format": FORMAT, "settings": settings, "sessions": [session]}

    def inputs():
        for name, changed in variants(values):

            def read(changed=changed):
                try:
                    text = json.dumps(sealed(changed))
                except ValueError:  # NaN, which has no digest
                    text = json.dumps(changed | {"sha256": "0" * 64})
                file.write_text(text)
                read_run(file)
                check_folder(tmp_path, settings)

            yield name, read

    def accepted(name):
        """Sessions are notes, of which only the types are known; a number of threads is not judged."""
        notes = r"sessions\.0\.(device|machine|python)=text|sessions\.0\.from_step=huge|sessions\.0\.from_step=beyond"
        notes += r"|sessions\.0\.threads=(minus|huge|beyond)|sessions(\.0)?=(list|deleted)|sessions\.0\.versions=object"
        same = r"|settings\.method\.masked=true|settings\.method\.identity_max_timestep=half"
        return bool(re.fullmatch(notes + same, name)) and name not in ("sessions=deleted", "sessions.0=list")

    problems = judge("run.json", inputs(), accepted)
    file.write_text(json.dumps(sealed(values)))
    whole = file.read_bytes()
    cut = ((name, lambda data=data: (file.write_bytes(data), check_folder(tmp_path, settings)))
           for name, data in damaged(whole, flips=150, cuts=20))  # fmt: skip
    problems += judge("bytes of run.json", cut)
    assert not problems, "\n".join(problems)


def test_scores_json(tmp_path):
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 8}
    values = {"seed": 0, "methods": {"MagiCapture": {"identity": interval, "n_images": 8}}}
    file = tmp_path / "scores.json"

    def inputs():
        for name, changed in variants(values):
            yield name, lambda changed=changed: (file.write_text(json.dumps(changed)), read_scores(file, "MagiCapture"))

    def accepted(name):
        """A mean may be any number, or none; what is not read is not looked at; the method may be missing."""
        path, _, what = name.partition("=")
        mean = path.endswith((".mean", ".low", ".high", ".n_images")) and what in ("null", "minus", "half", "huge")
        count = path.endswith(".identity.n") and what in ("minus", "huge", "beyond")
        score = path.endswith(".identity") and what in ("null", "minus", "half", "huge")
        gone = path in ("methods.MagiCapture", "methods.MagiCapture.identity", "methods.MagiCapture.n_images")
        gone = gone and what == "deleted"
        empty = path in ("methods", "methods.MagiCapture") and what == "object"
        return (
            mean or count or score or gone or empty or path == "seed" or name in ("=more", "methods.MagiCapture=more")
        )

    problems = judge("scores.json", inputs(), accepted)
    assert not problems, "\n".join(problems)


def test_files_of_a_grid(tmp_path):
    grid = tiny_grid(tmp_path, METHODS_OF_A_GRID[2:])
    run_cells(grid)
    (folder,) = (grid.out / "cells").iterdir()
    readers = {
        grid.out / "grid.json": lambda: read_plan(grid.out),
        folder / "scores.json": lambda: read_outcome(folder),
        folder / "drawn.safetensors": lambda: read_outcome(folder),
    }

    def inputs(file, whole, read):
        for name, data in damaged(whole, flips=60, cuts=20):
            yield f"{file.name}: {name}", lambda data=data: (file.write_bytes(data), read())

    problems = []
    for file, read in readers.items():
        whole = file.read_bytes()
        sealed_file = file.name != "grid.json"  # which is written anew whenever the grid is run
        problems += [
            problem
            for problem in judge("files of a grid", inputs(file, whole, read))
            if sealed_file or "accepted" not in problem
        ]
        file.write_bytes(whole)
    assert not problems, "\n".join(problems)


def test_the_history(tmp_path):
    """A damaged line ends the history with a notice; nothing is refused, for it is only drawn."""
    line = {"phase": 0, "step": 0, "steps": 2, "loss": 0.5, "terms": {"source": 0.5}, "learning_rates": {"lora": 1e-3},
            "gradient_norm": 1.0, "identity_images": 0, "no_face_images": 0, "left_out": 0, "seconds": 0.1}  # fmt: skip
    from mcpkg.viz.sheets import loss_sheet

    def inputs():
        for name, changed in variants(line):

            def read(changed=changed):
                lines = [line, changed, line]
                (tmp_path / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)))
                steps = read_steps(tmp_path)
                assert len(steps) in (1, 3)
                loss_sheet({"one": steps})

            yield name, read

    problems = judge("steps.jsonl", inputs(), lambda name: True)
    assert not problems, "\n".join(problems)


def test_the_fuzzer_finds_a_reader_without_its_checks(tmp_path, backend, monkeypatch):
    """Otherwise all of the above could not fail: without its checks, an adapter without half its LoRA is accepted."""
    folder = saved(tmp_path)
    save_file(
        {name: x for name, x in load_file(folder / LORA_FILE).items() if "lora_A" not in name}, folder / LORA_FILE
    )
    change_summary(folder)
    inputs = [("without lora_A", lambda: use(folder, backend))]
    assert judge("the fuzzer itself", inputs) == []
    monkeypatch.setattr(adapter_files, "_check_lora", lambda *_: None)
    monkeypatch.setattr(Adapter, "check_fit", lambda *_: None)
    (problem,) = judge("the fuzzer itself", inputs)
    assert "without lora_A: accepted, should be refused" in problem or "traceback" in problem
    (problem,) = judge("the fuzzer itself", [("a bug", lambda: {}["missing"])])
    assert "traceback: KeyError" in problem

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from shutil import copytree

import pytest
import torch

import mcpkg
from mcpkg.cli import __main__ as cli
from mcpkg.cli.overrides import Overrides, RefocusingOverrides, WeightOverrides, apply_overrides
from mcpkg.cli.results import command_line
from mcpkg.data.image_files import read_image
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.provenance import read_provenance
from mcpkg.method.config import NO_REFOCUSING, REFOCUSING_FORMS, Refocusing
from mcpkg.method.methods import MAGICAPTURE, WITHOUT_IDENTITY, WITHOUT_REFOCUSING
from mcpkg.metrics.restoration_cost import warn_of_cost
from mcpkg.util.images import save_image
from tests.helpers.tiny_folders import quick_backend, write_pair, write_pictures

ROOT = Path(mcpkg.__path__[0]).parent


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr("mcpkg.backends.load_backend", quick_backend)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Pictures, and a run trained on them that is not drawn from yet."""
    folder = tmp_path_factory.mktemp("run")
    pair = write_pair(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcpkg.backends.load_backend", quick_backend)
        cli.main(["train", *on(pair), "--out", str(folder / "full"), "--n", "0"])
    return folder, pair


def on(pair):
    return ["--source", str(pair[0]), "--reference", str(pair[1])]


def refused(capsys, *args):
    """The one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1), err
    return err


def test_help_comes_without_loading_torch():
    """The bar is about a second; the user time is measured, for this machine may have other things to do."""
    code = "import sys; from mcpkg.cli import __main__ as cli; assert 'torch' not in sys.modules; cli.main(['--help'])"
    started = os.times().children_user
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.times().children_user - started < 1.5
    assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_every_option(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--json" in shown or name == "demo"
    blocks = list(shown.split("│ --")[1:])
    for block in blocks:  # a flag and its type take one line or one word; a sentence is longer
        assert len(" ".join(block.replace("│", " ").split()).split()) > 4, block


@pytest.mark.slow
def test_training_draws_scores_and_reports_and_is_read_only_when_repeated(run, capsys):
    folder, pair = run
    args = ["train", *on(pair), "--out", str(folder / "drawn"), "--n", "2", "--json", "--consent", "Ann agreed."]
    cli.main(args)
    first = json.loads(capsys.readouterr().out)
    files = {path.name for path in (folder / "drawn").iterdir()}
    assert files >= {"adapter", "portraits", "scores.json", "report.html"}
    assert files >= {"portraits.png", "attention.png", "losses.png"}
    assert "Ann agreed." in Path(first["report"]).read_text()
    assert first["scores"]["n_images"] == 2
    weights = (folder / "drawn" / "adapter" / "pytorch_lora_weights.safetensors").stat().st_mtime_ns
    cli.main(args)
    assert json.loads(capsys.readouterr().out)["scores"]["identity"] == first["scores"]["identity"]
    assert (folder / "drawn" / "adapter" / "pytorch_lora_weights.safetensors").stat().st_mtime_ns == weights


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_the_report_says_how_it_was_chosen(run, capsys):
    folder, pair = run
    out = folder / "best"
    cli.main(["train", *on(pair), "--out", str(out), "--n", "1", "--keep-best", "identity",
              "--keep-best-every", "1", "--phase-steps", "1", "2", "--json"])  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    scores = [json.loads(line) for line in (out / "checkpoint_scores.jsonl").read_text().splitlines()]
    best = max(scores, key=lambda line: line["score"])
    assert [line["step"] for line in scores] == [2, 3]
    assert (answer["record"]["best_step"], answer["record"]["best_identity"]) == (best["step"], best["score"])
    cli.main(["evaluate", *on(pair), "--adapter", str(out), "--out", str(folder / "judged"), "--n", "1"])
    for report in (out / "report.html", folder / "judged" / "report.html"):
        assert "judged too well by that same score" in report.read_text()


def test_an_interval_of_scores_without_a_score_is_refused_before_anything_is_loaded(run, capsys, monkeypatch):
    folder, pair = run
    monkeypatch.setattr("mcpkg.backends.load_backend", lambda *_: pytest.fail("loaded"))
    message = refused(capsys, "train", *on(pair), "--out", folder / "none", "--keep-best-every", "5")
    assert "--keep-best-every: no best checkpoint is kept. Name its score" in message
    assert not (folder / "none").exists()


@pytest.mark.slow
def test_a_recipe_replaces_the_backends_own_settings_and_its_price_is_told_first(run, capsys, monkeypatch):
    folder, pair = run
    args = ["train", "--backend", "sd15", *on(pair), "--n", "0", "--json", "--phase-steps", "1", "1"]
    cli.main([*args, "--recipe", "authors", "--out", str(folder / "authors")])
    answer, told = capsys.readouterr()
    assert told.startswith("price of this training: ") and "in minutes: T4 " in told
    assert json.loads(answer)["method"] == "MagiCapture (recipe authors) (phase steps 1 1)"
    method = Adapter.load(folder / "authors" / "adapter").method
    assert method.one_task and method.text_lora and method.templates == "authors"
    monkeypatch.setattr("mcpkg.backends.load_backend", lambda *_: pytest.fail("loaded"))
    for wrong, message in (
        (
            ["--backend", "mini", "--recipe", "colab"],
            "error: --recipe: 'colab' is none of backend 'mini'. Give backend sd15",
        ),
        (["--recipe", "authors", "--method", "dreambooth"], "error: --recipe: it is for MagiCapture and its ablations"),
        (["--recipe", "authors", "--vectors", "33"], "error: --vectors: 33 is above 32"),
    ):
        assert message in refused(capsys, *args, "--out", folder / "none", *wrong)


@pytest.mark.slow
def test_fields_of_the_method_can_be_given(run, capsys):
    folder, pair = run
    out = folder / "changed"
    cli.main(["train", *on(pair), "--out", str(out), "--n", "0", "--lora-rank", "2", "--weights.identity", "0.5",
              "--refocusing.weight", "0.25", "--refocusing.form", "mask", "--phase-steps", "2", "1"])  # fmt: skip
    method = Adapter.load(out / "adapter").method
    assert [(phase.refocusing.weight, phase.refocusing.form) for phase in method.phases] == [
        (0, "mask"), (0.25, "mask")]  # fmt: skip
    assert (method.lora_rank, [phase.steps for phase in method.phases]) == (2, [2, 1])
    assert [phase.weights.identity for phase in method.phases] == [0, 0.5]
    assert method.name == (
        "MagiCapture (phase steps 2 1; lora rank 2; identity 0.5; refocusing weight 0.25; refocusing form mask)"
    )
    assert "of another" not in refused(capsys, "train", *on(pair), "--out", out, "--n", 0)  # other settings: refused


def test_a_change_without_effect_is_refused():
    none = Overrides(), WeightOverrides(), RefocusingOverrides()
    with pytest.raises(ValueError, match="--refocusing.weight: without refocusing has no such term"):
        apply_overrides(WITHOUT_REFOCUSING, *none[:2], RefocusingOverrides(weight=1.0))
    with pytest.raises(ValueError, match="--refocusing.form: without refocusing has no such term"):
        apply_overrides(WITHOUT_REFOCUSING, *none[:2], RefocusingOverrides(form="fraction"))
    with pytest.raises(ValueError, match="--weights.identity: without identity has no such term"):
        apply_overrides(WITHOUT_IDENTITY, Overrides(), WeightOverrides(identity=1.0), RefocusingOverrides())
    with pytest.raises(ValueError, match="--phase-steps: 3 given, and MagiCapture has 2 phases"):
        apply_overrides(MAGICAPTURE, Overrides(phase_steps=(1, 2, 3)), *none[1:])
    with pytest.raises(ValueError, match="--lora-rank: 0 is below 1"):
        apply_overrides(MAGICAPTURE, Overrides(lora_rank=0), *none[1:])
    with pytest.raises(ValueError, match="--refocusing.weight: -1.0 is below 0"):
        apply_overrides(MAGICAPTURE, *none[:2], RefocusingOverrides(weight=-1.0))
    assert apply_overrides(MAGICAPTURE, *none) is MAGICAPTURE


def test_refocusing_changes_where_the_method_has_it():
    given = RefocusingOverrides(weight=1.0, scale="none")
    method = apply_overrides(MAGICAPTURE, Overrides(), WeightOverrides(), given)
    assert [phase.refocusing for phase in method.phases] == [NO_REFOCUSING, Refocusing(1.0, "mask", "none")]
    assert method.name == "MagiCapture (refocusing weight 1.0; refocusing scale none)"
    assert [phase.weights for phase in method.phases] == [phase.weights for phase in MAGICAPTURE.phases]
    with pytest.raises(ValueError, match="--refocusing.scale: 'none' is for form 'mask' only"):
        apply_overrides(MAGICAPTURE, Overrides(), WeightOverrides(), RefocusingOverrides(form="fraction", scale="none"))


def test_help_lists_the_registered_forms_without_loading_torch():
    """In a process of its own: here, a test may have imported their functions already."""
    code = (
        "import sys; from mcpkg.cli import __main__ as cli\n"
        "try: cli.main(['train', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    offered = re.search(r"--refocusing\.form \{(.*?)\}", done.stdout, re.DOTALL)[1]
    forms = set(re.findall(r"\w+", offered))
    assert "mask" in forms and forms == {"None", *REFOCUSING_FORMS.names}
    assert all(callable(REFOCUSING_FORMS[name]) for name in REFOCUSING_FORMS.names)


def test_generated_files_are_named_on_standard_output(run, capsys):
    folder, _ = run
    cli.main(["generate", "--adapter", str(folder / "full"), "--out", str(folder / "new"), "--steps", "2",
              "--seeds", "3", "7", "--edit", "with red hat", "--restore"])  # fmt: skip
    files = capsys.readouterr().out.split()
    assert [Path(file).name for file in files] == ["seed_00003.png", "seed_00007.png"]
    facts = read_provenance(files[1])
    assert facts["seed"] == 7 and facts["prompt"].endswith(" with red hat") and facts["restored"] == 1


@pytest.mark.slow
def test_restoration_has_a_strength_and_tells_its_price(run, capsys, monkeypatch):
    folder, pair = run
    generate = ["generate", "--adapter", str(folder / "full"), "--steps", "2", "--seeds", "3"]
    strengths = {"none": "0", "half": "0.5", "all": "1"}
    for name, strength in strengths.items():
        args = ["--out", str(folder / name), "--restore", "--restore-strength", strength, "--source", str(pair[0])]
        cli.main([*generate, *args])
    assert read_provenance(folder / "half" / "seed_00003.png")["restored"] == 0.5
    none, half, full = (read_image(folder / name / "seed_00003.png", 64) for name in strengths)
    assert (half - (none + full) / 2).abs().max() < 2 / 255
    monkeypatch.setattr("mcpkg.metrics.restoration_cost.warn_of_cost", partial(warn_of_cost, threshold=-1.0))
    capsys.readouterr()
    cli.main([*generate, "--out", str(folder / "cost"), "--restore", "--source", str(pair[0])])
    likeness, notice = capsys.readouterr().err.splitlines()
    assert likeness.startswith("likeness to the source: ")
    assert notice.startswith("notice: restoration lowers the similarity to the source from ")
    assert "not between 0 and 1" in refused(
        capsys, *generate, "--out", folder / "no", "--restore", "--restore-strength", 2
    )
    assert "are for --restore" in refused(capsys, *generate, "--out", folder / "no", "--source", pair[0])


@pytest.mark.slow
def test_two_runs_are_compared(run, capsys):
    folder, pair = run
    cli.main(["train", *on(pair), "--out", str(folder / "without"), "--n", "0", "--method", "without-refocusing"])
    capsys.readouterr()
    cli.main(["evaluate", *on(pair), "--adapter", str(folder / "full"), "--against", str(folder / "without"),
              "--out", str(folder / "scores"), "--n", "2", "--steps", "2", "--json"])  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["methods"]) == ["without refocusing", "MagiCapture"]
    assert "After: MagiCapture" in Path(answer["report"]).read_text()


@pytest.mark.slow
def test_scores_in_other_tools_go_to_the_card(run, capsys):
    folder, pair = run
    full, scores = ["--adapter", str(folder / "full")], folder / "elsewhere"
    drawing = ["--n", "2", "--steps", "2", "--json"]
    cli.main(["evaluate", *on(pair), *full, "--other-tools", "--out", str(scores), *drawing])
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["methods"])[1:] == ["MagiCapture", "MagiCapture in other tools"]
    assert "MagiCapture in other tools" in Path(answer["report"]).read_text()
    cli.main(["export", *full, "--scores", str(scores), "--out", str(folder / "card")])
    card, style = (folder / "card" / "README.md").read_text(), answer["methods"]["MagiCapture in other tools"]["style"]
    assert f"| {style['mean']:.3f} |" in card.partition("without plain guidance")[2]
    capsys.readouterr()
    no_scores = ["export", *full, "--scores", folder / "full" / "adapter", "--out", folder / "no_card"]
    assert "scores.json" in refused(capsys, *no_scores) and not (folder / "no_card").exists()


@pytest.mark.slow
def test_chosen_seeds_are_scored_and_traced(run, capsys):
    folder, pair = run
    drawing = ["--adapter", str(folder / "full"), "--seeds", "3", "7", "11", "--steps", "2", "--json"]
    cli.main(["evaluate", *on(pair), *drawing, "--out", str(folder / "seeds")])
    answer = json.loads(capsys.readouterr().out)
    assert {scores["n_images"] for scores in answer["methods"].values()} == {3}
    names = sorted(path.name for path in (folder / "seeds" / "portraits").iterdir())
    assert names == ["seed_00003.png", "seed_00007.png", "seed_00011.png"]
    cli.main(["leakage", *drawing, "--out", str(folder / "seeds_leak"), "--by", "sample"])
    assert [row["sample"] for row in json.loads(capsys.readouterr().out)["means"]] == [0, 1, 2]


@pytest.mark.slow
def test_leakage_is_averaged_within_the_chosen_groups(run, capsys):
    folder, _ = run
    cli.main(["leakage", "--adapter", str(folder / "full"), "--out", str(folder / "leaks"), "--n", "3", "--steps", "2",
              "--by", "token", "timestep", "--json"])  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert {row["token"] for row in answer["means"]} == {"<v1>", "<v2>"}
    assert len({row["timestep"] for row in answer["means"]}) == 2
    lines = Path(answer["file"]).read_text().splitlines()
    assert {line.split(",")[1] for line in lines[1:]} == {"0", "1", "2"}  # samples are counted over batches


@pytest.mark.slow
def test_words_are_knocked_out_of_portraits_of_the_runs_own_pictures(run, capsys, tmp_path):
    folder, pair = run
    copytree(folder / "full", tmp_path / "full")
    knock = ["knock", "--adapter", tmp_path / "full", "--out", tmp_path / "out", "--n", 2, "--steps", 1,
             "--interventions", "outside", "everywhere"]  # fmt: skip
    assert "does not say where its pictures are. Give --source and --reference" in refused(capsys, *knock)
    some = [*knock, "--source", pair[0]]
    assert "pictures are. Give --reference" in refused(capsys, *some)
    assert not (tmp_path / "out").exists()
    cli.main(["train", *on(pair), "--out", str(tmp_path / "full"), "--n", "1"])  # trained already: only scored
    capsys.readouterr()
    cli.main([*map(str, knock), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"knockout.json", "knockout.png", "settings.json"}
    assert json.loads((tmp_path / "out" / "knockout.json").read_text()) == answer
    for token in answer["tokens"].values():
        assert list(token["interventions"]) == ["outside", "everywhere"]
    cli.main([*map(str, knock), *on(pair)])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("<v1>", "<v2>")) for line in lines) == 4
    assert lines[-1] == str(tmp_path / "out" / "knockout.json")


@pytest.mark.slow
def test_masks_are_drawn_and_a_bad_one_fails(run, capsys):
    folder, pair = run
    cli.main(["masks", *on(pair), "--out", str(folder / "masks"), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["usable"] and len(answer["source"]) == 2
    assert {path.name for path in (folder / "masks").iterdir()} == {
        "source_masks.png", "reference_masks.png", "settings.json"}  # fmt: skip
    bad = write_pictures(folder / "masked")
    save_image(torch.ones(3, 20, 20), bad / "masks" / "0.png")  # of another size than its image
    with pytest.raises(SystemExit) as stop:
        cli.main(["masks", *on((bad, pair[1])), "--out", str(folder / "bad_masks")])
    assert stop.value.code == 1
    assert "0.png" in capsys.readouterr().out and (folder / "bad_masks" / "source_masks.png").is_file()


@pytest.mark.slow
def test_an_adapter_is_exported_with_its_files_named(run, capsys):
    folder, _ = run
    cli.main(["export", "--adapter", str(folder / "full"), "--out", str(folder / "shared"), "--name", "ann"])
    files = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert {"README.md", "ann.safetensors", "ann-source.safetensors", "pytorch_lora_weights.safetensors"} <= files


@pytest.mark.slow
def test_bad_input_is_one_line_and_nothing_is_written(run, capsys, tmp_path):
    folder, pair = run
    out, full = tmp_path / "out", folder / "full"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    train = ["train", "--out", out]
    assert "nowhere: no such folder" in refused(capsys, *train, "--source", "nowhere", "--reference", pair[1])
    assert "empty: no image found" in refused(capsys, *train, "--source", pair[0], "--reference", tmp_path / "empty")
    assert "are the same folder" in refused(capsys, *train, "--source", pair[0], "--reference", pair[0])
    assert "--n: -1 is below 0" in refused(capsys, *train, *on(pair), "--n", -1)
    assert "'warp9' is none that torch can use" in refused(capsys, *train, *on(pair), "--device", "warp9")
    assert "error: --lora-rank: 0 is below 1" in refused(capsys, *train, *on(pair), "--lora-rank", 0)
    assert "file: is a file" in refused(capsys, "train", *on(pair), "--out", tmp_path / "file")
    assert "no adapter.json there" in refused(capsys, "generate", "--adapter", pair[0], "--out", out)
    generate = ["generate", "--adapter", full, "--out", out]
    assert "has neither <v1> nor <v2>" in refused(capsys, *generate, "--prompt", "a photo of a man")
    assert "error: --n: 0 is not in" in refused(capsys, *generate, "--n", 0)
    assert "error: --spread: 2.0 is not in 0 to 1" in refused(capsys, *generate, "--spread", 2)
    assert "error: --seeds: [3, 3]" in refused(capsys, *generate, "--seeds", 3, 3)
    assert "error: --save-every: 0 is below 1" in refused(capsys, *train, *on(pair), "--save-every", 0)
    assert "error: --preview-every: -1" in refused(capsys, *train, *on(pair), "--preview-every", -1)
    assert "error: --refocusing.weight: -1.0" in refused(capsys, *train, *on(pair), "--refocusing.weight", -1)
    assert "does not serve as file name" in refused(capsys, "export", "--adapter", full, "--out", out, "--name", "a b")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    assert "training is not finished" in refused(capsys, "leakage", "--adapter", tmp_path / "begun", "--out", out)
    assert not out.exists()


def test_ctrl_c_prints_how_to_continue(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mcpkg.cli.machine_checks.examine", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    assert stop.value.code == 130
    assert "repeated" in capsys.readouterr().err


@pytest.mark.parametrize(
    "program, command",
    [
        ("/bin/mcpkg", "mcpkg evaluate --out 'a b'"),
        ("/lib/mcpkg/cli/__main__.py", "mcpkg evaluate --out 'a b'"),
        ("/lib/mcpkg/cli/demo.py", "mcpkg demo evaluate --out 'a b'"),
        ("/lib/pytest/__main__.py", ""),
    ],
)
def test_the_command_is_recorded_however_mcpkg_was_started(monkeypatch, program, command):
    monkeypatch.setattr("sys.argv", [program, "evaluate", "--out", "a b"])
    assert command_line() == command

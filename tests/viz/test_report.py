import base64
import copy
import io
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from mcpkg.inference.sampling import Sampling
from mcpkg.method.variations import with_refocusing
from mcpkg.metrics.compare import judge
from mcpkg.metrics.score_descriptions import SCORE_DESCRIPTIONS
from mcpkg.metrics.scores import Scores
from mcpkg.training.keep_best import CheckpointScore
from mcpkg.util.statistics import Interval
from mcpkg.viz.report import write_report
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits

STEPS = tuple(
    {"phase": phase, "step": step, "steps": 3, "loss": 1.0, "terms": {"source": 0.5 - 0.1 * step}, "seconds": 0.25}
    for phase in (0, 1) for step in range(3)
)  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)
    result = judge(backend, tiny_adapter(backend), source, reference, sampling=Sampling(n=2, steps=2), history=STEPS)
    return backend, source, reference, result


class Elements(HTMLParser):
    """Every tag with its attributes, and whether each that was opened was closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def cell(text, label):
    """Of the first column of numbers."""
    return re.search(rf"<th scope=\"row\">{re.escape(label)}</th><td class=number>([^<]*)</td>", text)[1]


@pytest.mark.slow
def test_the_report_is_one_file_that_needs_no_other(setting, tmp_path):
    backend, source, reference, result = setting
    path = write_report(tmp_path, backend, source, reference, result)
    page = Elements(path.read_text())
    assert not page.open
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 + (3 + 2) + 2 * 3 + 1  # results, inputs, attention (portrait and two placeholders), losses
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert not [a for _, a in page.tags if "href" in a or "script" in a]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "http" not in path.read_text()
    assert (tmp_path / "losses.png").is_file()


def test_results_are_the_pixels_that_were_drawn(setting, tmp_path):
    backend, source, reference, result = setting
    path = write_report(tmp_path, backend, source, reference, result)
    first = re.search(r'base64,([^"]+)" alt="generated portrait, seed 0"', path.read_text())[1]
    pixels = torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(first))).convert("RGB").tobytes()))
    assert torch.equal(pixels.view(32, 32, 3), (result.generated.images[0] * 255).round().long().permute(1, 2, 0))


def test_every_score_is_shown_with_its_interval_and_description(setting, tmp_path):
    backend, source, reference, result = setting
    assert set(SCORE_DESCRIPTIONS) == {field.name for field in fields(Scores) if field.type in (Interval, "Interval")}
    scores = replace(result.scores, identity=Interval(0.6123, 0.55, 0.6789, 8), style=Interval(*[float("nan")] * 3, 0))
    text = write_report(tmp_path, backend, source, reference, replace(result, scores=scores)).read_text()
    assert cell(text, "Identity") == "0.61 [0.55, 0.68]"
    assert cell(text, "Style") == "–"
    assert "Leakage of &lt;v1&gt;" in text  # placeholders are named, and escaped
    assert "{" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)  # every sentence is filled in


def test_a_report_says_that_the_network_of_the_identity_loss_scored(setting, tmp_path):
    backend, source, reference, result = setting
    texts = []
    for same in (False, True):
        scores = replace(result.scores, scored_by_trainer=same, identity_scaled=Interval(0.8, 0.7, 0.9, 8))
        given = replace(result, scores=scores)
        texts.append(write_report(tmp_path, backend, source, reference, given).read_text())
    assert "an embedder that training did not use" in texts[0] and "flatters" not in texts[0]
    assert "by the very network of the identity loss" in texts[1] and "which flatters" in texts[1]  # and the verdict


def test_before_and_after_stand_side_by_side(setting, tmp_path):
    backend, source, reference, result = setting
    plain = replace(result.adapter, method=replace(result.adapter.method, name="plain <b>"))
    before = replace(result, adapter=plain, history=())
    text = write_report(tmp_path, backend, source, reference, result, before).read_text()
    assert text.index("Before: plain &lt;b&gt;") < text.index("After: MagiCapture")
    assert "<b>" not in text


def test_what_comes_from_outside_is_escaped(setting, tmp_path):
    backend, source, reference, result = setting
    evil = Path("<script>alert(1)</script>") / "a&b.png"
    source = replace(source, paths=(evil, *source.paths[1:]))
    path = write_report(tmp_path, backend, source, reference, result, consent='<i>"yes"', command="mcpkg <x>")
    text = path.read_text()
    assert "<script" not in text and "<i>" not in text and "<x>" not in text
    assert "a&amp;b.png" in text and "&lt;i&gt;" in text


def test_the_scale_of_refocusing_is_listed_for_the_form_that_has_one(setting, tmp_path):
    backend, source, reference, result = setting
    assert "refocusing scale: max" in write_report(tmp_path, backend, source, reference, result).read_text()
    method = with_refocusing(result.adapter.method, "fraction", form="fraction")
    other = replace(result, adapter=replace(result.adapter, method=method))
    text = write_report(tmp_path, backend, source, reference, other).read_text()
    assert "refocusing form: fraction" in text and "refocusing scale" not in text


@pytest.mark.slow
def test_consent_is_never_assumed(setting, tmp_path):
    backend, source, reference, result = setting
    assert "no one stated" in write_report(tmp_path, backend, source, reference, result).read_text()
    text = write_report(tmp_path, backend, source, reference, result, consent="Ann agreed on 1 May.").read_text()
    assert "no one stated" not in text and "Ann agreed on 1 May." in text


def test_timings_are_those_of_the_steps(setting, tmp_path):
    backend, source, reference, result = setting
    text = write_report(tmp_path, backend, source, reference, result).read_text()
    assert "<td class=number>6</td><td class=number>250 ms</td>" in text  # six steps of 0.25 s


def test_a_report_that_cannot_be_written_keeps_the_old_one(setting, tmp_path, monkeypatch):
    backend, source, reference, result = setting
    path = write_report(tmp_path, backend, source, reference, result)
    before = path.read_text()
    one_role = copy.copy(result.generated.maps)
    one_role.rows = {"source": one_role.rows["source"]}
    messages = {None: "MagiCapture: no attention maps. Generate with capture", one_role: "of the reference. .* <v2> in"}
    for maps, message in messages.items():
        blind = replace(result, generated=replace(result.generated, maps=maps))
        with pytest.raises(ValueError, match=message):
            write_report(tmp_path, backend, source, reference, blind)
    assert path.read_text() == before
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "losses.png"}


@pytest.mark.slow
def test_the_curve_of_checkpoints_names_the_best_and_warns_of_its_score(setting, tmp_path):
    backend, source, reference, result = setting
    lines = ((10, 0.25), (20, 0.75), (30, None))
    scored = tuple(CheckpointScore(step=step, by="identity_scaled", score=score) for step, score in lines)
    text = write_report(
        tmp_path / "kept", backend, source, reference, replace(result, checkpoint_scores=scored)
    ).read_text()
    assert "Of 3 checkpoints, the adapter is the one with the highest identity, scaled: 0.75 at step 20" in text
    assert "The best of many by a score is judged too well by that same score" in text
    plain = write_report(tmp_path / "plain", backend, source, reference, result).read_text()
    assert "Best checkpoint" not in plain
    assert text.count("<img") == plain.count("<img") + 1
    nothing = tuple(CheckpointScore(step=step, by="style", score=None) for step in (10, 20))
    text = write_report(
        tmp_path / "none", backend, source, reference, replace(result, checkpoint_scores=nothing)
    ).read_text()
    assert "Style had no value at any checkpoint, so the adapter is that of the last one" in text

"""The notebooks' cells, unchanged, on Stable Diffusion's backend: an untrained model of few channels.

It has no scorers and no restorer, as on a machine that has the required weights only. The findings of a notebook do not
hold there, which the notebook reports; but every cell runs.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest

from mcpkg import backends
from mcpkg.backends.sd15.models import Absent
from mcpkg.course import session as course
from tests.helpers.tiny_sd15 import tiny_sd15

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
OF_THE_RENDERED_WORLD = "05"  # always uses the built-in model, whatever the backend


def load_tiny(*args, **options):
    backend = tiny_sd15()
    blind = replace(
        backend, identity_scorer=Absent("arcface: not there."), style_reader=Absent("clip: not there."), strangers=None
    )
    return replace(blind, tune=_suit, tune_short=None)


def _suit(method):
    return replace(method, phases=tuple(replace(p, steps=2) for p in method.phases), accumulation_steps=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not there:mcpkg.util.errors.Notice")
@pytest.mark.parametrize(
    "path", [path for path in sorted(NOTEBOOKS.glob("0*.py")) if path.name[:2] != OF_THE_RENDERED_WORLD],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_every_cell_runs(path, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(backends, "load_backend", load_tiny)
    monkeypatch.setattr(backends, "best_backend", lambda: "sd15")
    monkeypatch.setattr(course, "RUNS", tmp_path)
    monkeypatch.chdir(NOTEBOOKS)
    matplotlib.use("agg")
    exec(compile(path.read_text(), path.name, "exec"), {"__name__": "__main__"})
    assert "on sd15 the result differs" in capsys.readouterr().out

import importlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import pytest

from mcpkg.cli.__main__ import COMMANDS
from mcpkg.cli.parsing import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(mcpkg(?:\.\w+)+)`", README))))
def test_every_name_exists(name):
    resolve_name(name)


def test_every_equation_has_a_row():
    rows = " ".join(re.findall(r"^\| ([\d–, ]+) \|", README, flags=re.MULTILINE))
    assert rows == "1 2 3 4–6 7 8 9, 10 11"


def test_nothing_is_left_to_be_filled_in():
    assert "@@" not in README


def test_every_linked_file_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    headings = {"#" + re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in re.findall(r"^#+ (.+)", README, re.M)}
    assert not [link for link in links if link not in headings and not (ROOT / link).exists()]


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_every_make_command_is_a_target(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", re.findall(r"^mcpkg ([a-z].*?)(?: +#.*)?$", README, flags=re.MULTILINE))
def test_every_option_of_a_command_exists(command, tmp_path, monkeypatch):
    """Understood, with all that is required; not run. --config reads what `mcpkg train` wrote."""
    (tmp_path / "runs/me").mkdir(parents=True)
    settings = {"mcpkg": "0.1.0", "train": {"source": "a", "reference": "b", "out": "runs/me"}}
    (tmp_path / "runs/me/settings.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    assert parse(COMMANDS, words)[0] == words[0]


@pytest.mark.slow
@pytest.mark.parametrize("module", re.findall(r"^python -m ([\w.]+)", README, flags=re.MULTILINE))
def test_every_command_shows_its_help(module):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


@pytest.mark.slow
def test_the_python_block_runs(monkeypatch):
    """As written, but with one step a phase: the whole schedule is what `make demo` runs."""
    backends = importlib.import_module("mcpkg.backends")
    load_backend = backends.load_backend

    def load_hurried(name):
        backend = load_backend(name)
        backend.tune = lambda method: replace(method, phases=tuple(replace(p, steps=1) for p in method.phases))
        return backend

    monkeypatch.setattr(backends, "load_backend", load_hurried)
    monkeypatch.chdir(ROOT)
    (code,) = blocks("python")
    names: dict = {}
    exec(code, names)
    assert names["portraits"].images.shape == (8, 3, 128, 128)
    assert names["scores"].n_images == 8

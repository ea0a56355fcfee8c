"""The recipes of CONTRIBUTING.md, each followed step by step in a copy of the repository.

A fenced block of a recipe is a step. `bash` is run. Any other block names, after its language, the file and where in it
the block goes: `append`, or `before="..."` or `after="..."` the only line that begins so; else it is the whole file.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.repository_copy import ROOT, copy_repository
from tests.test_imports import MAY_IMPORT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


@dataclass(frozen=True)
class Step:
    """One fenced block."""

    language: str
    options: tuple[str, ...]
    """Such as "file=README.md" and "append"."""
    content: str
    introduction: str
    """The text between the previous block and this one."""

    @property
    def named(self) -> dict[str, str]:
        return dict(option.split("=", 1) for option in self.options if "=" in option)

    @property
    def file(self) -> str:
        return self.named.get("file", "")


def read_steps(recipe: str) -> list[Step]:
    blocks = re.findall(r"(.*?)^```(\w+) ?(.*?)\n(.*?)^```$", recipe, re.MULTILINE | re.DOTALL)
    return [Step(language, tuple(shlex.split(info)), content, text) for text, language, info, content in blocks]


RECIPES = {
    title: read_steps(recipe)
    for title, recipe in re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
each_recipe = pytest.mark.parametrize("title", RECIPES)


def follow(step: Step, folder: Path) -> None:
    """Do in a copy of the repository what a step asks for.

    Raises:
        AssertionError: a command fails, or the place for the block is not there exactly once.
    """
    if step.language == "bash":
        paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}
        command = ["bash", "-euxo", "pipefail", "-c", step.content]
        done = subprocess.run(command, cwd=folder, env=os.environ | paths, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return
    path = folder / step.file
    place = step.named.get("before") or step.named.get("after")
    if place:
        lines = path.read_text().splitlines(keepends=True)
        at = [number for number, line in enumerate(lines) if line.startswith(place)]
        assert len(at) == 1, f"{step.file}: {len(at)} lines begin with {place!r}, not 1."
        indented = step.content.startswith(" ")
        content = step.content if indented or "after" in step.named else f"{step.content}\n"
        lines.insert(at[0] + ("after" in step.named), content)
        path.write_text("".join(lines))
    elif "append" in step.options:
        path.write_text(f"{path.read_text()}\n\n{step.content}")
    else:
        assert not path.exists(), f"{step.file} is there already."
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.content)


def test_the_recipes_are_those_that_are_promised():
    titles = ["a refocusing loss", "a baseline", "a backend", "a notebook"]
    assert list(RECIPES) == [f"Add {title}" for title in titles]


@each_recipe
def test_every_step_is_understood_and_its_file_is_in_the_text(title):
    steps = RECIPES[title]
    assert steps[-1].language == "bash"  # it ends with a check
    for step in steps:
        assert step.language == "bash" or f"`{step.file}`" in step.introduction
        assert set(step.named) <= {"file", "before", "after"}
        assert set(step.options) - {f"{key}={value}" for key, value in step.named.items()} <= {"append"}


@pytest.mark.slow
@each_recipe
def test_a_recipe_works(title, tmp_path):
    folder = copy_repository(tmp_path, link_weights=True)
    for step in RECIPES[title]:
        follow(step, folder)
    python = [step.file for step in RECIPES[title] if step.language == "python"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *python], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_lists_the_packages_in_the_order_of_their_imports():
    packages = re.findall(r"^\| `mcpkg\.(\w+)` \| \S.+\. \|$", TEXT, re.MULTILINE)
    assert set(packages) == set(MAY_IMPORT)
    for number, package in enumerate(packages):
        assert MAY_IMPORT[package] <= set(packages[:number])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make ([\w-]+)", TEXT, re.MULTILINE))))
def test_every_make_command_is_a_target(target):
    assert re.search(rf"^{target}: ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_file_that_is_named_exists():
    new = {step.file for steps in RECIPES.values() for step in steps}
    named = {name for name in re.findall(r"`([\w/.]+\.\w+|[\w/]+/)`", TEXT) if "/" in name and "NN_" not in name}
    for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        named |= set(re.findall(r"\btests/\S+\.py", block))
    assert "tests/method/test_refocusing.py" in named
    assert not [name for name in named - new if not (ROOT / name).exists()]

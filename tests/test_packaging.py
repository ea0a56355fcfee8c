import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import mcpkg
from tests.helpers.repository_copy import ROOT, copy_repository

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
WEIGHTS_LIMIT_BYTES = 48 * 2**20


def name_of(requirement: str) -> str:
    return requirement.split(">")[0].split("=")[0].strip().lower()


def test_environment_lists_what_pyproject_lists():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    constraint, *pip = environment["dependencies"][-1]["pip"]
    assert constraint == "--constraint constraints.txt"
    assert pip == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_base_and_dev_dependency_is_pinned():
    wanted = {name_of(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]}
    assert wanted - set(pins()) == {"setuptools"}  # any recent one builds the same wheel
    assert pins()["torch"] == "2.13.0"


def test_the_base_install_has_no_torchvision():
    assert "torchvision" not in {name_of(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]}


def test_the_workflow_runs_every_version_of_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_the_workflow_runs_targets_of_the_makefile():
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["steps"]
    targets = [step["run"].removeprefix("make ") for step in steps if "run" in step]
    assert targets == ["check", "test"]
    assert all(re.search(rf"^{target}: ", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)


def test_pre_commit_lints_with_the_pinned_ruff():
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert hooks["rev"] == f"v{pins()['ruff']}"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == mcpkg.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation.get("repository-code") == PROJECT.get("urls", {}).get("Repository")


PUBLIC_FUNCTIONS = [name for name in mcpkg.__all__ if name.islower() and name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC_FUNCTIONS)
def test_public_functions_state_every_type(name):
    signature = inspect.signature(getattr(mcpkg, name))
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.kind != p.VAR_KEYWORD]
    assert not untyped and signature.return_annotation is not signature.empty


def test_modules_that_mypy_treats_apart_exist():
    patterns = [pattern for rule in PYPROJECT["tool"]["mypy"]["overrides"] for pattern in rule["module"]]
    for pattern in filter(lambda pattern: pattern.startswith("mcpkg"), patterns):
        assert importlib.util.find_spec(pattern.removesuffix(".*")), pattern


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that a stale build/ folder cannot slip in and none is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copy_repository(source, "mcpkg", "pyproject.toml", "README.md", "LICENSE")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", out, source], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_files_of_the_package_and_no_others(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "mcpkg"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - metadata == {name for name in listed if (ROOT / name).is_file()}
    assert {name.partition("/")[2] for name in metadata} == {
        "METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"
    }  # fmt: skip


@pytest.mark.slow
def test_no_weights_are_in_the_wheel_twice(wheel):
    with zipfile.ZipFile(wheel) as archive:
        weights = [entry for entry in archive.infolist() if entry.filename.endswith(".safetensors")]
    assert len({entry.CRC for entry in weights}) == len(weights)


@pytest.mark.slow
def test_the_wheel_carries_the_weights_within_their_limit(wheel):
    with zipfile.ZipFile(wheel) as archive:
        weights = [entry for entry in archive.infolist() if entry.filename.startswith("mcpkg/backends/mini/weights/")]
    names = {Path(entry.filename).name for entry in weights}
    assert {"identity_train.safetensors", "identity_score.safetensors", "parser.safetensors"} <= names
    assert {"style_reader.safetensors", "restorer.safetensors", "model_index.json"} <= names
    assert sum(entry.file_size for entry in weights) <= WEIGHTS_LIMIT_BYTES


@pytest.mark.slow
def test_the_wheel_generates_and_renders_its_samples_elsewhere(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # a pure wheel installs by being unpacked
    code = (
        "import mcpkg, sys; assert mcpkg.__file__.startswith(sys.argv[1]), mcpkg.__file__\n"
        "from mcpkg.backends import load_backend\n"
        "pipeline = load_backend('mini').pipeline\n"
        "assert pipeline('a photo of a man', num_inference_steps=1, output_type='pt').images.shape[-1] == 128\n"
        "from mcpkg.world.sample_folders import ensure_samples\n"
        "print(ensure_samples())\n"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, check=True, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "data_samples\n"
    assert (tmp_path / "data_samples" / "styles" / "kimono" / "masks" / "05.png").is_file()

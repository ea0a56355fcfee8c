import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WEIGHTS_LIMIT_BYTES = 48 * 2**20


def name_of(requirement: str) -> str:
    return requirement.split(">")[0].split("=")[0].strip().lower()


def test_environment_lists_what_pyproject_lists():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    constraint, *pip = environment["dependencies"][-1]["pip"]
    assert constraint == "--constraint constraints.txt"
    assert pip == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


def test_every_base_and_dev_dependency_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = {name_of(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]}
    assert wanted - set(pins) == {"setuptools"}  # any recent one builds the same wheel
    assert pins["torch"] == "2.13.0"


def test_the_base_install_has_no_torchvision():
    assert "torchvision" not in {name_of(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that a stale build/ folder cannot slip in and none is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "mcpkg", *("pyproject.toml", "README.md", "LICENSE")],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for file in filter(lambda file: (ROOT / file).exists(), files):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((ROOT / file).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", out, source], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_carries_the_weights_within_their_limit(wheel):
    with zipfile.ZipFile(wheel) as archive:
        weights = [entry for entry in archive.infolist() if entry.filename.startswith("mcpkg/backends/mini/weights/")]
    names = {Path(entry.filename).name for entry in weights}
    assert {"identity_train.safetensors", "identity_score.safetensors", "parser.safetensors"} <= names
    assert {"style_reader.safetensors", "restorer.safetensors", "model_index.json"} <= names
    assert sum(entry.file_size for entry in weights) <= WEIGHTS_LIMIT_BYTES


def test_the_wheel_generates_from_elsewhere(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # a pure wheel installs by being unpacked
    code = (
        "import mcpkg, sys; assert mcpkg.__file__.startswith(sys.argv[1]), mcpkg.__file__\n"
        "from mcpkg.backends import load_backend\n"
        "pipeline = load_backend('mini').pipeline\n"
        "assert pipeline('a photo of a man', num_inference_steps=1, output_type='pt').images.shape[-1] == 128\n"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "site")], check=True, cwd=tmp_path, env=env)

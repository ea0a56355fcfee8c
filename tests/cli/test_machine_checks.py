import json
from importlib import metadata
from pathlib import Path

import pytest

from mcpkg.backends.mini import backend as mini
from mcpkg.cli import __main__ as cli, machine_checks


@pytest.fixture
def all_weights(monkeypatch):
    monkeypatch.setattr(mini, "missing_weights", dict)


def answer(capsys, *more):
    """Exit code, and findings by name."""
    code = 0
    try:
        cli.main(["doctor", "--json", *more])
    except SystemExit as stop:
        code = stop.code
    output = json.loads(capsys.readouterr().out)
    assert output["can_run"] == (code == 0)
    return code, {finding["what"]: finding for finding in output["findings"]}


def test_a_machine_with_everything_can_run(all_weights, capsys):
    code, findings = answer(capsys)
    assert code == 0
    always = {"python", "cores", "memory", "torch", "gpu", "bf16", "mini"}
    assert always | machine_checks.OPTIONAL_PACKAGES.keys() <= findings.keys()
    assert findings["torch"]["found"] == metadata.version("torch")
    assert all(finding["advice"] for finding in findings.values() if finding["needed"] and not finding["ok"])


def test_missing_weights_are_named_with_the_command_that_makes_them(monkeypatch, capsys):
    command, file = "python -m mcpkg.factory.train restorer", Path("weights/restorer.safetensors")
    monkeypatch.setattr(mini, "missing_weights", lambda: {command: file})
    code, findings = answer(capsys)
    assert code == 1
    assert "restorer.safetensors" in findings["mini"]["found"]
    assert command in findings["mini"]["advice"]
    with pytest.raises(SystemExit):
        cli.main(["doctor"])
    assert "Missing: mini." in capsys.readouterr().out.splitlines()[0]


def test_weights_are_missed_file_by_file(tmp_path):
    assert len(mini.missing_weights(tmp_path)) == 7
    (tmp_path / "parser.safetensors").write_bytes(b"")
    assert not any("parser" in command for command in mini.missing_weights(tmp_path))


def test_an_old_package_is_named_with_what_to_install(all_weights, monkeypatch, capsys):
    version = metadata.version
    old = {"numpy": "1.26.4"}
    monkeypatch.setattr(machine_checks.metadata, "version", lambda name: old.get(name) or version(name))
    code, findings = answer(capsys)
    assert code == 1
    assert findings["numpy"]["found"] == "1.26.4, outside <3,>=2"
    assert findings["numpy"]["advice"] == "pip install 'numpy<3,>=2'"


def test_what_a_package_requires_in_turn_is_checked_too(all_weights, monkeypatch, capsys):
    """transformers refuses to be imported beside such a huggingface-hub."""
    version, requires = metadata.version, metadata.requires
    monkeypatch.setattr(machine_checks.metadata, "version", lambda name: "0.1" if name == "hub" else version(name))
    needs = {"transformers": ["hub>=1.5", "fonts; extra == 'more'"], "hub": []}
    monkeypatch.setattr(machine_checks.metadata, "requires", lambda name: needs.get(name, requires(name)))
    _, findings = answer(capsys)
    assert findings["hub"]["found"] == "0.1, but transformers requires hub>=1.5"
    assert findings["hub"]["advice"] == "pip install 'hub>=1.5'" and "fonts" not in findings


def test_another_version_than_the_tested_one_is_reported(all_weights, monkeypatch, capsys, tmp_path):
    (tmp_path / "constraints.txt").write_text("# tested\npillow==11.0.0\n")
    monkeypatch.setattr(machine_checks, "CONSTRAINTS", tmp_path / "constraints.txt")
    code, findings = answer(capsys)
    assert code == 0
    assert findings["pillow"]["found"].endswith("; the tests ran with 11.0.0") and findings["pillow"]["ok"]


@pytest.mark.parametrize("failure", [ImportError("no module _C"), RuntimeError("built for another torch\nmore")])
def test_a_broken_extra_is_distinguished_from_a_missing_one(all_weights, monkeypatch, capsys, failure):
    def broken(name):
        raise failure

    monkeypatch.setattr(machine_checks.importlib, "import_module", broken)
    code, findings = answer(capsys)
    assert code == 0  # no extra is needed
    assert "installed, but cannot be imported" in findings["gfpgan"]["found"]
    assert "\n" not in findings["gfpgan"]["found"]


def test_little_memory_is_a_warning(all_weights, monkeypatch, capsys):
    monkeypatch.setattr(machine_checks, "_memory_gib", lambda: (0.5, 8.0))
    code, findings = answer(capsys)
    assert code == 0 and findings["memory"]["found"] == "0.5 GiB free of 8.0 GiB"
    assert not findings["memory"]["ok"] and "Close other programs" in findings["memory"]["advice"]

import contextlib
import hashlib
import zipfile
from dataclasses import replace
from urllib.parse import unquote

import pytest

from mcpkg.backends.downloads import FOLDER_VARIABLE, WEIGHTS, Published, fetch, require, weights_folder
from mcpkg.cli import __main__ as cli


@pytest.fixture
def published(monkeypatch, tmp_path):
    """One file on the web, which is this disk; nothing is kept yet."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    web = tmp_path / "web"
    web.mkdir()
    (web / "a+b.bin").write_bytes(b"numbers")
    url = (web / "a%2Bb.bin").as_uri().replace("%25", "%")
    one = Published("one", "does something", "MIT", 1, files=((url, hashlib.sha256(b"numbers").hexdigest()),))
    monkeypatch.setitem(WEIGHTS, "one", one)
    return one


def test_missing_weights_are_reported_in_one_line_with_source_licence_and_folder(published):
    with pytest.raises(FileNotFoundError) as error:
        require("one")
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("one: not there. It does something; 1 MB; MIT.")
    assert published.files[0][0] in line and str(weights_folder() / "one") in line and "mcpkg weights --get one" in line


def test_downloaded_weights_are_there(published):
    with pytest.warns(UserWarning, match="one: 1 MB. Licence: MIT."):
        place = fetch("one")
    assert place == require("one") == weights_folder() / "one" / "a+b.bin"
    assert place.read_bytes() == b"numbers"
    assert fetch("one") == place  # without a notice, for nothing is fetched


def test_only_the_named_files_of_an_archive_are_kept(published, monkeypatch, tmp_path):
    archive = tmp_path / "web" / "pack.zip"
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("pack/wanted.onnx", b"network")
        pack.writestr("pack/other.onnx", b"another")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    zipped = Published("one", "does something", "MIT", 1, probes=("wanted.onnx",), files=((archive.as_uri(), sha256),))
    monkeypatch.setitem(WEIGHTS, "one", zipped)
    with pytest.warns(UserWarning):
        place = fetch("one")
    assert [path.name for path in place.iterdir()] == ["wanted.onnx"]
    assert (place / "wanted.onnx").read_bytes() == b"network"


def test_a_file_with_another_hash_is_not_kept(published, monkeypatch):
    other = replace(published, files=((published.files[0][0], "0" * 64),))
    monkeypatch.setitem(WEIGHTS, "one", other)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="not the published one"):
        fetch("one")
    assert not list(weights_folder().rglob("*.*"))


def test_restricted_weights_are_not_downloaded_before_their_licence_is_accepted(published, monkeypatch):
    monkeypatch.setitem(WEIGHTS, "one", replace(published, restricted=True, licence="for research only"))
    with pytest.raises(ValueError, match="one: for research only. .*--accept-licence"):
        fetch("one")
    assert not weights_folder().exists()
    with pytest.warns(UserWarning):
        assert fetch("one", accept=True).is_file()


def test_a_source_that_cannot_be_reached_is_one_line(published, monkeypatch):
    gone = replace(published, files=(("file:///nowhere/x.bin", "0" * 64),))
    monkeypatch.setitem(WEIGHTS, "one", gone)
    with pytest.warns(UserWarning), pytest.raises(ConnectionError, match="x.bin: cannot be downloaded"):
        fetch("one")


def test_every_entry_has_purpose_licence_and_source():
    for name, published in WEIGHTS.items():
        assert name == published.name and published.purpose and published.licence and published.size_mb > 0
        assert bool(published.hub) != bool(published.files)
        assert all(len(sha256) == 64 and url.startswith("https://") for url, sha256 in published.files)
        assert published.restricted == ("non-commercial" in published.licence or "NC" in published.licence)
        assert len({unquote(url) for url, _ in published.files}) == len(published.files)


def test_the_command_lists_all_and_refuses_unknown_names(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    cli.main(["weights"])
    output = capsys.readouterr().out
    assert all(name in output and published.licence in output for name, published in WEIGHTS.items())
    with pytest.raises(SystemExit, match="2"):
        cli.main(["weights", "--get", "sd16"])
    assert "weights 'sd16' are not known" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["weights", "--get", "arcface"])
    assert "non-commercial" in capsys.readouterr().err


def test_the_doctor_names_every_missing_weight(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with contextlib.suppress(SystemExit):
        cli.main(["doctor"])
    output = capsys.readouterr().out
    assert all(f"mcpkg weights --get {name}" in output for name, published in WEIGHTS.items() if not published.is_there)

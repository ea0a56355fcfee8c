import ast
import contextlib
import functools
import hashlib
import json
import re
import threading
import zipfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

import mcpkg
from mcpkg.backends.downloads import FOLDER_VARIABLE, WEIGHTS, Published, fetch, require, weights_folder
from mcpkg.cli import __main__ as cli


class QuietServer(SimpleHTTPRequestHandler):
    """A folder on the web; a file named cut.bin is announced as longer than what is sent."""

    def log_message(self, *_):
        pass

    def send_header(self, name, value):
        super().send_header(name, "1000" if name == "Content-Length" and self.path.endswith("cut.bin") else value)


@pytest.fixture
def web(tmp_path):
    """A folder, and its address on a server of this machine."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(QuietServer, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def published(monkeypatch, tmp_path, web):
    """One file on the web; nothing is kept yet."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder, address = web
    (folder / "a+b.bin").write_bytes(b"numbers")
    files = ((f"{address}/a%2Bb.bin", hashlib.sha256(b"numbers").hexdigest()),)
    one = Published("one", "does something", "MIT", 1, files=files)
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


def test_only_the_named_files_of_an_archive_are_kept(published, monkeypatch, web):
    archive = web[0] / "pack.zip"
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("pack/wanted.onnx", b"network")
        pack.writestr("pack/other.onnx", b"another")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    files = ((f"{web[1]}/pack.zip", sha256),)
    zipped = Published("one", "does something", "MIT", 1, probes=("wanted.onnx",), files=files)
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


@pytest.mark.parametrize("name", ["gone.bin", "cut.bin"])
def test_a_file_that_is_gone_or_cut_off_is_one_line_and_not_kept(published, monkeypatch, web, name):
    (web[0] / "cut.bin").write_bytes(b"num")
    monkeypatch.setitem(WEIGHTS, "one", replace(published, files=((f"{web[1]}/{name}", "0" * 64),)))
    with pytest.warns(UserWarning), pytest.raises(ConnectionError, match=f"{name}: cannot be downloaded") as error:
        fetch("one")
    assert "\n" not in str(error.value)
    assert not list(weights_folder().rglob("*.*"))


def test_every_entry_has_purpose_licence_and_source():
    for name, published in WEIGHTS.items():
        assert name == published.name and published.purpose and published.licence and published.size_mb > 0
        assert bool(published.hub) != bool(published.files)
        assert bool(published.hub) == bool(re.fullmatch("[0-9a-f]{40}", published.revision))
        assert all(len(sha256) == 64 and url.startswith("https://") for url, sha256 in published.files)
        assert published.restricted == ("non-commercial" in published.licence or "NC" in published.licence)
        assert len({unquote(url) for url, _ in published.files}) == len(published.files)


def test_the_hub_is_asked_for_the_pinned_commit(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **options: asked.append((a, options)) or "x")
    published = WEIGHTS["tiny-autoencoder"]
    monkeypatch.setattr("huggingface_hub.file_download.try_to_load_from_cache", lambda *a, revision: None)
    with pytest.warns(UserWarning):
        fetch("tiny-autoencoder")
    (((repository,), options),) = asked
    assert (repository, options["revision"]) == (published.hub, published.revision)


def test_another_commit_in_the_hubs_cache_does_not_count(monkeypatch, tmp_path):
    published = WEIGHTS["tiny-autoencoder"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(revision: str) -> Path:
        folder = tmp_path / "models--madebyollin--taesd" / "snapshots" / revision
        folder.mkdir(parents=True)
        for name in published.probes:
            (folder / name).touch()
        return folder

    put("0" * 40)
    assert not published.is_there
    pinned = put(published.revision)
    assert published.is_there and published.place == pinned


NETWORK_CALLS = (
    "from_pretrained",
    "from_single_file",
    "snapshot_download",
    "hf_hub_download",
    "try_to_load_from_cache",
)
HAND_WRITTEN = ("urlopen", "urlretrieve", "http_get")


def test_no_model_is_loaded_by_a_name_without_a_revision():
    """Every call that could reach the Hub says at which commit, or that it reads this disk only."""
    found = []
    for path in Path(mcpkg.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func).rpartition(".")[2]
            assert name not in HAND_WRITTEN, f"{path}:{call.lineno}"
            if name in NETWORK_CALLS:
                found.append(name)
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert "revision" in options or options.get("local_files_only") == "True", f"{path}:{call.lineno}"
    assert set(NETWORK_CALLS) - {"hf_hub_download"} <= set(found)


def test_the_list_for_programs_gives_every_pin(capsys):
    cli.main(["weights", "--json"])
    for row in json.loads(capsys.readouterr().out):
        published = WEIGHTS[row["name"]]
        assert (row["hub"], row["revision"], row["files"]) == (
            published.hub, published.revision, dict(published.files),
        )  # fmt: skip


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

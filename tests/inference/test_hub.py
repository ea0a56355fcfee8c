"""Uploads, with an API of the Hub that keeps what it is asked instead of sending it."""

from types import SimpleNamespace

import pytest

from mcpkg.cli import __main__ as cli
from mcpkg.inference.export import export_adapter
from mcpkg.inference.hub import check_repository, plan_upload, push_to_hub
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import tiny_backend

FILES = [
    "README.md", "adapter.json", "source_embeds.safetensors", "reference_embeds.safetensors",
    "webui/me-source.safetensors", "webui/me-reference.safetensors", "pytorch_lora_weights.safetensors",
    "webui/me.safetensors",
]  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    backend, folder = tiny_backend(), tmp_path_factory.mktemp("exported")
    export_adapter(tiny_adapter(backend), backend, folder / "agreed", "me", consent="She agreed to everything.")
    export_adapter(tiny_adapter(backend), backend, folder / "unknown", "me", consent="  ")
    for name in ("agreed", "unknown"):
        (folder / name / "settings.json").write_text("{}")
        (folder / name / "photo.png").touch()
    return folder


@pytest.fixture
def hub(monkeypatch):
    """What the Hub is asked; its repository is as private as was asked when it was made."""
    asked = SimpleNamespace(created=[], uploaded=[], private=None)

    class Api:
        def create_repo(self, repository, private, exist_ok):
            asked.created.append(repository)
            asked.private = private if asked.private is None else asked.private

        def repo_info(self, repository):
            return SimpleNamespace(private=asked.private)

        def upload_folder(self, **options):
            asked.uploaded.append(options)
            return SimpleNamespace(commit_url="https://huggingface.co/someone/me/commit/0")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return asked


def test_only_the_adapters_own_files_are_uploaded(exported, hub):
    address = push_to_hub(exported / "agreed", "me", "someone/me")
    assert address == "https://huggingface.co/someone/me/commit/0"
    (options,) = hub.uploaded
    assert options["repo_id"] == "someone/me" and options["folder_path"] == exported / "agreed"
    assert sorted(options["allow_patterns"]) == sorted(FILES)
    assert hub.private is True


def test_a_repository_is_public_only_if_asked(exported, hub):
    push_to_hub(exported / "agreed", "me", "someone/me", public=True)
    assert hub.private is False and len(hub.uploaded) == 1
    with pytest.raises(ValueError, match="someone/me: is public, so nothing was uploaded. Add --public"):
        push_to_hub(exported / "agreed", "me", "someone/me")
    assert len(hub.uploaded) == 1


def test_without_consent_card_or_files_nothing_is_uploaded(exported, hub, tmp_path):
    with pytest.raises(ValueError, match="README.md: states no consent. Export again with --consent"):
        push_to_hub(exported / "unknown", "me", "someone/me")
    with pytest.raises(FileNotFoundError, match="no card"):
        push_to_hub(tmp_path, "me", "someone/me")
    with pytest.raises(FileNotFoundError, match="webui/you-source.safetensors: missing"):
        plan_upload(exported / "agreed", "you")
    assert not hub.created and not hub.uploaded


def test_a_hub_that_refuses_is_one_line(exported, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("401 Unauthorized\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(ConnectionError) as error:
        push_to_hub(exported / "agreed", "me", "someone/me")
    assert str(error.value) == "someone/me: cannot be uploaded to (401 Unauthorized)."


@pytest.mark.parametrize("name", ["me", "a/b/c", "some one/me", "/me", "someone/", "-x/y"])
def test_a_name_that_is_no_repositorys_is_refused(name):
    with pytest.raises(ValueError, match="Give it as owner/name"):
        check_repository(name)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--push-to-hub", "someone/me"], "--push-to-hub: no consent is recorded. Give --consent"),
        (["--push-to-hub", "someone/me", "--consent", " "], "--push-to-hub: no consent is recorded"),
        (["--push-to-hub", "me", "--consent", "x"], "--push-to-hub: 'me' is no name of a repository"),
        (["--public"], "--public: is for --push-to-hub only"),
        (["--dry-run"], "--dry-run: is for --push-to-hub only"),
    ],
)
def test_the_command_refuses_before_anything_is_written(options, message, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["export", "--adapter", str(tmp_path), "--out", str(tmp_path / "out"), *options])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_what_would_be_uploaded_and_asks_no_one(hub, capsys, tmp_path, monkeypatch):
    backend = tiny_backend()
    tiny_adapter(backend).save(tmp_path / "adapter")
    monkeypatch.setattr("mcpkg.cli.options.Models.load", lambda self: backend)
    to = ["--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "out"), "--name", "me"]
    cli.main(["export", *to, "--push-to-hub", "someone/me", "--consent", "She agreed.", "--dry-run"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"would upload to huggingface.co/someone/me (private): {', '.join(FILES)}"
    assert not hub.created and not hub.uploaded

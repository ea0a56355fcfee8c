import json

import pytest

from benchmarks import kills
from mcpkg.util.files import replace_whole


def test_a_training_killed_while_it_writes_ends_as_if_it_had_not_been(capsys):
    with pytest.raises(SystemExit) as stop:
        kills.main(n=2, steps=2, kills_per_run=2, as_json=True)
    counts = json.loads(capsys.readouterr().out)
    assert counts["kills"] == 2 and counts["identical"] == counts["runs"] == 1
    assert counts["leftovers"] == 0
    assert stop.value.code == 0


def test_a_file_that_is_left_over_is_counted_as_a_difference(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "lora.safetensors").write_bytes(b"learned")
    whole = kills.contents(tmp_path)
    (tmp_path / ".checkpoint.safetensors.0a1b.mcpkg-part").write_bytes(b"")
    assert kills.contents(tmp_path) != whole


def test_a_file_that_is_being_written_is_noticed(tmp_path):
    with replace_whole(tmp_path / "checkpoint.safetensors") as partial:
        assert list(kills._parts(tmp_path)) == [partial.parent]
    assert list(kills._parts(tmp_path)) == []


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="--n"):
        kills.main(n=0)

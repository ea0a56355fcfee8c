import pytest

from mcpkg.files import replace_whole, write_json


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with replace_whole(path) as partial:
        partial.write_text("old")
    with pytest.raises(KeyError), replace_whole(path) as partial:
        partial.write_text("new, but torn")
        raise KeyError
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json({"mean": float("nan")}, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())

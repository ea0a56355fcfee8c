import errno

import pytest

from mcpkg.util.files import explain_full_disk, read_json, replace_whole, write_json


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


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"^.*new: no space left on the disk\. Free some and repeat the command\.$"):
        with replace_whole(tmp_path / "new" / "a.txt") as partial:
            partial.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_is_known_by_the_words_of_other_libraries(tmp_path):
    with pytest.raises(OSError, match="no space left on the disk"), explain_full_disk(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"), explain_full_disk(tmp_path):
        raise RuntimeError("something else")


def test_json_comes_back_and_damage_is_named(tmp_path):
    path = tmp_path / "a.json"
    write_json({"seed": 1}, path)
    assert read_json(path) == {"seed": 1}
    for damage in (b'{"seed": ', b"[1]", b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="a.json: damaged"):
            read_json(path)
    with pytest.raises(FileNotFoundError, match="b.json: no such file"):
        read_json(tmp_path / "b.json")

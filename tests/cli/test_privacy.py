import io
import zlib

import pytest
from PIL import Image

from mcpkg.cli import __main__ as cli
from tests.cli.test_cli import on, run, tiny  # noqa: F401
from tests.helpers.tiny_folders import write_pictures

MARK = "secretplace47"


def marked_pictures(folder, seed):
    """Pictures whose EXIF says where they were taken."""
    write_pictures(folder, seed=seed)
    for path in folder.glob("*.png"):
        exif = Image.Exif()
        exif[0x010E] = MARK
        exif.get_ifd(0x8825)[29] = MARK
        with Image.open(path) as image:
            image.load()
            image.save(path, exif=exif)
        assert MARK.encode() in path.read_bytes()
    return folder


def all_bytes(path):
    """A file's content, with the text of its PNG chunks unpacked."""
    content = path.read_bytes()
    if path.suffix == ".png":
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            content += repr((image.info, dict(image.getexif()))).encode()
    return content + (zlib.decompress(content) if content[:1] == b"x" else b"")


@pytest.mark.slow
def test_no_output_of_any_command_carries_the_metadata_of_a_photo(tmp_path, capsys):
    pair = marked_pictures(tmp_path / "in" / "anna_k", 1), marked_pictures(tmp_path / "in" / "chic", 2)
    full, out, few = str(tmp_path / "out" / "full"), tmp_path / "out", ["--n", "1", "--steps", "1"]
    cli.main(["masks", *on(pair), "--out", str(out / "masks")])
    cli.main(["train", *on(pair), "--out", full, "--n", "1", "--preview-every", "1"])
    cli.main(["generate", "--adapter", full, *few, "--out", str(out / "drawn"), "--restore", "--source", str(pair[0])])
    cli.main(["evaluate", *on(pair), "--adapter", full, *few, "--out", str(out / "scores")])
    cli.main(["leakage", "--adapter", full, *few, "--out", str(out / "leaks")])
    cli.main(["knock", "--adapter", full, *few, "--interventions", "everywhere", "--out", str(out / "knocked")])
    cli.main(["export", "--adapter", full, "--out", str(out / "shared")])
    cli.main(["demo", "--source", str(pair[0]), "--reference", str(pair[1]), "--n", "1", "--out", str(out / "demo")])
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert [path for path in files if MARK.encode() in all_bytes(path)] == []
    shown = capsys.readouterr()
    assert MARK not in shown.out + shown.err
    assert "This file holds the photos" in (out / "scores" / "report.html").read_text()[:8000]


@pytest.mark.slow
def test_a_report_without_photos_names_neither_files_nor_folders(run, tmp_path):  # noqa: F811
    folder, pair = run
    args = ["evaluate", *on(pair), "--adapter", str(folder / "full"), "--n", "1", "--steps", "1"]
    cli.main([*args, "--out", str(tmp_path / "with")])
    cli.main([*args, "--out", str(tmp_path / "without"), "--no-photos"])
    shown, hidden = ((tmp_path / name / "report.html").read_text() for name in ("with", "without"))
    assert "0.png" in shown and "ann" in shown and str(pair[0]) in shown
    for name in ("0.png", "1.png", "subjects", "/styles", str(folder), "/tmp", "ann in the look"):
        assert name not in hidden, name
    assert shown.count("<img") - hidden.count("<img") == 4  # two of the person, two of the look
    assert "were left out of this file" in hidden

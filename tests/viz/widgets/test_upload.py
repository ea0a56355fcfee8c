import datetime

import pytest

from mcpkg.data.image_folders import find_images
from mcpkg.viz.widgets import upload_photos
from mcpkg.viz.widgets.upload import RENDERED
from tests.helpers.tiny_folders import write_pictures


@pytest.fixture
def sample(tmp_path):
    return write_pictures(tmp_path / "sample")


def photo(path, name):
    """Return a photo as a browser sends it."""
    content, now = path.read_bytes(), datetime.datetime(2026, 1, 1)
    return {
        "name": name,
        "type": "image/png",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": now,
    }


def uploaded(tmp_path, sample, *names):
    widget = upload_photos(tmp_path / "mine", sample)
    widget.photos.value = tuple(photo(path, name) for path, name in zip(sorted(sample.iterdir()), names))
    return widget


@pytest.mark.slow
def test_nothing_is_saved_before_consent(tmp_path, sample):
    widget = uploaded(tmp_path, sample, "holiday.PNG", "beach.png")
    assert widget.folder == sample and "2 photos chosen" in widget.reading
    widget.agreed.value = True
    assert not (tmp_path / "mine").exists()  # the statement is missing
    widget.statement.value = "Ann, for this course"
    assert widget.folder == tmp_path / "mine"
    assert [path.name for path in find_images(widget.folder)] == ["photo_01.png", "photo_02.png"]
    assert widget.consent == "Ann, for this course"


def test_the_sample_is_used_and_shows_no_real_person(tmp_path, sample):
    widget = upload_photos(tmp_path / "mine", sample)
    assert (widget.folder, widget.consent) == (sample, RENDERED)
    assert "the sample sample is used" in widget.reading
    assert len(widget.figure().axes) == 2


@pytest.mark.slow
def test_deleting_leaves_other_files_alone(tmp_path, sample):
    (tmp_path / "mine").mkdir()
    other = tmp_path / "mine" / "notes.txt"
    other.write_text("mine")
    widget = uploaded(tmp_path, sample, "a.png", "b.png")
    widget.statement.value, widget.agreed.value = "I am in them", True
    widget.delete.click()
    assert list((tmp_path / "mine").iterdir()) == [other]
    assert (widget.folder, len(widget.photos.value)) == (sample, 0)


@pytest.mark.slow
def test_photos_of_an_earlier_choice_are_deleted(tmp_path, sample):
    widget = uploaded(tmp_path, sample, "a.png", "b.png")
    widget.statement.value, widget.agreed.value = "I am in them", True
    widget.photos.value = widget.photos.value[:1]
    assert len(find_images(widget.folder, at_least=1)) == 1


@pytest.mark.slow
def test_withdrawn_consent_deletes_the_photos(tmp_path, sample):
    widget = uploaded(tmp_path, sample, "a.png", "b.png")
    widget.statement.value, widget.agreed.value = "I am in them", True
    widget.agreed.value = False
    assert widget.folder == sample and not list((tmp_path / "mine").glob("photo_*"))
    widget.agreed.value = True
    assert len(find_images(widget.folder)) == 2


def test_a_file_of_another_kind_is_named(tmp_path, sample):
    widget = uploaded(tmp_path, sample, "a.heic", "b.png")
    widget.statement.value, widget.agreed.value = "I am in them", True
    assert widget.reading.startswith("a.heic: not PNG, JPEG or WebP.")


def test_a_damaged_photo_does_not_break_the_widget(tmp_path, sample):
    first = sorted(sample.iterdir())[0]
    widget = upload_photos(tmp_path / "mine", sample)
    widget.photos.value = ({**photo(first, "a.png"), "content": memoryview(b"no picture")},)
    widget.statement.value, widget.agreed.value = "I am in them", True
    (axis,) = widget.figure().axes
    assert [text.get_text() for text in axis.texts] == ["cannot be read"]

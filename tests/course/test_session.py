from dataclasses import replace

import pytest

from mcpkg.backends import best_device
from mcpkg.course import session as module
from mcpkg.course.session import Course, check, find_root, open_course, reveal
from mcpkg.method.methods import MAGICAPTURE, TEXTUAL_INVERSION
from mcpkg.util.errors import Notice
from tests.helpers.tiny_folders import quick_backend, write_pictures


@pytest.fixture
def course(tmp_path):
    for number, name in enumerate(("subjects/ann", "subjects/bob", "styles/chic"), 1):
        write_pictures(tmp_path / "data_samples" / name, seed=number)
    return Course(quick_backend(), tmp_path)


def pair(course):
    return course.source("ann"), course.reference("chic")


def test_samples_are_found_from_a_notebook_in_any_folder(course, monkeypatch):
    below = course.root / "notebooks" / "solutions"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_root() == course.root


def test_samples_of_the_clone_are_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (find_root() / "data_samples" / "subjects" / "amara").is_dir()


@pytest.mark.slow
def test_an_installed_package_renders_the_samples_in_the_notebooks_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages" / "mcpkg" / "course" / "session.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.warns(Notice, match="rendered"):
        assert find_root() == tmp_path
    assert (tmp_path / "data_samples" / "subjects" / "amara" / "01.png").is_file()


@pytest.mark.slow
def test_portraits_are_read_once_and_from_any_folder(course, tmp_path):
    assert course.source("ann") is course.source("ann")
    own = write_pictures(tmp_path / "own", n=3)
    assert len(course.source(own)) == 3
    assert course.source(own) is not course.source(own)  # its pictures may have changed, or be another person's
    with pytest.raises(FileNotFoundError, match="carl: neither a folder nor one of ann, bob"):
        course.source("carl")


@pytest.mark.slow
def test_a_training_is_done_once_and_found_by_another_notebook(course, monkeypatch, capsys):
    method = course.method(TEXTUAL_INVERSION)
    first = course.train(method, *pair(course))
    assert [step["step"] for step in course.history(method, *pair(course))] == [0]

    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr("mcpkg.training.run_folder.open_training", fail)
    again = Course(quick_backend(), course.root)
    second = again.train(method, *pair(again))
    assert (second.embeddings["<v1>"] == first.embeddings["<v1>"]).all()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("Textual Inversion: 1 steps in ")
    assert "runs/course/tiny-textual_inversion-ann-chic-" in lines[0]


@pytest.mark.slow
def test_whatever_the_adapter_depends_on_changes_the_folder(course):
    method, (ann, chic) = course.method(TEXTUAL_INVERSION), pair(course)
    runs = [
        (method, ann, chic, 0),
        (method, ann, chic, 1),
        (method, course.source("bob"), chic, 0),
        (replace(method, vectors=2), ann, chic, 0),
        (method, ann[:1], chic, 0),
    ]
    assert len({course.folder(*run) for run in runs}) == len(runs)


@pytest.mark.slow
def test_two_notebooks_do_not_train_the_same_thing_at_once(course):
    from filelock import FileLock, Timeout

    method, folder = course.method(TEXTUAL_INVERSION), course.folder(course.method(TEXTUAL_INVERSION), *pair(course))
    held = []

    def locked_elsewhere(*args, **kwargs):
        try:
            FileLock(f"{folder}.lock", timeout=0.01).acquire()
        except Timeout:
            held.append(True)
        return train_in_folder(*args, **kwargs)

    from mcpkg.training import run_folder

    train_in_folder = run_folder.train_in_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "train_in_folder", locked_elsewhere)
        course.train(method, *pair(course))
    assert held == [True]


def test_a_fraction_shortens_every_phase():
    course = Course(replace(quick_backend(), tune=lambda method: method), find_root())
    # 1200 and 1500 steps
    assert [phase.steps for phase in course.method(MAGICAPTURE, fraction=0.1).phases] == [120, 150]
    assert [phase.steps for phase in course.method(MAGICAPTURE, fraction=1e-9).phases] == [1, 1]
    with pytest.raises(ValueError, match="fraction: 0 is not in"):
        course.method(MAGICAPTURE, fraction=0)


def test_auto_is_the_best_backend_that_this_machine_can_run():
    assert open_course().backend.name == "mini"


def test_a_gpu_is_for_the_large_models(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [best_device(name) for name in ("mini", "mini-balanced", "sd15")] == ["cpu", "cpu", "cuda"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert best_device("sd15") == "cpu"


def test_an_answer_is_checked_once_it_is_given(capsys):
    def fails(_):
        raise ZeroDivisionError

    check(None, fails)
    check(4, lambda x: x == 4)
    check(4, lambda x: None)  # one that asserts returns nothing
    assert capsys.readouterr().out.splitlines() == ["not answered yet", "right", "right"]
    with pytest.raises(AssertionError, match="not yet. Count again."):
        check(5, lambda x: x == 4, "Count again.")

    def asserts(x):
        assert x == 4, "Five is too many."

    with pytest.raises(AssertionError, match="not yet. Count again. Five is too many."):
        check(5, asserts, "Count again.")


def test_a_wrong_answer_of_zero_counts_as_answered():
    with pytest.raises(AssertionError):
        check(0, lambda x: x == 4)


def test_a_guess_is_shown_beside_what_was_measured(capsys):
    reveal(0.5, 0.126, "leakage")
    reveal(None, 0.126, "leakage")
    assert capsys.readouterr().out.splitlines() == ["leakage: 0.13 (you guessed 0.50)", "leakage: 0.13 (no guess)"]


def test_outside_a_notebook_only_the_last_line_is_printed(capsys):
    line = module._StatusLine()
    line.show("half")
    line.end("done")
    assert capsys.readouterr().out == "done\n"


def test_a_finding_is_asserted_on_the_built_in_model_and_printed_on_others(course, capsys):
    course.backend = replace(course.backend, name="mini")
    course.expect(True)
    with pytest.raises(AssertionError, match="the numbers differ from those of this lesson"):
        course.expect(False)
    course.backend = replace(course.backend, name="sd15")
    course.expect(True)
    assert capsys.readouterr().out == ""
    course.expect(False)
    assert "on sd15 the result differs" in capsys.readouterr().out


def test_lessons_take_short_settings_where_a_training_takes_long(course):
    course.backend.tune_short = lambda method: replace(
        method, phases=tuple(replace(phase, steps=8) for phase in method.phases)
    )
    assert [phase.steps for phase in course.method(MAGICAPTURE).phases] == [8, 8]
    assert [phase.steps for phase in course.method(MAGICAPTURE, fraction=0.5).phases] == [4, 4]

import mcpkg.util.progress as progress
from mcpkg.util.progress import show_progress


def test_a_log_gets_a_line_for_every_tenth(monkeypatch, capsys):
    now = iter(range(0, 10_000, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with show_progress(40, "MagiCapture", "steps", done=10) as bar:
        for _ in range(30):
            bar.advance(note="phase 1")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"MagiCapture: {done} of 40 steps" for done in (12, 16, 20, 24, 28, 32, 36, 40)
    ]
    assert "left (phase 1)" in lines[0] and "about 00:00 left" in lines[-1]


def test_a_quick_job_and_one_that_is_to_be_silent_write_nothing(monkeypatch, capsys):
    with show_progress(10, "", "steps") as bar:
        bar.advance(10)
    monkeypatch.setattr(progress, "QUIET_S", -1)
    with show_progress(10, "", "steps", show=False) as bar:
        bar.advance(10)
    assert capsys.readouterr() == ("", "")

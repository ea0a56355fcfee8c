import pytest

from mcpkg.errors import one_line_errors


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, FloatingPointError])
def test_bad_input_is_one_line_and_exit_code_2(capsys, kind):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise kind("n: 0.\n  Give more.")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: n: 0. Give more.\n"


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("missing")

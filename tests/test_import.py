import subprocess
import sys

import mcpkg

PROBE = """
import sys, time
start = time.perf_counter()
import mcpkg
assert time.perf_counter() - start < 0.3, time.perf_counter() - start
assert 'torch' not in sys.modules
mcpkg.MAGICAPTURE
assert 'torch' not in sys.modules
"""


def test_importing_is_quick_and_loads_no_torch():
    subprocess.run([sys.executable, "-c", PROBE], check=True, cwd=mcpkg.__path__[0] + "/..")


def test_public_names_are_listed_and_found():
    assert set(mcpkg.__all__) <= set(dir(mcpkg))
    assert mcpkg.MAGICAPTURE.name == "MagiCapture"
    assert callable(mcpkg.capture_attention)


def test_an_unknown_name_lists_the_public_ones():
    try:
        mcpkg.personalize
    except AttributeError as error:
        assert "personalise" in str(error)
    else:
        raise AssertionError

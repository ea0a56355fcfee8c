import json

import pytest

from benchmarks import generate_memory


@pytest.mark.slow
def test_a_killed_generate_is_measured_and_draws_the_rest_with_the_same_bytes(capsys):
    with pytest.raises(SystemExit) as stop:
        generate_memory.main(n=16, few=1, steps=1, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert 8 <= result["there_after_kill"] < 16
    assert (result["same_bytes"], result["leftovers"]) == (16, 0)
    assert result["few_mib"] > 50  # of a process that has loaded torch
    assert stop.value.code == (0 if result["more_memory"] <= 1.1 else 1)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="--n is at least 16"):
        generate_memory.main(n=2)

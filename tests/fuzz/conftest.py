"""Prints how many malformed inputs were tried."""

from tests.fuzz.harness import COUNTS


def pytest_terminal_summary(terminalreporter):
    if COUNTS:
        total = sum((sum(counts.values()) for counts in COUNTS.values()), 0)
        terminalreporter.write_line(f"malformed inputs: {total}")
        for group, counts in COUNTS.items():
            terminalreporter.write_line(f"  {group:<22} " + ", ".join(f"{n} {end}" for end, n in counts.items()))

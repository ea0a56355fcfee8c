"""The command line: mcpkg train | grid | generate | evaluate | leakage | knock | masks | export | demo | doctor |
weights.

Progress and notices go to standard error, results to standard output. Bad input gives one line and exit code 2.
"""

from collections.abc import Sequence

from mcpkg.cli.checks import doctor, masks
from mcpkg.cli.demo import run_demo
from mcpkg.cli.downloads import weights
from mcpkg.cli.export_files import export
from mcpkg.cli.grids import grid
from mcpkg.cli.portraits import evaluate, generate, knock, leakage
from mcpkg.cli.running import run_command
from mcpkg.cli.training import train

COMMANDS = {
    "train": train,
    "grid": grid,
    "generate": generate,
    "evaluate": evaluate,
    "leakage": leakage,
    "knock": knock,
    "masks": masks,
    "export": export,
    "demo": run_demo,
    "doctor": doctor,
    "weights": weights,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command, see `run_command`."""
    run_command(COMMANDS, args)


if __name__ == "__main__":
    main()

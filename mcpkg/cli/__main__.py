"""The command line: mcpkg train | generate | evaluate | leakage | knock | masks | export | demo | doctor | weights.

Progress and notices go to standard error, results to standard output. Bad input gives one line and exit code 2.
"""

import sys
from collections.abc import Sequence

import tyro

from mcpkg.cli.checks import doctor, masks
from mcpkg.cli.demo import run_demo
from mcpkg.cli.downloads import weights
from mcpkg.cli.export_files import export
from mcpkg.cli.portraits import evaluate, generate, knock, leakage
from mcpkg.cli.training import train
from mcpkg.util.errors import one_line_errors

COMMANDS = {
    "train": train,
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
DESCRIPTION = "A person from a few photos, a style from a few portraits, and new portraits that combine both."
CONFIG = (tyro.conf.FlagCreatePairsOff,)
INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: as typed after `mcpkg`; by default those of the process.

    Raises:
        SystemExit: with the command's exit code, unless it is 0.
    """
    try:
        with one_line_errors():
            code = tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="mcpkg", description=DESCRIPTION, args=args, config=CONFIG
            )
    except KeyboardInterrupt:
        print("stopped. When its command is repeated, a training continues from its last checkpoint.", file=sys.stderr)
        code = INTERRUPTED
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()

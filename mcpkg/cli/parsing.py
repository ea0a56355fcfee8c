"""The command line as typed: options from a file, and one line for what cannot be understood."""

import difflib
import inspect
import io
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from mcpkg.util.errors import BadOption

CONFIG = (tyro.conf.FlagCreatePairsOff,)
DESCRIPTION = """A person from a few photos, a style from a few portraits, and new portraits that combine both.

mcpkg --version prints the version; mcpkg --tyro-print-completion bash (or zsh, fish) prints a completion script."""
_FRAME = "╭╮╰╯│|─ "
FILE_HELP = (
    "TOML or JSON file with options by name, such as seed = 1, and [weights] identity = 0.5; those that are typed win. "
    "The settings.json of a folder that mcpkg wrote serves as one."
)


def parse(commands: Mapping[str, Callable], args: Sequence[str]) -> tuple[str, partial]:
    """The command's name, and the call that was typed; it is not made yet.

    Raises:
        BadOption: no such command or option, a bad value, or a bad file of options; one line.
        SystemExit: help or a completion script was asked for and printed.
    """
    words, name = list(args), next(iter(args), "")
    if name and not name.startswith("-") and name not in commands:
        raise BadOption(f"{name}: no such command. {_suggestion(name, commands)}")
    if not name:
        raise BadOption(f"no command. Give one of {', '.join(commands)}; mcpkg --help tells what they do.")
    if name in commands:
        words = _with_file(name, words, commands[name])
    messages = io.StringIO()
    try:
        with redirect_stderr(messages):
            return name, tyro.extras.subcommand_cli_from_dict(
                {name: _deferred(command) for name, command in commands.items()},
                prog="mcpkg", description=DESCRIPTION, args=words, config=CONFIG,
            )  # fmt: skip
    except SystemExit as stop:
        if not stop.code:
            raise
        raise BadOption(_in_one_line(messages.getvalue(), name, words, commands)) from None


def _deferred(command: Callable) -> Callable[..., partial]:
    """The command with the option --config, as a function that returns the call instead of making it."""

    # a lambda, because it gets its annotations below, and tests check those of a def
    defer = lambda *, config=None, **options: partial(command, **options)  # noqa: E731
    annotation = Annotated[Path | None, tyro.conf.arg(help=FILE_HELP, help_behavior_hint="")]
    option = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    signature = inspect.signature(command)
    given = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    defer.__signature__ = signature.replace(parameters=[*given, option])  # type: ignore[attr-defined]
    defer.__doc__, defer.__name__ = command.__doc__, command.__name__
    defer.__annotations__ = command.__annotations__ | {"config": annotation}
    return defer


def _flags(command: Callable) -> dict[str, bool]:
    """Flag -> whether a value follows it, as the command's help says."""
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        tyro.cli(_deferred(command), args=["--help"], config=CONFIG)
    return {
        flag: bool(value) for flag, value in re.findall(r"^[│| ] {1,2}(--[a-z][\w.-]*)( \S)?", shown.getvalue(), re.M)
    }


def _with_file(name: str, words: list[str], command: Callable) -> list[str]:
    """The words with those of `--config FILE` before them, so that the typed ones win."""
    for at, word in enumerate(words):
        if word == "--config" or word.startswith("--config="):
            value, rest = (
                (word[9:], words[at + 1 :]) if "=" in word else (" ".join(words[at + 1 : at + 2]), words[at + 2 :])
            )
            if not value or value.startswith("--"):
                raise BadOption("--config: the file is missing. Give a TOML or JSON file.")
            return [name, *_read_options(Path(value), name, command), *words[1:at], *rest]
    return words


def _read_options(file: Path, name: str, command: Callable) -> list[str]:
    """The options in a file as words of the command line."""
    try:
        values = (tomllib if file.suffix == ".toml" else json).loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # broken text as well as broken TOML or JSON
        raise BadOption(f"{file}: cannot be read as {file.suffix.lstrip('.') or 'JSON'} ({error}).") from None
    if not isinstance(values, dict):
        raise BadOption(f"{file}: holds no options. Write them by name, such as seed = 1.")
    if "mcpkg" in values and not isinstance(values.get(name), dict):
        raise BadOption(f"{file}: holds no options of mcpkg {name}. Give the settings.json of a folder that it wrote.")
    if isinstance(values.get(name), dict):  # settings.json has one set of options for each command
        values = values[name]
    flags, words = _flags(command), []
    for key, value in _flat(values).items():
        flag = "--" + key.replace("_", "-")
        negative = flag.replace("--", "--no-", 1)
        if flag not in flags and negative not in flags:
            raise BadOption(f"{file}: {key} is no option of mcpkg {name}. {_suggestion(flag, flags)}")
        if isinstance(value, bool) and not flags.get(flag, False):
            words += [flag] if value and flag in flags else [negative] if not value and negative in flags else []
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return words


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _in_one_line(box: str, name: str, words: Sequence[str], commands: Mapping[str, Callable]) -> str:
    """What tyro says in a box of several lines, or better."""
    help_of = f"mcpkg {name} --help" if name in commands else "mcpkg --help"
    if name in commands:
        flags = _flags(commands[name])
        for word in words[1:]:
            flag = word.partition("=")[0].replace("_", "-")
            if word.startswith("--") and flag not in flags:
                return f"{word.partition('=')[0]}: no option of mcpkg {name}. {_suggestion(flag, flags)}"
    lines = [line.strip(_FRAME) for line in box.splitlines()]
    missing = [line.split()[0] for line in lines if line.startswith("--") and set(line) != {"-"}]
    if any(line.startswith("Missing from") for line in lines):
        return f"mcpkg {name}: {' and '.join(missing)} missing. {help_of} tells what to give."
    blocks = [[]]
    for line in lines[1:]:  # below the title
        if line and set(line) != {"-"}:
            blocks[-1].append(line)
        else:
            blocks.append([])
    said = next((block for block in blocks if block), ["it cannot be understood"])
    return f"{' '.join(said).rstrip('.')}. {help_of} lists all options."


def _suggestion(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    names = [name for name in known if not name.startswith("--tyro")]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Choose from {', '.join(names)}." if not word.startswith("-") else "--help lists all."

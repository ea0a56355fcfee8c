"""Writes the results of a finished run to its folder, in the same way for every command."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcpkg.data.portraits import Portraits
    from mcpkg.method.interfaces import Backend
    from mcpkg.metrics.compare import Outcome

SCORES_FILE = "scores.json"


def write_results(
    folder: Path,
    backend: "Backend",
    source: "Portraits",
    reference: "Portraits",
    result: "Outcome",
    before: "Outcome | None" = None,
    elsewhere: "Outcome | None" = None,
    consent: str = "",
    photos: bool = True,
) -> Path:
    """Write portraits/, portraits.png, attention.png, scores.json and the report, all or none; return its path.

    Args:
        result, before, elsewhere: see `write_report`.
        consent: the record of who consented to what.
        photos: False to leave the training images out of sheet and report, and their folders out of the scores.
    """
    from mcpkg.inference.provenance import save_portraits
    from mcpkg.util.files import write_json
    from mcpkg.util.folders import replace_together
    from mcpkg.util.images import save_figure
    from mcpkg.viz.report import REPORT_FILE, write_report
    from mcpkg.viz.sheets import attention_sheet, portraits_sheet

    outcomes = [outcome for outcome in (before, result) if outcome is not None]
    restored = backend.restorer.restore(result.generated.images) if backend.restorer is not None else None
    given = {"source": source, "reference": reference} if photos else {"source": None, "reference": None}
    sheet = portraits_sheet(**given, generated=result.generated, restored=restored, scores=result.scores)
    tokens = {role: placeholder.token for role, placeholder in result.adapter.placeholders.items()}
    rows = {outcome.name: (outcome.generated, outcome.scores) for outcome in outcomes}
    summary = {
        "source": str(source.paths[0].parent) if photos else None,
        "reference": str(reference.paths[0].parent) if photos else None,
        "seed": result.adapter.seed,
        "prompt": result.generated.prompt,
        "methods": {outcome.name: outcome.as_dict() for outcome in (*reversed(outcomes), elsewhere) if outcome},
    }
    with replace_together(folder, last=REPORT_FILE) as staged:
        save_portraits(result.generated, staged / "portraits")
        save_figure(sheet, staged / "portraits.png")
        save_figure(attention_sheet(rows, tokens), staged / "attention.png")
        write_json(summary, staged / SCORES_FILE)
        write_report(
            staged, backend, source, reference, result, before, restored, consent, command_line(), photos, elsewhere
        )
    return folder / REPORT_FILE


def command_line() -> str:
    """The command as typed, without the program's folder; empty if mcpkg was called from another program."""
    program = Path(sys.argv[0])
    is_package = (program.parent.name, program.name) == ("cli", "__main__.py")  # python -m mcpkg.cli
    if not is_package and program.name not in ("mcpkg", "demo.py"):
        return ""
    return shlex.join(["mcpkg", *(["demo"] if program.name == "demo.py" else []), *sys.argv[1:]])

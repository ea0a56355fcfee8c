"""mcpkg export: writes an adapter for other programs."""

import json
from pathlib import Path

from mcpkg.cli.options import AsJson, Consent, Models, ModelsFlat, as_flag, check_text, find_adapter
from mcpkg.cli.outputs import WRITES, Overwrite, check_output
from mcpkg.cli.results import SCORES_FILE
from mcpkg.util.files import check_file_name


def export(
    adapter: Path,
    out: Path,
    name: str = "magicapture",
    base_model: str = "",
    scores: Path | None = None,
    consent: Consent = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
) -> None:
    """Write an adapter in the formats of plain diffusers, A1111 and ComfyUI, with a model card.

    Args:
        adapter: folder of a finished run, or of its adapter.
        out: folder to write to.
        name: of the files for A1111 and ComfyUI, and of the placeholders in prompts there: letters, digits, - and _.
        base_model: the model that it was trained on, as a name on the Hub or a folder.
        scores: folder that `mcpkg evaluate` wrote, whose scores the model card shows; by default the run itself.
    """
    output = check_output("export", locals())
    check_text(base_model=base_model, consent=consent)
    try:
        check_file_name(name)
    except ValueError as error:
        raise ValueError(as_flag(str(error))) from None
    models.check()
    learned = find_adapter(adapter)

    from mcpkg.inference.export import export_adapter
    from mcpkg.metrics.compare import in_other_tools
    from mcpkg.metrics.scores import read_scores

    method, file = learned.method.name, (scores or adapter) / SCORES_FILE
    known = elsewhere = None
    if scores or file.is_file():
        known, elsewhere = (read_scores(file, name) for name in (method, in_other_tools(method)))
        if scores and known is None:
            raise ValueError(f"--scores: {file} has no scores of {method}.")
    backend = models.load()
    with output.writing():
        folder = export_adapter(learned, backend, out, name, base_model, known, consent, elsewhere)
    files = sorted(str(path) for pattern in WRITES["export"] for path in folder.glob(pattern))
    print(json.dumps({"folder": str(folder), "files": files}, indent=2) if as_json else "\n".join(files))

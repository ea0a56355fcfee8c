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
    push_to_hub: str = "",
    public: bool = False,
    dry_run: bool = False,
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
        push_to_hub: also upload the files to this repository of the Hugging Face Hub, owner/name, with the token of
            `hf auth login`; needs --consent.
        public: the repository may be one that everybody sees; else it is private.
        dry_run: with --push-to-hub: say what would be uploaded, and do not.
    """
    output = check_output("export", locals())
    check_text(base_model=base_model, consent=consent)
    try:
        check_file_name(name)
    except ValueError as error:
        raise ValueError(as_flag(str(error))) from None
    if push_to_hub:
        _check_push(push_to_hub, consent)
    elif public or dry_run:
        raise ValueError(f"--{'public' if public else 'dry-run'}: is for --push-to-hub only. Give that too.")
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
    answer: dict = {"folder": str(folder), "files": files}
    if push_to_hub:
        answer["hub"] = _push(folder, name, push_to_hub, public, dry_run)
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    print("\n".join(files))
    if push_to_hub:
        kind, verb = "public" if public else "private", "would upload" if dry_run else "uploaded"
        print(f"{verb} to huggingface.co/{push_to_hub} ({kind}): {', '.join(answer['hub']['files'])}")


def _check_push(repository: str, consent: str) -> None:
    from mcpkg.inference.hub import check_repository

    try:
        check_repository(repository)
    except ValueError as error:
        raise ValueError(as_flag(str(error))) from None
    if not consent.strip():
        raise ValueError("--push-to-hub: no consent is recorded. Give --consent 'who agreed to what' as well.")


def _push(folder: Path, name: str, repository: str, public: bool, dry_run: bool) -> dict:
    from mcpkg.inference.hub import plan_upload, push_to_hub

    files = plan_upload(folder, name)
    commit = None if dry_run else push_to_hub(folder, name, repository, public)
    return {"repository": repository, "private": not public, "files": files, "commit": commit}

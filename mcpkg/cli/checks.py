"""mcpkg masks | doctor: checks before training."""

import json
from pathlib import Path

from mcpkg.cli.options import AsJson, Models, ModelsFlat, PicturesFlat
from mcpkg.cli.outputs import Overwrite, check_output


def masks(
    pictures: PicturesFlat,
    out: Path,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
) -> int:
    """Check the folders and draw the masks that training would use; exits with 1 if training would refuse one.

    Args:
        out: folder for the sheets source_masks.png and reference_masks.png.
    """
    output = check_output("masks", locals(), (pictures.source, pictures.reference))
    models.check()
    pictures.check()

    from mcpkg.data.mask_check import diagnose_masks
    from mcpkg.util.files import finite
    from mcpkg.util.folders import replace_together
    from mcpkg.util.images import save_figure
    from mcpkg.viz.sheets import mask_check_sheet

    backend = models.load()
    portraits = dict(zip(("source", "reference"), pictures.load(backend, strict=False), strict=True))
    findings = {role: diagnose_masks(backend, of_role, role) for role, of_role in portraits.items()}
    with output.writing(), replace_together(out) as staged:
        for role in findings:
            save_figure(mask_check_sheet(portraits[role], findings[role]), staged / f"{role}_masks.png")
    refused = any(of_role.mask_problems for of_role in portraits.values())
    if as_json:
        answer = {role: [finding.as_dict() for finding in of_role] for role, of_role in findings.items()}
        print(json.dumps({"usable": not refused, **finite(answer)}, indent=2))
        return int(refused)
    for role, of_role in findings.items():
        for finding in of_role:
            coverage = ", ".join(f"{name} {fraction:.0%}" for name, fraction in finding.coverage.items())
            print("\n  ".join([f"{role:<10} {finding.path}: {coverage}", *finding.warnings]))
        print(out / f"{role}_masks.png")
    return int(refused)


def doctor(as_json: AsJson = False) -> int:
    """Report what this machine can run and what is missing; exits with 1 if the built-in model cannot run."""
    from mcpkg.cli.machine_checks import as_dict, can_run, examine, report_lines

    findings = examine()
    print(json.dumps(as_dict(findings), indent=2) if as_json else report_lines(findings))
    return int(not can_run(findings))

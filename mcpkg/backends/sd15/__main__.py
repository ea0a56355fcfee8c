"""python -m mcpkg.backends.sd15 --dry-run"""

from pathlib import Path
from typing import Literal

import tyro

from mcpkg.errors import one_line_errors


def main(
    dry_run: bool = False,
    out: Path = Path("runs/dry-run"),
    device: str = "cpu",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    steps: int | None = None,
) -> None:
    """Run all of personalisation once at Stable Diffusion 1.5's full size, with random weights, and tell time and memory.

    Args:
        dry_run: do it; without this flag nothing is done.
        out: folder for what it writes.
        device: as torch names it.
        precision: of the weights; by default fp16 on a GPU, fp32 elsewhere.
        steps: of each phase of training, and of drawing; by default 1 on a processor, 4 elsewhere.
    """
    if not dry_run:
        raise ValueError("nothing to do. Give --dry-run; to personalise, `mcpkg train --backend sd15`.")
    from mcpkg.backends.sd15.dry_run import dry_run as run

    precision = precision or ("fp16" if device.startswith("cuda") else "fp32")
    steps = steps or (1 if device == "cpu" else 4)
    result = run(out, device, precision, steps, steps)
    counts = ", ".join(f"{name} {n / 1e6:.0f} M" for name, n in result.parameters.items())
    print(f"{counts}; {result.image_size_px} pixels a side; {result.device}, {result.precision}; "
          f"identity network with {result.identity} weights")  # fmt: skip
    for report in result.steps:
        terms = ", ".join(f"{name} {value:.3f}" for name, value in report.items() if name not in ("phase", "seconds"))
        print(f"phase {report['phase']}: {report['seconds']:.1f} s a step; {terms}")
    for name, seconds in result.seconds.items():
        print(f"{name:<16} {seconds:7.1f} s {result.peak_gib[name]:6.1f} GiB")
    print(f"largest difference to plain diffusers: {result.largest_difference:.1e}; files in {out}")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m mcpkg.backends.sd15")

"""Checks of this machine: what it can run, what is missing, and what to do about it."""

import importlib
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mcpkg.util.cores import usable_cores
from mcpkg.util.errors import first_line
from mcpkg.util.optional import EXTRAS

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LEAST_MEMORY_GIB = 2.0
"""Free memory below which training on the built-in model may fail: Python with torch already uses about 1 GiB."""
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
"""The versions that the tests ran with; only in a checkout, not in an installed package."""
OPTIONAL_PACKAGES = {
    "insightface": ("scoring identity on photos", EXTRAS["face"]),
    "facexlib": ("face parsing and ArcFace on photos", EXTRAS["restore"]),
    "gfpgan": ("restoring faces on real photos", EXTRAS["restore"]),
    "bitsandbytes": ("8-bit AdamW", EXTRAS["gpu"]),
    "prodigyopt": ("Prodigy", EXTRAS["prodigy"]),
    "tensorboard": ("--log-with tensorboard", EXTRAS["tensorboard"]),
    "wandb": ("--log-with wandb", EXTRAS["wandb"]),
    "trackio": ("--log-with trackio", EXTRAS["trackio"]),
}
"""Module -> its purpose, and how to install it."""
FOR_SD15 = "Only for Stable Diffusion 1.5 (--backend sd15)"
EXTRA = "Extras"


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    found: str
    ok: bool = True
    needed: bool = False
    """Whether personalising on the built-in model cannot run without it."""
    advice: str = ""
    """What to do about it; empty if nothing has to be done."""
    group: str = "Machine, packages and built-in model"
    needed_for_sd15: bool = False
    """Whether the backend sd15 cannot run without it."""

    def line(self) -> str:
        mark = "ok     " if self.ok else "MISSING" if self.needed else "no     "
        return f"{mark}  {self.what:<24}  {self.found}" + (f"\n{'':35}{self.advice}" if self.advice else "")


def examine() -> list[Finding]:
    """Run all checks; nothing is changed, downloaded or kept in memory."""
    return [*_system(), *_packages(), *_device(), *_weights(), *_published(), *_extras()]


def can_run(findings: list[Finding]) -> bool:
    """Whether everything is there for personalising on the built-in model."""
    return all(finding.ok for finding in findings if finding.needed)


def report_lines(findings: list[Finding]) -> str:
    """The findings as text: the verdicts, then one line for each finding, in groups."""
    missing = [finding.what for finding in findings if finding.needed and not finding.ok]
    verdict = f"This machine cannot run the built-in model yet. Missing: {', '.join(missing)}." if missing else (
        "This machine can personalise and generate with the built-in model."
    )  # fmt: skip
    wanted = [finding.what for finding in findings if finding.needed_for_sd15 and not finding.ok]
    lacks = f"lacks the {', '.join(wanted)}" if wanted else "has the weights that it needs; it wants a GPU"
    lines = [verdict, f"Stable Diffusion 1.5, for photographs: {lacks}."]
    for group in dict.fromkeys(finding.group for finding in findings):
        lines += ["", f"{group}:", *(finding.line() for finding in findings if finding.group == group)]
    return "\n".join(lines)


def as_dict(findings: list[Finding]) -> dict:
    """The findings as values for JSON."""
    return {"can_run": can_run(findings), "findings": [asdict(finding) for finding in findings]}


def _system() -> Iterator[Finding]:
    cores = usable_cores()
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("cores", f"{cores} available to this process")
    free, total = _memory_gib()
    if free is not None:
        enough = free >= LEAST_MEMORY_GIB
        advice = "" if enough else f"Close other programs: below {LEAST_MEMORY_GIB:g} GiB training may fail."
        yield Finding("memory", f"{free:.1f} GiB free of {total:.1f} GiB", enough, advice=advice)


def _memory_gib() -> tuple[float, float] | tuple[None, None]:
    try:
        import psutil  # installed with accelerate

        memory = psutil.virtual_memory()
    except ImportError:
        return None, None
    return memory.available / 2**30, memory.total / 2**30


def _packages() -> Iterator[Finding]:
    """Every requirement of the base install: whether it is installed, in a version that should work."""
    try:
        requirements = _requirements("mcpkg")
    except (ImportError, metadata.PackageNotFoundError) as error:
        yield Finding(
            "packages", f"cannot be determined ({error})", False, advice="Install mcpkg itself: pip install mcpkg"
        )
        return
    tested = _tested_versions()
    for requirement in requirements:
        name, wanted = requirement.name, str(requirement.specifier)
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "not installed", False, True, f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield Finding(name, f"{found}, outside {wanted}", False, True, f"pip install '{requirement}'")
        elif tested.get(name, release := found.partition("+")[0]) != release:  # "+cpu" is the same release
            yield Finding(name, f"{found}; the tests ran with {tested[name]}")
        else:
            yield Finding(name, found)
    yield from _conflicts([requirement.name for requirement in requirements])


def _requirements(package: str) -> "list[Requirement]":
    """What a package requires on this machine, without its extras."""
    from packaging.requirements import Requirement

    requirements = map(Requirement, metadata.requires(package) or ())
    return [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]


def _conflicts(packages: list[str]) -> Iterator[Finding]:
    """What these packages require in turn and lack, as `pip check` finds it.

    Some refuse to be imported then; to find that out by importing them would take seconds.
    """
    waiting, seen = [*packages, "torchvision"], set()  # where there is a torchvision, transformers imports it
    while waiting:
        if (package := waiting.pop()) in seen:
            continue
        seen.add(package)
        with suppress(metadata.PackageNotFoundError):
            for requirement in _requirements(package):
                name, wanted = requirement.name, str(requirement.specifier)
                try:
                    found = metadata.version(name)
                except metadata.PackageNotFoundError:
                    found = "not installed"
                if found == "not installed" or not requirement.specifier.contains(found, prereleases=True):
                    lack = f"{found}, but {package} requires {name}{wanted}"
                    yield Finding(name, lack, False, advice=f"pip install '{name}{wanted}'")
                else:
                    waiting.append(name)


def _tested_versions() -> dict[str, str]:
    if not CONSTRAINTS.is_file():
        return {}
    lines = CONSTRAINTS.read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


def _device() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, RuntimeError, OSError) as error:
        advice = "Install it again: pip install --force-reinstall torch, with --index-url for a CPU-only one."
        yield Finding("torch", f"cannot be imported ({first_line(error)})", False, True, advice)
        return
    yield Finding("threads", f"torch uses {torch.get_num_threads()}; a training of the built-in model, one by default")
    advice = "It works, but slowly: keep --precision fp32, the default."
    if torch.cuda.is_available():
        gpu, bf16 = torch.cuda.get_device_properties(0), torch.cuda.is_bf16_supported(including_emulation=False)
        yield Finding(
            "gpu", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB; commands use it unless --device cpu is given"
        )
        advice = "" if bf16 else advice
    else:
        has_mps = torch.backends.mps.is_available()
        found = "Apple's, on which mcpkg was not tested" if has_mps else "none for torch; the processor is enough"
        yield Finding("gpu", found, False)
        can = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch lack it
        bf16, fast = can.get("avx512_bf16", False), can.get("amx_bf16", False)
        advice = "" if fast else "Without AMX it may be slower: keep --precision fp32, the default." if bf16 else advice
        bf16 = bf16 or fast
    yield Finding("bf16", "in hardware" if bf16 else "not in hardware", bf16, advice=advice)


def _weights() -> Iterator[Finding]:
    try:
        from mcpkg.backends.mini.backend import missing_weights
    except (ImportError, RuntimeError, OSError) as error:  # a finding above names the broken package
        found = f"cannot be checked ({first_line(error)})"
        yield Finding("mini", found, False, True, "Fix the packages above first.")
        return
    missing = missing_weights()
    advice = "  ".join(missing)
    found = f"weights missing: {', '.join(map(str, missing.values()))}" if missing else "all weights are there"
    yield Finding("mini", found, not missing, True, advice and f"Train what is missing: {advice}")


def _extras() -> Iterator[Finding]:
    for name, (purpose, how) in OPTIONAL_PACKAGES.items():
        group = EXTRA if name in ("prodigyopt", "tensorboard", "wandb", "trackio") else FOR_SD15
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError, AttributeError, OSError) as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == name
            found = "not installed" if absent else f"installed, but cannot be imported ({first_line(error)})"
            yield Finding(name, f"{found}; only for {purpose}", False, advice=how, group=group)
        else:
            yield Finding(name, f"there, for {purpose}", group=group)


def _published() -> Iterator[Finding]:
    """Published weights, which only the backend sd15 needs."""
    from mcpkg.backends.downloads import WEIGHTS

    for published in WEIGHTS.values():
        finding = partial(Finding, f"{published.name} weights", group=FOR_SD15, needed_for_sd15=published.needed)
        try:
            there = published.is_there
        except (ImportError, RuntimeError, OSError) as error:  # a finding above names a broken huggingface-hub
            yield finding(f"cannot be checked ({first_line(error)})", ok=False)
            continue
        if there:
            yield finding(f"there: {published.place}")
        else:
            found = "not there, and needed" if published.needed else "not there, optional"
            yield finding(found, ok=False, advice=published.how_to_get())

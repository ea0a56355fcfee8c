"""Options that several commands share; each field's sentence is its help."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mcpkg.backends import BACKENDS, check_choices, tune_without_models, with_recipe
from mcpkg.backends.photo_models import FACE_PARSERS, IDENTITY_TRAINERS
from mcpkg.cli.overrides import Overrides, RefocusingOverrides, WeightOverrides, apply_overrides
from mcpkg.cli.results import SCORES_FILE
from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import Method
from mcpkg.training.run_options import RunOptions
from mcpkg.util.errors import BadOption

if TYPE_CHECKING:
    from mcpkg.data.portraits import Portraits
    from mcpkg.inference.adapter import Adapter
    from mcpkg.method.interfaces import Backend

AsJson = Annotated[bool, tyro.conf.arg(name="json", help="Print the answer as JSON, for a program to read.")]
CONSENT_HELP = (
    "Who agreed to the use of the photos; shown in report and card. Without it, they state that no consent was "
    "recorded."
)
Consent = Annotated[str, tyro.conf.arg(help=CONSENT_HELP)]

PHOTOS_HELP = (
    "The report and the sheet portraits.png show the photos that were learned from; with --no-photos they do not, and "
    "the report names neither files nor folders."
)
Photos = Annotated[bool, tyro.conf.arg(help=PHOTOS_HELP)]

FACE_PARTS_HELP = (
    f"For sd15 with the weights of a face parser ({' or '.join(FACE_PARSERS)}): what counts as face, by default "
    "skin brows eyes nose lips."
)


DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
"""Kinds of devices on which models can run."""


@dataclass(frozen=True)
class Models:
    """Which models, and where they run."""

    backend: Literal[tuple(BACKENDS)] = next(iter(BACKENDS))
    """Which models."""
    device: str = "auto"
    """Where they run: auto for a GPU (CUDA or Apple's) where there is one, else the processor; or as torch names it,
    such as cpu or cuda:1."""
    checkpoint: str = ""
    """For sd15: a Stable Diffusion 1.x model by hub id (with @ and a commit to pin it), folder or .safetensors file; by
    default 1.5 itself."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Precision of sd15's weights, and of training; by default fp16 for sd15 on a GPU, else fp32."""
    safety: bool = True
    """For sd15: with --no-safety, images that its safety checker finds unsafe are not withheld."""
    identity: Literal[tuple(IDENTITY_TRAINERS)] = next(iter(IDENTITY_TRAINERS))
    """For sd15: the network of the identity loss."""
    face_parts: Annotated[tuple[str, ...], tyro.conf.arg(help=FACE_PARTS_HELP)] = ()
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """For sd15: gradient checkpointing in training, less memory for a third more time; auto turns it on where the GPU's
    memory asks for it."""

    def check(self) -> None:
        """Raise on what is wrong for certain, without loading anything; `load` finds out the rest.

        Raises:
            ValueError: no such kind of device, or an option that the backend does not have.
        """
        if not re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", self.device):
            raise ValueError(f"--device: {self.device!r} is none that torch can use here. Try cpu.")
        check_choices(self.backend, self._choices())
        check_text(checkpoint=self.checkpoint)

    def load(self) -> "Backend":
        """Load the backend.

        Raises:
            ValueError: no such device, or an option that the backend does not have.
            OSError: weights are missing.
        """
        import torch

        from mcpkg.backends import load_backend

        device = found_device() if self.device == "auto" else self.device
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError):  # torch raises either
            raise ValueError(f"--device: {self.device!r} is none that torch can use here. Try auto or cpu.") from None
        return load_backend(self.backend, device, **self._choices())

    def _choices(self) -> dict:
        """Return the options that differ from their defaults.

        `precision` is among them only if the backend has that option: it also sets the training of every backend.
        """
        names = ["checkpoint", "safety", "identity", "face_parts", "checkpointing"]
        names += ["precision"] if "precision" in BACKENDS[self.backend].options else []
        default = Models()
        return {name: value for name in names if (value := getattr(self, name)) != getattr(default, name)}


def found_device() -> str:
    """The GPU that torch can use, named in a line on standard error; else the processor."""
    import torch

    if torch.cuda.is_available():
        own = os.environ.get("LOCAL_RANK")  # one of several processes that accelerate started: each has its own GPU
        name, found = torch.cuda.get_device_name(), "cuda" if own is None else f"cuda:{own}"
    elif torch.backends.mps.is_available():
        name, found = "Apple's GPU, on which mcpkg was not tested", "mps"
    else:
        return "cpu"
    print(f"device: {found} ({name}); --device cpu for the processor", file=sys.stderr)
    return found


@dataclass(frozen=True)
class Pictures:
    """Folders to learn from."""

    source: Path
    """Folder with photos of one person: who."""
    reference: Path
    """Folder with portraits of others that share a look: the style."""
    mask_from: Literal["files", "alpha", "parser"] = "files"
    """Where face masks come from: files in a folder `masks` beside the images, their transparency, or the parser. Where
    the first two have none, the parser's is taken."""

    def check(self) -> None:
        """Raise unless the folders hold images; needs no model.

        Raises:
            OSError, ValueError: a folder is missing, empty or holds too few.
        """
        from mcpkg.data.image_folders import find_images

        for folder in (self.source, self.reference):
            find_images(folder)
        if self.source.resolve() == self.reference.resolve():
            raise ValueError(
                f"{self.source}: source and reference are the same folder. The look comes from portraits of others."
            )

    def load(self, backend: "Backend", strict: bool = True) -> tuple["Portraits", "Portraits"]:
        """Source and reference; see `load_portraits`."""
        from mcpkg.data.portraits import load_portraits

        folders = (self.source, self.reference)
        return tuple(load_portraits(folder, backend, mask_from=self.mask_from, strict=strict) for folder in folders)


def as_flag(message: str) -> str:
    """The message, whose first word is the name of a field, with the option as it is typed."""
    name, _, rest = message.partition(":")
    return f"--{name.replace('_', '-')}:{rest}"


def check_text(**given: object) -> None:
    """Raise unless all of these are text that can be written to a file.

    Raises:
        ValueError: names the option.
    """
    for name, value in given.items():
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"--{name.replace('_', '-')}: {text!a} is not UTF-8. Type it again.") from None
        if "\0" in text:
            raise ValueError(f"--{name.replace('_', '-')}: {text!a} holds a zero byte. Type it again.")


def check_training(
    backend: str,
    method: Method,
    recipe: str | None,
    overrides: Overrides,
    weights: WeightOverrides,
    refocusing: RefocusingOverrides,
) -> Method:
    """The method with a recipe's settings and changed so; raise unless it can be trained here. No model is loaded.

    Raises:
        ValueError: names the option.
    """
    from mcpkg.method.optimizer_registry import FINDS_RATE, check_package

    try:
        suited = tune_without_models(backend, method) if recipe is None else with_recipe(backend, method, recipe)
    except ValueError as error:
        raise ValueError(as_flag(str(error))) from None
    changed = apply_overrides(suited, overrides, weights, refocusing)
    most = BACKENDS[backend].max_vectors
    if changed.vectors > most:
        raise ValueError(f"--vectors: {changed.vectors} is above {most}, for which {backend}'s text encoder has room.")
    for name in ("learning_rate", "embedding_learning_rate", "text_learning_rate"):
        if changed.optimizer in FINDS_RATE and getattr(overrides, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: {changed.optimizer} finds its own rate. Leave this out.")
    try:
        check_package(changed.optimizer)
    except ValueError as error:
        raise ValueError(f"--optimizer: {error}") from None
    return changed


def _in_one_line(check: Callable[[object], None]) -> Callable[[object], None]:
    """Return a dataclass's check with its ValueError as a BadOption, which tyro does not show in a box."""

    def checked(self: object) -> None:
        try:
            check(self)
        except ValueError as error:
            raise BadOption(as_flag(str(error))) from None

    return checked


class SamplingOptions(Sampling):
    __doc__ = Sampling.__doc__
    __post_init__ = _in_one_line(Sampling.__post_init__)


class TrainingOptions(RunOptions):
    __doc__ = RunOptions.__doc__
    __post_init__ = _in_one_line(RunOptions.__post_init__)


PicturesFlat = tyro.conf.OmitArgPrefixes[Pictures]  # --source, not --pictures.source
ModelsFlat = tyro.conf.OmitArgPrefixes[Models]
SamplingFlat = tyro.conf.OmitArgPrefixes[SamplingOptions]
TrainingFlat = tyro.conf.OmitArgPrefixes[TrainingOptions]


def find_adapter(folder: Path) -> "Adapter":
    """The adapter in a folder, or in that of a finished run.

    Raises:
        FileNotFoundError: there is none, or the run is not finished.
        ValueError: it is damaged.
    """
    from mcpkg.inference.adapter import SUMMARY_FILE, Adapter
    from mcpkg.training.run_folder import ADAPTER_FOLDER, RUN_FILE

    inside = folder / ADAPTER_FOLDER
    finished = any((place / SUMMARY_FILE).is_file() for place in (folder, inside))
    if not finished and (folder / RUN_FILE).is_file():
        raise FileNotFoundError(f"{folder}: its training is not finished. Repeat the command that began it.")
    return Adapter.load(inside if (inside / SUMMARY_FILE).is_file() else folder)


def find_pictures(run: Path, source: Path | None, reference: Path | None) -> Pictures:
    """The folders given; in place of one that is not, the run's own, which its scores name.

    Args:
        run: folder of a finished run, or of its adapter.

    Raises:
        ValueError: one is not given and the run does not name it, or it is no longer there.
    """
    from mcpkg.training.run_folder import ADAPTER_FOLDER
    from mcpkg.util.files import read_json

    given: dict[str, Path | None] = {"source": source, "reference": reference}
    file = (run.parent if run.name == ADAPTER_FOLDER else run) / SCORES_FILE
    named = read_json(file) if None in given.values() and file.is_file() else {}
    found = {role: Path(named[role]) for role in given if isinstance(named.get(role), str)}
    folders = {role: folder for role, folder in found.items() if folder.is_dir()}
    folders |= {role: folder for role, folder in given.items() if folder is not None}
    if lacking := [f"--{role}" for role in given if role not in folders]:
        raise ValueError(f"{run}: does not say where its pictures are. Give {' and '.join(lacking)}.")
    return Pictures(**folders)

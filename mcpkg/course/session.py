"""The start of each notebook of the course: models, samples, and training runs that are done only once."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpkg.method.config import Method
from mcpkg.method.interfaces import Backend
from mcpkg.world.sample_folders import SAMPLES, ensure_samples

if TYPE_CHECKING:
    from mcpkg.data.portraits import Portraits
    from mcpkg.inference.adapter import Adapter

RUNS = Path("runs", "course")


def open_course(backend: str = "auto", device: str = "") -> "Course":
    """Load the models, find the samples and, in a notebook, turn on the display of figures.

    Args:
        backend: one of `mcpkg.backends.BACKENDS`; "auto" selects the best that this machine can run.
        device: a torch device name; by default the one that suits the backend.

    Raises:
        ValueError: no backend of that name.
        OSError: there is no folder data_samples here or above, and it cannot be rendered here.
    """
    from mcpkg.backends import best_backend, best_device, load_backend

    root = find_root()
    _show_figures()
    name = best_backend() if backend == "auto" else backend
    return Course(load_backend(name, device or best_device(name)), root)


@dataclass
class Course:
    """Models, samples and training runs; the same in every notebook, independent of the working folder."""

    backend: Backend
    root: Path
    """Contains data_samples/ and runs/."""
    _loaded: dict[Path, "Portraits"] = field(default_factory=dict, repr=False)

    def source(self, name: str | Path) -> "Portraits":
        """Load the source: a person of data_samples/subjects by name, such as "amara", or a folder of pictures."""
        return self._portraits("subjects", name)

    def reference(self, name: str | Path) -> "Portraits":
        """Load the reference: a style of data_samples/styles by name, such as "kimono", or a folder of pictures."""
        return self._portraits("styles", name)

    def method(self, method: Method, fraction: float = 1.0) -> Method:
        """Adapt the method's settings to this course's models; where these take long, those for lessons.

        Args:
            fraction: of the steps to train, for lessons that need less; every phase keeps at least one step.

        Raises:
            ValueError: `fraction` is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: {fraction} is not in (0, 1]. Give a fraction of the steps, such as 0.5.")
        tuned = (self.backend.tune_short or self.backend.tune)(method)
        phases = (replace(p, steps=max(1, round(fraction * p.steps)) if p.steps else 0) for p in tuned.phases)
        return replace(tuned, phases=tuple(phases))

    def train(self, method: Method, source: "Portraits", reference: "Portraits", seed: int = 0) -> "Adapter":
        """Train an adapter with `mcpkg.personalise`, or load it if any notebook has trained it before.

        Args:
            method: adapted by `Course.method`.

        Note:
            A second notebook that starts the same training at the same time waits for the first.
        """
        from filelock import FileLock

        from mcpkg.training.run_folder import train_in_folder

        folder = self.folder(method, source, reference, seed)
        line, total = _StatusLine(), sum(phase.steps for phase in method.phases)
        done = 0

        def count(_) -> None:
            nonlocal done
            done += 1
            line.show(f"{method.name}: step {done} of {total}")

        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            adapter = train_in_folder(folder, self.backend, source, reference, method, seed, count, progress=False)
        shown = folder.relative_to(self.root) if folder.is_relative_to(self.root) else folder
        line.end(f"{method.name}: {total} steps in {adapter.record['seconds']:.0f} s, saved in {shown}")
        return adapter

    def history(self, method: Method, source: "Portraits", reference: "Portraits", seed: int = 0) -> list[dict]:
        """Return every step of a finished training as the fields of StepReport; empty if there was none."""
        from mcpkg.training.checkpoints import read_steps

        return read_steps(self.folder(method, source, reference, seed))

    def expect(self, finding: bool) -> None:
        """Check a result of the lesson: raise on the built-in models, print a remark on any other.

        Raises:
            AssertionError: the finding is false on a built-in model.
        """
        from mcpkg.backends import BUILT_IN

        if self.backend.name in BUILT_IN:
            assert finding, "the numbers differ from those of this lesson; was something changed above?"
        elif not finding:
            print(f"This lesson was written for the built-in model; on {self.backend.name} the result differs.")

    def folder(self, method: Method, source: "Portraits", reference: "Portraits", seed: int = 0) -> Path:
        """Return the folder of a training: readable names, then a digest of everything that the result depends on."""
        from accelerate import PartialState

        from mcpkg.training.run_folder import run_settings

        PartialState(cpu=self.backend.device.type == "cpu")  # with the settings of the training
        settings = run_settings(self.backend, source, reference, method, seed, self.backend.precision)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        names = (p.paths[0].parent.name for p in (source, reference))
        words = [self.backend.name, method.name, *names, digest]
        return self.root / RUNS / "-".join(re.sub(r"\W+", "_", word.lower()) for word in words)

    def _portraits(self, kind: str, name: str | Path) -> "Portraits":
        from mcpkg.data.portraits import load_portraits

        sample, folder = self.root / SAMPLES / kind / name, Path(name)
        if not folder.is_dir() and not sample.is_dir():
            known = sorted(path.name for path in (self.root / SAMPLES / kind).iterdir() if path.is_dir())
            raise FileNotFoundError(f"{name}: neither a folder nor one of {', '.join(known)}.")
        if not (sample.is_dir() and sample.is_relative_to(self.root / SAMPLES)):  # an absolute path is not a sample
            return load_portraits(folder, self.backend)  # not cached: its pictures may have changed
        if sample not in self._loaded:
            self._loaded[sample] = load_portraits(os.path.relpath(sample), self.backend)  # a short path for messages
        return self._loaded[sample]


def find_root() -> Path:
    """Find the folder that contains data_samples: this one, one above it, or the one that mcpkg was imported from.

    If none of them does, as with an installed package, the samples are rendered in this one.

    Raises:
        OSError: they cannot be written.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[2]):
        if (folder / SAMPLES / "subjects").is_dir():
            return folder
    return ensure_samples(Path.cwd() / SAMPLES).parent


def check(answer: Any, test: Callable[[Any], Any], hint: str = "") -> None:
    """Raise if an exercise's answer is wrong, else print "right"; an answer that is still None is not checked.

    Args:
        test: function of the answer that returns whether it is right, or asserts it.
        hint: shown with a wrong answer.

    Raises:
        AssertionError: the answer is wrong.
    """
    if answer is None:
        print("not answered yet")
        return
    try:
        right = test(answer)
    except AssertionError as error:
        raise AssertionError(f"not yet. {hint} {error}".strip()) from None
    if right is not None and not right:
        raise AssertionError(f"not yet. {hint}".strip())
    print("right")


def reveal(guess: float | str | None, measured: float | str, what: str) -> None:
    """Print a measured value beside the reader's prediction, if they made one (`guess` is not None)."""

    def text(value: float | str) -> str:
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    guessed = "no guess" if guess is None else f"you guessed {text(guess)}"
    print(f"{what}: {text(measured)} ({guessed})")


class _StatusLine:
    """A line of text that each update replaces, so that a stored notebook keeps only the last one.

    Outside of notebooks only the last one is printed.
    """

    def __init__(self):
        self.handle, self.in_notebook = None, _shell() is not None

    def show(self, text: str) -> None:
        if self.in_notebook:
            from IPython.display import display

            if self.handle is None:
                self.handle = display({"text/plain": text}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": text}, raw=True)

    def end(self, text: str) -> None:
        self.show(text) if self.in_notebook else print(text)


def _shell() -> Any | None:
    """Return the notebook's shell; None if Python runs without one."""
    ipython = sys.modules.get("IPython")
    return ipython and ipython.get_ipython()


def _show_figures() -> None:
    """Make a notebook display figures made without pyplot, as all of mcpkg's are, when they end a cell."""
    if (shell := _shell()) is not None:
        from IPython.core.pylabtools import select_figure_formats
        from matplotlib.figure import Figure

        select_figure_formats(shell, {"png"}, bbox_inches=None)
        as_text = shell.display_formatter.formatters["text/plain"]  # for screen readers
        as_text.for_type(Figure, lambda figure, printer, cycle: printer.text(figure.get_suptitle() or "figure"))

"""Build the notebooks from their .py and run them, so that the committed .ipynb carry their outputs: make notebooks.

A notebook is edited as NN_name.py (jupytext's percent format). solutions/NN_name.py holds the answers to its exercises,
one cell each and in order; solutions/NN_name.ipynb, the notebook with these answers filled in, is built and not
committed.
"""

import argparse
import base64
import io
import re
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from PIL import Image

from mcpkg.util.files import replace_whole

FOLDER = Path(__file__).parent
SOLUTIONS = FOLDER / "solutions"
ADDRESS, COMMIT = "", ""
"""Where the notebooks install mcpkg from: an address on GitHub that is ours, and the commit, 40 digits. Until both are
set, the first cell says how to install by hand, and there are no badges. After a change: build.py --first-cells."""
UNANSWERED = "answer = None"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def find_notebooks(numbers: Sequence[str] = ()) -> list[Path]:
    """Return the .py of every notebook in order, or only of those whose number is given, such as "02"."""
    return sorted(path for path in FOLDER.glob("[0-9][0-9]_*.py") if not numbers or path.name[:2] in numbers)


def read_notebook(path: Path) -> NotebookNode:
    """Return a .py as a notebook without outputs; the same file gives the same bytes."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = NotebookNode(kernelspec=KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
    return notebook


def install_cell(address: str = ADDRESS, commit: str = COMMIT) -> str:
    """The first code cell of every notebook."""
    if not (address and commit):
        return _BY_HAND
    return _FROM_ADDRESS.format(address=address, commit=commit)


def badge(path: Path, address: str = ADDRESS, commit: str = COMMIT) -> str:
    """The line that opens a notebook in Colab; empty until the address is set."""
    if not (address and commit):
        return ""
    place = address.replace("https://github.com", "https://colab.research.google.com/github")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open In Colab]({image})]({place}/blob/{commit}/notebooks/{path.stem}.ipynb)"


_BY_HAND = """\
# Where mcpkg is installed, this cell does nothing.
import importlib.util

if importlib.util.find_spec("mcpkg") is None:
    raise SystemExit(
        "mcpkg is not installed. Unpack its zip into a folder mcpkg, then run in a cell each: "
        "%pip install -e 'mcpkg[notebooks]' and %cd mcpkg. "
        "A wheel does as well (%pip install FILE.whl), beside the folder data_samples."
    )"""
_FROM_ADDRESS = """\
# On a bare Colab runtime this fetches one commit of mcpkg and installs it; where it is installed, it does nothing.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("mcpkg") is None:
    git, pip = ["git", "-C", "mcpkg-course"], [sys.executable, "-m", "pip", "install", "--quiet"]
    for command in (
        ["git", "init", "--quiet", "mcpkg-course"],
        [*git, "fetch", "--quiet", "--depth", "1", "{address}", "{commit}"],
        [*git, "checkout", "--quiet", "{commit}"],
        [*pip, "-e", "mcpkg-course[notebooks]"],  # no -c: it would replace Colab's torch, see README
    ):
        subprocess.run(command, check=True)
    os.chdir("mcpkg-course")
    sys.path.insert(0, os.getcwd())"""


def write_first_cells(path: Path) -> None:
    """Put badge and install cell into a .py and its .ipynb; nothing is run, and the other cells stay as they are."""
    text = path.read_text(encoding="utf-8")
    title, _, rest = text.split("# %%", 3)[1:] if text.startswith("# %%") else ("", "", "")
    title = re.sub(r"\n# \[!\[Open In Colab\].*\n#(?=\n)", "", title)
    if badge(path):
        heading, below = title.split("\n#\n", 1)
        title = f"{heading}\n#\n# {badge(path)}\n#\n{below}"
    text = "# %%".join(["", title, f"\n{install_cell()}\n\n", rest])
    with replace_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    built = path.with_suffix(".ipynb")
    if built.is_file():
        notebook, cells = nbformat.read(built, as_version=4), read_notebook(path).cells
        for old, new in zip(notebook.cells[:2], cells):
            old.source = new.source
        write_notebook(notebook, built)


def run_notebook(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells, with `folder` as working directory, and keep the outputs that are visible without a kernel.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    from nbclient import NotebookClient  # in the extra "dev"; building a solution does not need it

    NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": folder}}, record_timing=False, store_widget_state=False
    ).execute()
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data.pop(WIDGET, None)  # the picture is shown until the cell is run
                output.data["image/png"] = _smaller(output.data["image/png"])


def _smaller(png: str) -> str:
    """Reduce a base64 PNG to an adaptive palette of 256 colours: about a third of the bytes."""
    image, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    image.quantize(256, kmeans=2, dither=Image.Dither.FLOYDSTEINBERG).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def solve_notebook(path: Path) -> NotebookNode:
    """Return the notebook of a .py with its answers filled in and without outputs.

    Raises:
        FileNotFoundError: there are no answers to this notebook.
        ValueError: the notebook has more or fewer exercises than there are answers.
    """
    notebook, answers = read_notebook(path), SOLUTIONS / path.name
    exercises = [cell for cell in code_cells(notebook) if is_exercise(cell)]
    answered = [cell for cell in code_cells(read_notebook(answers)) if is_answer(cell)]
    if len(exercises) != len(answered):
        raise ValueError(
            f"{answers}: {len(answered)} answers to {len(exercises)} exercises. Give each a cell with `answer = ...`."
        )
    for exercise, answer in zip(exercises, answered):
        exercise.source = answer.source
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_exercise(cell: NotebookNode) -> bool:
    """Return whether the cell waits for an answer."""
    return UNANSWERED in cell.source.splitlines()


def is_answer(cell: NotebookNode) -> bool:
    return any(line.startswith("answer = ") for line in cell.source.splitlines()) and not is_exercise(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="which notebooks, such as 02; by default all")
    parser.add_argument("--solutions", action="store_true", help="only build the solutions; nothing is run")
    parser.add_argument(
        "--first-cells", action="store_true", help="only write badges and install cells; nothing is run"
    )
    arguments = parser.parse_args()
    if arguments.first_cells:
        for path in find_notebooks(arguments.numbers):
            write_first_cells(path)
        return
    for path in find_notebooks(arguments.numbers):
        started = time.perf_counter()
        built = (SOLUTIONS / path.name).with_suffix(".ipynb")
        write_notebook(solve_notebook(path), built)
        if not arguments.solutions:
            notebook, built = read_notebook(path), path.with_suffix(".ipynb")
            run_notebook(notebook, FOLDER)
            write_notebook(notebook, built)
        print(f"{built}  {time.perf_counter() - started:.0f} s", flush=True)


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    with replace_whole(path) as partial:
        partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

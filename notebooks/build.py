"""Build the notebooks from their .py and run them, so that what is committed carries its outputs: make notebooks.

A notebook is edited as NN_name.py (jupytext's percent format). Its solution in solutions/ is the same with the answers
filled in; all other cells are carried over from the notebook here.
"""

import argparse
import base64
import io
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from mcpkg.util.files import replace_whole

FOLDER = Path(__file__).parent
SOLUTIONS = FOLDER / "solutions"
UNANSWERED = "answer = None"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def find_notebooks(numbers: Sequence[str] = ()) -> list[Path]:
    """The .py of every notebook, in order; of some, such as "02"."""
    return sorted(path for path in FOLDER.glob("[0-9][0-9]_*.py") if not numbers or path.name[:2] in numbers)


def read_notebook(path: Path) -> NotebookNode:
    """A .py as notebook without outputs; the same file gives the same bytes."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = NotebookNode(kernelspec=KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
    return notebook


def run_notebook(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells, with `folder` as working directory, and keep what a reader without a kernel can see.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": folder}}, record_timing=False, store_widget_state=False
    ).execute()
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data.pop(WIDGET, None)  # its picture stands in for it until the cell is run
                output.data["image/png"] = _smaller(output.data["image/png"])


def _smaller(png: str) -> str:
    """A picture in 256 colours of its own, about a third of the bytes; base64 both."""
    image, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    image.quantize(256, kmeans=2, dither=Image.Dither.FLOYDSTEINBERG).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def carry_over(path: Path) -> None:
    """Write every cell of a notebook but its answers into its solution.

    Raises:
        ValueError: the notebook asks for more or fewer answers than its solution has.
    """
    notebook, solution = read_notebook(path), SOLUTIONS / path.name
    asked = [cell for cell in code_cells(notebook) if is_asked(cell)]
    given = [cell for cell in code_cells(read_notebook(solution)) if is_answered(cell)]
    if len(asked) != len(given):
        raise ValueError(f"{solution}: {len(given)} answers, not {len(asked)}. Each has a line `answer = ...`.")
    for ask, give in zip(asked, given):
        ask.source = give.source
    with replace_whole(solution) as partial:
        partial.write_text(jupytext.writes(_bare(notebook), fmt="py:percent"), encoding="utf-8")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_asked(cell: NotebookNode) -> bool:
    """Whether it waits for an answer."""
    return UNANSWERED in cell.source.splitlines()


def is_answered(cell: NotebookNode) -> bool:
    return any(line.startswith("answer = ") for line in cell.source.splitlines()) and not is_asked(cell)


def _bare(notebook: NotebookNode) -> NotebookNode:
    """Without a header in the .py."""
    notebook.metadata = NotebookNode(jupytext={"notebook_metadata_filter": "-all", "cell_metadata_filter": "-all"})
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="which, such as 02; by default all")
    arguments = parser.parse_args()
    for path in find_notebooks(arguments.numbers):
        started = time.perf_counter()
        carry_over(path)
        solution = SOLUTIONS / path.name
        write_notebook(read_notebook(solution), solution.with_suffix(".ipynb"))  # not run: it would show the same again
        notebook = read_notebook(path)
        run_notebook(notebook, FOLDER)
        write_notebook(notebook, path.with_suffix(".ipynb"))
        print(f"{path.with_suffix('.ipynb')}  {time.perf_counter() - started:.0f} s", flush=True)


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    with replace_whole(path) as partial:
        partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What every notebook promises, seen without running it; nbval runs them (make test)."""

import base64
import io
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from notebooks.build import (
    FOLDER,
    SOLUTIONS,
    UNANSWERED,
    WIDGET,
    carry_over,
    code_cells,
    find_notebooks,
    is_answered,
    is_asked,
    read_notebook,
    run_notebook,
)

REPOSITORY = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
CODE_CELLS, EXERCISES, SIZE_BYTES = 25, 3, 1_500_000
NOTEBOOKS = find_notebooks()
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def committed(path):
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def test_the_course_has_seven_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "06"]


@each_notebook
def test_the_ipynb_has_the_cells_of_the_py(path):
    built, there = read_notebook(path), committed(path)
    assert [(c.cell_type, c.source) for c in there.cells] == [(c.cell_type, c.source) for c in built.cells]


@each_notebook
def test_the_ipynb_was_run_to_the_end_and_carries_what_came_out(path):
    cells = code_cells(committed(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@each_notebook
def test_it_is_small_enough_to_read(path):
    assert len(code_cells(read_notebook(path))) <= CODE_CELLS
    assert path.with_suffix(".ipynb").stat().st_size <= SIZE_BYTES


@each_notebook
def test_it_begins_with_its_badge_and_works_on_colab(path):
    title, bootstrap = read_notebook(path).cells[:2]
    assert re.match(rf"# {path.name[:2]} \S", title.source)
    opened = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
    assert f"({opened}/blob/main/notebooks/{path.stem}.ipynb)" in title.source
    assert bootstrap.source == read_notebook(NOTEBOOKS[0]).cells[1].source


def test_the_first_cell_fetches_and_installs_where_mcpkg_is_missing(tmp_path, monkeypatch):
    code, calls = read_notebook(NOTEBOOKS[0]).cells[1].source, []

    def run(command, check):
        calls.append(command)
        (tmp_path / "mcpkg-course").mkdir(exist_ok=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", run)
    exec(code, {})
    assert calls == []  # it is installed here
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.path", [])
    exec(code, {})
    clone, install = calls
    assert clone[:2] == ["git", "clone"] and clone[-2:] == [REPOSITORY, "mcpkg-course"]
    assert install[1:4] == ["-m", "pip", "install"] and install[-1] == "mcpkg-course[notebooks]"
    assert Path.cwd() == tmp_path / "mcpkg-course"


@each_notebook
def test_exercises_are_checked_in_the_next_cell(path):
    cells = code_cells(read_notebook(path))
    asked = [number for number, cell in enumerate(cells) if is_asked(cell)]
    assert len(asked) >= EXERCISES
    for number in asked:
        lines = [line for line in cells[number].source.splitlines() if line.strip() and not line.startswith("#")]
        assert lines == [UNANSWERED]
        assert "check(answer, " in cells[number + 1].source


@each_notebook
def test_the_solution_is_the_notebook_with_answers(path):
    notebook, solution = read_notebook(path), read_notebook(SOLUTIONS / path.name)
    assert len(notebook.cells) == len(solution.cells)
    for ask, give in zip(notebook.cells, solution.cells):
        assert ask.source == give.source or (is_asked(ask) and is_answered(give))
    assert not any(map(is_asked, code_cells(solution)))


@each_notebook
def test_numbers_in_titles_are_computed(path):
    """A title that is plain text states no number."""
    for cell in code_cells(read_notebook(path)):
        for title in re.findall(r'(?:suptitle|set_title|title=)\(?\s*(?<!f)"([^"]*)"', cell.source):
            assert not re.search(r"\d\.\d|\d+ ?%", title), title


def test_a_change_is_carried_over_into_the_solution_but_its_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("notebooks.build.SOLUTIONS", tmp_path / "solutions")
    path, solution = tmp_path / "00_sum.py", tmp_path / "solutions" / "00_sum.py"
    solution.parent.mkdir()
    path.write_text(
        "# %% [markdown]\n# What is one and one?\n\n# %%\nanswer = None\n\n# %%\nassert answer in (None, 2)\n"
    )
    solution.write_text("# %% [markdown]\n# Old\n\n# %%\n# counted\nanswer = 1 + 1\n\n# %%\n")
    carry_over(path)
    assert solution.read_text() == path.read_text().replace("answer = None", "# counted\nanswer = 1 + 1")
    solution.write_text("# %%\n1 + 1\n")
    with pytest.raises(ValueError, match="0 answers, not 1"):
        carry_over(path)


def test_a_widget_that_has_a_picture_is_stored_as_that(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (2, 1), (10, 200, 30)).save(file, format="PNG")
    (tmp_path / "00_widget.py").write_text(
        f'# %%\nview, png = "{WIDGET}", "{base64.b64encode(file.getvalue()).decode()}"\n'
        'display({view: {"model_id": "1"}, "image/png": png}, raw=True)\n'
        'display({view: {"model_id": "2"}, "text/plain": "slider"}, raw=True)\n'
    )
    notebook = read_notebook(tmp_path / "00_widget.py")
    run_notebook(notebook, tmp_path)
    first, second = notebook.cells[0].outputs
    assert set(first.data) == {"image/png"}
    picture = Image.open(io.BytesIO(base64.b64decode(first.data["image/png"])))
    assert picture.mode == "P" and picture.convert("RGB").getpixel((1, 0)) == (10, 200, 30)  # few colours, but these
    assert set(second.data) == {WIDGET, "text/plain"}


@each_notebook
def test_teachers_find_every_section_and_its_minutes(path):
    row = next(
        line for line in (FOLDER / "TEACHING.md").read_text().splitlines() if line.startswith(f"| {path.name[:2]}, ")
    )
    total, sections = re.fullmatch(r"\| \d\d, (\d+) minutes \| (.+) \|", row).groups()
    planned = dict(re.fullmatch(r"(.+) (\d+)", section).groups() for section in sections.split(" · "))
    text = path.read_text()
    assert list(planned) == [line.removeprefix("# ## ") for line in text.splitlines() if line.startswith("# ## ")]
    assert sum(map(int, planned.values())) == int(total)
    assert f"About {total} minutes" in text


@each_notebook
def test_the_solutions_ipynb_has_the_cells_of_its_py(path):
    solution = SOLUTIONS / path.name
    built, there = read_notebook(solution), committed(solution)
    assert [(c.cell_type, c.source) for c in there.cells] == [(c.cell_type, c.source) for c in built.cells]

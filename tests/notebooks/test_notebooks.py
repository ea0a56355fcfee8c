"""What every notebook promises, seen without running it; nbval runs them (make test)."""

import ast
import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image

import mcpkg
from notebooks.build import (
    FOLDER,
    SOLUTIONS,
    UNANSWERED,
    WIDGET,
    badge,
    code_cells,
    find_notebooks,
    install_cell,
    is_answer,
    is_exercise,
    main,
    read_notebook,
    run_notebook,
    solve_notebook,
)

CODE_CELLS, EXERCISES, SIZE_BYTES = 25, 3, 1_500_000
NOTEBOOKS = find_notebooks()
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def committed(path):
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def test_the_notebooks_are_numbered_from_zero():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(len(NOTEBOOKS))]
    assert len(NOTEBOOKS) >= 7


@pytest.mark.slow
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
def test_it_begins_with_its_title_and_the_same_install_cell(path):
    title, bootstrap = read_notebook(path).cells[:2]
    assert re.match(rf"# {path.name[:2]} \S", title.source)
    assert badge(path) in title.source and ("colab" in title.source) == bool(badge(path))
    assert bootstrap.source == install_cell()


def test_without_an_address_nothing_is_fetched_and_the_first_cell_says_what_to_do(monkeypatch):
    code = install_cell("", "")
    assert "http" not in code and "git" not in code and badge(NOTEBOOKS[0], "", "") == ""
    exec(code, {})  # it is installed here
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="mcpkg is not installed. Unpack its zip"):
        exec(code, {})


def test_with_an_address_one_commit_is_fetched_and_installed_without_replacing_torch(tmp_path, monkeypatch):
    address, commit, calls = "https://github.com/-/ours", "0" * 40, []  # "-" cannot be taken
    code = install_cell(address, commit)

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
    _, fetch, checkout, install = calls
    assert fetch[-2:] == [address, commit] and checkout[-1] == commit
    assert install[1:4] == ["-m", "pip", "install"] and install[-2:] == ["-e", "mcpkg-course[notebooks]"]
    assert Path.cwd() == tmp_path / "mcpkg-course"
    assert f"github/-/ours/blob/{commit}/notebooks/00_start_here.ipynb" in badge(NOTEBOOKS[0], address, commit)


@each_notebook
def test_exercises_are_checked_in_the_next_cell(path):
    cells = code_cells(read_notebook(path))
    exercises = [number for number, cell in enumerate(cells) if is_exercise(cell)]
    assert len(exercises) >= EXERCISES
    for number in exercises:
        lines = [line for line in cells[number].source.splitlines() if line.strip() and not line.startswith("#")]
        assert lines == [UNANSWERED]
        assert re.search(r"^check\(\s*answer,", cells[number + 1].source, re.MULTILINE)


@each_notebook
def test_the_solution_is_the_notebook_with_answers(path):
    notebook, solution = read_notebook(path), solve_notebook(path)
    assert [cell.cell_type for cell in solution.cells] == [cell.cell_type for cell in notebook.cells]
    for asked, solved in zip(notebook.cells, solution.cells, strict=True):
        assert is_answer(solved) if is_exercise(asked) else solved == asked


@each_notebook
def test_the_answers_hold_nothing_else_and_are_headed_by_their_exercise(path):
    answers = read_notebook(SOLUTIONS / path.name).cells
    assert len(answers) == sum(map(is_exercise, code_cells(read_notebook(path))))
    for number, cell in enumerate(answers, 1):
        assert is_answer(cell)
        title = cell.metadata["title"]
        assert re.fullmatch(rf"Exercise {number}(: .+)?", title)
        assert ": " not in title or f"# ## {title}\n" in path.read_text()


@each_notebook
def test_numbers_in_titles_are_computed(path):
    """A title that is plain text states no number."""
    for cell in code_cells(read_notebook(path)):
        for title in re.findall(r'(?:suptitle|set_title|title=)\(?\s*(?<!f)"([^"]*)"', cell.source):
            assert not re.search(r"\d\.\d|\d+ ?%", title), title


@pytest.fixture
def sum_course(tmp_path, monkeypatch):
    """A course of one notebook with one exercise, and its answer."""
    monkeypatch.setattr("notebooks.build.FOLDER", tmp_path)
    monkeypatch.setattr("notebooks.build.SOLUTIONS", tmp_path / "solutions")
    path, answers = tmp_path / "00_sum.py", tmp_path / "solutions" / "00_sum.py"
    answers.parent.mkdir()
    path.write_text(
        "# %% [markdown]\n# What is one and one?\n\n# %%\nanswer = None\n\n# %%\nassert answer in (None, 2)\n"
    )
    answers.write_text("# %% Exercise 1\n# counted\nanswer = 1 + 1\n")
    return path, answers


def test_solutions_are_built_from_notebook_and_answers_and_nothing_is_run(sum_course, monkeypatch):
    path, answers = sum_course
    monkeypatch.setattr("sys.argv", ["build.py", "--solutions"])
    main()
    built = committed(answers)
    assert [cell.source for cell in built.cells] == [
        "What is one and one?", "# counted\nanswer = 1 + 1", "assert answer in (None, 2)"
    ]  # fmt: skip
    assert all(cell.execution_count is None and not cell.metadata for cell in code_cells(built))
    assert not path.with_suffix(".ipynb").exists()


def test_an_exercise_without_an_answer_is_named(sum_course):
    path, answers = sum_course
    answers.write_text("# %% Exercise 1\n1 + 1\n")
    with pytest.raises(ValueError, match="00_sum.py: 0 answers to 1 exercises"):
        solve_notebook(path)


@pytest.mark.slow
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


def python_blocks(markdown):
    return re.findall(r"^```python\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)


def lessons():
    """Name -> Python that readers see: the notebooks' cells and answers, and the blocks in prose."""
    for path in NOTEBOOKS:
        yield path.name, path.read_text()
        yield f"solutions/{path.name}", (SOLUTIONS / path.name).read_text()
        for cell in read_notebook(path).cells:
            if cell.cell_type == "markdown":
                yield from ((f"{path.name}, prose", block) for block in python_blocks(cell.source))
    for path in (FOLDER.parent / "README.md", FOLDER / "TEACHING.md"):
        yield from ((path.name, block) for block in python_blocks(path.read_text()))


def imported_modules(code):
    """Return every module of mcpkg that the code imports from, or imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "mcpkg"}


def deep_imports(code):
    return {name for name in imported_modules(code) if name.count(".") > 1} - {"mcpkg.viz.widgets"}


def test_a_deep_import_is_found_wherever_it_is():
    code = "def f():\n    from mcpkg.viz.figures import bars\nimport mcpkg.method.masks as masks\nfrom mcpkg import viz"
    assert deep_imports(code) == {"mcpkg.viz.figures", "mcpkg.method.masks"}
    assert deep_imports("from mcpkg.viz.widgets import blind_vote\nfrom mcpkg.viz import bars") == set()


def test_lessons_import_from_packages_only():
    assert {name: deep for name, code in lessons() if (deep := deep_imports(code))} == {}


def test_lessons_import_public_names_from_the_root():
    for name, code in lessons():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("mcpkg."):
                assert not {alias.name for alias in node.names} & set(mcpkg.__all__), f"{name}:{node.lineno}"

"""The course: answers are right by computation, wrong ones get hints, and students' copies hold no solution."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.algorithm_a import algorithm_a
from smlib.edits.masking import trie
from smlib.edits.noise import NoiseLaw, expert_trajectory
from smlib.files import ResultError
from smlib.objectives.divergences import get
from smlib.paper.course import check, exercises, lecture, require, solution
from smlib.paper.course.copies import asked, key, student_copy, write_course
from smlib.paper.course.exercises import NotYetError, get_exercise, is_right
from smlib.paper.experiments.judging.verdicts import holm
from smlib.theory.chain import Chain


def slope(name: str, x: float) -> float:
    """phi'(x)."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(get(name).phi(at), at)[0])


def curvature(name: str) -> float:
    """phi''(0), by differences."""
    return (slope(name, 1e-4) - slope(name, -1e-4)) / 2e-4


def slots() -> list:
    space = ActionSpace(vocab_size=6, eos=1)
    b = space.bkspc
    puzzle = Trajectory.make([0], [2, 3, 4, b, b, 5, b, b, 1], space=space)
    laid = trie(puzzle, space)
    return [laid.tokens.size, algorithm_a(puzzle, space).inputs.size, laid.expiry.tolist()]


def deletions() -> list[float]:
    """The share of the labels at a right digit of base 2 that are `<bkspc>`, counted in demonstrations."""
    space = ActionSpace(vocab_size=5, eos=0)
    root, right, wrong = 1, 3, 4
    rng, law = np.random.default_rng(0), NoiseLaw.uniform([right, wrong])
    drawn = [expert_trajectory([root], [right, space.eos], law, 0.2, rng, space) for _ in range(20_000)]
    visits = [visit for t in drawn for visit in zip(replay(t, space), t.labels, strict=False)]
    share = float(np.mean([label == space.bkspc for state, label in visits if state == (root, right)]))
    return [share, 1 / (1 - share)]


def error_rates() -> list[float]:
    """By bisection on the chain itself."""
    found = []
    for b in (0.0, 0.9):
        low, high = 0.0, 0.5
        for _ in range(60):
            middle = (low + high) / 2
            q = Chain(100, middle, b).finish()
            low, high = (middle, high) if (1 - q) / (1 + q) < 0.1 else (low, middle)
        found.append(low)
    return found


def kept_tokens() -> list[float]:
    """By a chain over `writing`, `right`, `wrong` and the two ends, solved as it stands."""
    step = np.array([[0, 0.8, 0.2], [0.05, 0, 0], [0.6, 0, 0]])  # from each of the three to each of the three
    visits = np.linalg.inv(np.eye(3) - step)[0]
    stays = visits * [0, 0.95, 0.4]
    return [stays[1] / stays.sum(), visits[0]]


def needed_questions() -> float:
    return (2.8 / 0.02) ** 2 * (0.06 * 0.94 + 0.08 * 0.92)


def verdicts() -> list[str]:
    return ["reproduced" if max(holm(p)) < 0.05 else "direction only" for p in ([0.01, 0.02, 0.04], [0.01, 0.02, 0.06])]


DERIVED = {
    "00.1": lambda: [np.log(2) / -np.log(0.98 / (1 - 0.02 * b)) for b in (0, 0.9, 0.99)],
    "01.1": error_rates,
    "01.2": lambda: 2 * np.log(2),
    "01.3": lambda: "neither" if np.isclose(0.9**10, 0.999**1053, rtol=1e-3) else "one of them",
    "02.2": lambda: [curvature("chi2"), curvature("js")],
    "02.3": lambda: 0.02 / 0.1,
    "03.1": slots,
    "04.1": deletions,
    "05.1": lambda: [0.001 / 32_000 / (0.001 / 32_000 + p) for p in (1e-4, 1e-9)],
    "06.1": lambda: (1 + 0.01 * 128) / (8 * 128 / 32),
    "07.1": lambda: slope("js", -np.log(2) + 0.01),
    "08.1": lambda: [0.2 / 10, 0.2 / 1021],
    "09.1": lambda: [2 * 0.5**30, binomtest(190, 350).pvalue],
    "10.1": needed_questions,
    "12.1": verdicts,
    "15.1": kept_tokens,
}
"""Each answer that can be computed, computed in another way than it was written down."""


@pytest.mark.parametrize("number", DERIVED)
def test_the_answer_is_what_a_computation_gives(number: str) -> None:
    exercise = get_exercise(number)
    within = 0.05 if number == "04.1" else exercise.within  # twenty thousand demonstrations are a sample
    assert is_right(DERIVED[number](), exercise.answer, within)


def test_every_exercise_has_three_hints_and_says_what_it_asks() -> None:
    for number, exercise in exercises.exercises().items():
        assert len(exercise.hints) == 3, number
        assert exercise.asks, number
        assert len(exercise.solution) > 100, number
        assert is_right(exercise.answer, exercise.answer, exercise.within)


def test_hints_come_one_after_another_and_then_the_solution(capsys: pytest.CaptureFixture[str]) -> None:
    hints = get_exercise("10.1").hints
    for n in (1, 2, 3, 3):
        check("10.1", 100)
        said = capsys.readouterr().out
        assert f"10.1: not yet. Hint {n} of 3: {hints[n - 1]}" in said
        assert ('solution("10.1")' in said) == (n == 3)
    check("10.1", 2_550)
    assert capsys.readouterr().out == "10.1: right.\n"
    check("10.1", 100)
    assert "Hint 1 of 3" in capsys.readouterr().out  # anew
    check("10.1", 2_548)
    assert "2{,}548" in solution("10.1").data


def test_what_is_missing_is_asked_for() -> None:
    with pytest.raises(NotYetError, match=r"03\.1 waits for your answer: the slots of the trie"):
        require("03.1", ...)
    with pytest.raises(ResultError, match=r"no exercise '99\.1'; known: 00\.1"):
        check("99.1", 1)


@pytest.mark.parametrize(
    "strange",
    [None, "twenty", float("nan"), float("inf"), True, [0.2, 0.2], np.array([0.2, 0.3]), torch.ones(2), {}, object()],
)
def test_an_answer_of_another_kind_is_wrong_and_nothing_breaks(strange: object) -> None:
    with pytest.raises(NotYetError, match=r"13\.1: not yet"):
        require("13.1", strange)


@pytest.mark.parametrize("right", [np.float32(0.2), np.array(0.2), torch.tensor(0.2), 0.2])
def test_numbers_of_numpy_and_torch_are_numbers(right: object) -> None:
    require("13.1", right)


@given(st.floats(1e-3, 1e3), st.floats(-0.5, 0.5))
def test_a_number_is_right_within_a_share_of_it(value: float, off: float) -> None:
    if abs(abs(off) - 0.1) > 1e-6:
        assert is_right(value * (1 + off), value, 0.1) == (abs(off) < 0.1)


def test_every_exercise_is_asked_once_and_the_copies_hold_no_solution(tmp_path: Path, repository: Path) -> None:
    files = write_course(tmp_path)
    notebooks = sorted((repository / "notebooks").glob("*.ipynb"))
    assert {path.name for path in files} == {*(path.name for path in notebooks), "key.md", "lecture.html"}
    numbers = [n for path in notebooks for n in asked(nbformat.read(path, 4))]
    assert sorted(numbers) == sorted(exercises.exercises())
    for path in notebooks:
        text = (tmp_path / "student" / path.name).read_text()
        assert "require(" in text or not asked(nbformat.read(path, 4))
        for number in asked(nbformat.read(path, 4)):
            assert path.name.startswith(number[:2])
            assert get_exercise(number).solution.strip()[:60] not in "".join(
                "".join(cell["source"]) for cell in json.loads(text)["cells"]
            )
    for number in exercises.exercises():
        assert f"## {number}\n" in key()


def opening(path: Path) -> dict[str, str]:
    """The table that a notebook opens with."""
    rows = re.findall(r"^\| ([^|]+) \| (.*) \|$", nbformat.read(path, 4).cells[0].source, re.MULTILINE)
    return dict(rows)


def test_every_notebook_opens_with_its_goals_as_the_course_has_them(repository: Path) -> None:
    files = {path.stem[:2]: path for path in (repository / "notebooks").glob("*.ipynb")}
    course = (repository / "docs" / "course.md").read_text(encoding="utf-8")
    seen: list[str] = []
    for line in re.findall(r"^\| \d+ \|.*$", course, re.MULTILINE):
        _, notebooks, learned, before, minutes = (part.strip() for part in line.strip("|").split("|"))
        numbers = re.findall(r"\[(\d\d) ", notebooks)
        each = minutes.split(", ") if len(numbers) > 1 else [minutes]
        for number, reading in zip(numbers, each, strict=True):
            rows = opening(files[number])
            needed = set(re.findall(r"\((\d\d)_\w+\.ipynb\)", rows["before it"]))
            assert needed >= set(re.findall(r"\d\d", before)), number
            assert needed <= set(seen), f"{number} needs what comes later"
            assert rows["reading"].replace(" minutes", "") == reading, number
            assert len(rows["you learn"]) > 20, number
            assert learned
            seen.append(number)
    assert sorted(seen) == sorted(files)


@pytest.mark.parametrize("number", exercises.exercises())
def test_an_exercise_of_the_copies_is_right_with_its_answer_and_asks_without(
    number: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every notebook; that a whole copy runs with its answers is `test_notebooks_smoke.py`'s. Before a student has
    written an answer, the notebook's own cell says what it asks for and the run goes on.
    """
    [path] = (repository / "notebooks").glob(f"{number[:2]}_*.ipynb")
    answers = {name: exercise.answer for name, exercise in exercises.exercises().items()}
    teacher, student = (
        [cell.source for cell in student_copy(nbformat.read(path, 4), given).cells if cell.cell_type == "code"]
        for given in (answers, None)
    )
    assert not any("check(" in source for source in student)
    original = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    [asking] = [source for source in original if f'check("{number}"' in source]
    open_scope: dict[str, object] = {}
    exec(next(line for source in original for line in source.splitlines() if "paper.course import" in line), open_scope)
    exec(asking, open_scope)
    assert get_exercise(number).asks in capsys.readouterr().out
    [importing] = [line for line in "\n".join(student).splitlines() if "smlib.paper.course import" in line]
    for cells, right in ((teacher, True), (student, False)):
        scope: dict[str, object] = {}
        exec(importing, scope)
        [asking] = [source for source in cells if f'require("{number}"' in source]
        if right:
            exec(asking, scope)
            assert capsys.readouterr().out == f"{number}: right.\n"
        else:
            with pytest.raises(
                NotYetError, match=rf"{number} waits for your answer: .+ Put it in the place of the dots"
            ):
                exec(asking, scope)


def run_cells(path: Path, tmp_path: Path) -> None:
    scope: dict[str, object] = {}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, scope)
            if "parameters" in cell.metadata.get("tags", ()):
                scope |= {"preset": "smoke", "figures_dir": str(tmp_path), "results_dir": str(tmp_path)}


@pytest.mark.parametrize("name", ["13_imitation_learning", "14_loss_in_pytorch"])
def test_copies_run_with_the_answers_and_stop_with_a_hint_without(name: str, tmp_path: Path) -> None:
    write_course(tmp_path)
    run_cells(tmp_path / "teacher" / f"{name}.ipynb", tmp_path)
    with pytest.raises(NotYetError, match="waits for your answer"):
        run_cells(tmp_path / "student" / f"{name}.ipynb", tmp_path)


def test_cells_tagged_solution_are_left_out() -> None:
    cells = [
        nbformat.v4.new_code_cell("from smlib.paper.course import check"),
        nbformat.v4.new_code_cell('check("13.1", ...)'),
        nbformat.v4.new_code_cell("print(0.2)", metadata={"tags": ["solution"]}),
    ]
    copy = student_copy(nbformat.v4.new_notebook(cells=cells))
    assert [cell.source for cell in copy.cells] == [
        "from smlib.paper.course import require",
        'require("13.1", ...)',
    ]


def test_the_lecture_has_fifteen_slides_and_needs_no_other_file() -> None:
    page = lecture.lecture()
    assert page.count("<section") == len(lecture.slides()) == 15
    assert page.count('src="data:image/png;base64,') == 15
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;bkspc&gt;" in page
    assert "<bkspc>" not in page
    with pytest.raises(ResultError, match=r"slide 1 shows .*nothing\.png, which is not there"):
        lecture.lecture([lecture.Slide("a", "nothing", "00", ("b",))])
    with pytest.raises(ResultError, match="slide 1 names notebook 77"):
        lecture.lecture([lecture.Slide("a", "demo", "77", ("b",))])

"""Copies of the notebooks for students, and a key for teachers: what `make course` writes.

    python -m smlib.paper.course.copies course

In a student's copy every exercise has to be answered: `require(number, ...)` stands where `check` stood, and ends the
run with a hint. `teacher/` has the same copies with the answers pasted in, `key.md` with every solution, and
`lecture.html`: fifteen slides.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from smlib.files import ResultError, project_root, write_atomically
from smlib.paper.course.exercises import exercises
from smlib.paper.course.lecture import lecture
from smlib.paper.notebooks import notebook_files, strip

ASKED = re.compile(r"""\bcheck\(\s*["'](?P<number>[\d.]+)["']\s*,\s*\.\.\.\s*\)""")
"""How a notebook asks: `check("03.1", ...)`."""
SOLUTION = "solution"
"""Tag of cells that give an answer away; no copy for students has them."""


def student_copy(notebook: Any, answers: Mapping[str, Any] | None = None) -> Any:
    """A notebook for students: no solutions, and exercises that have to be answered.

    Args:
        answers: pasted into the exercises, by number; the dots stay where there is none.
    """
    copy = nbformat.from_dict({**notebook, "cells": [dict(cell) for cell in notebook.cells]})
    copy.cells = [cell for cell in copy.cells if SOLUTION not in cell.metadata.get("tags", [])]
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.source = ASKED.sub(lambda found: _asking(found["number"], answers or {}), cell.source)
            cell.source = re.sub(r"(from smlib\.paper\.course import [^\n]*)\bcheck\b", r"\1require", cell.source)
    return strip(copy)


def _asking(number: str, answers: Mapping[str, Any]) -> str:
    return f'require("{number}", {answers[number]!r})' if number in answers else f'require("{number}", ...)'


def asked(notebook: Any) -> list[str]:
    """The numbers of the exercises that a notebook asks, in their order."""
    return [
        found["number"] for cell in notebook.cells if cell.cell_type == "code" for found in ASKED.finditer(cell.source)
    ]


def key() -> str:
    """Every solution, as Markdown."""
    parts = ["# Key to the exercises\n"]
    for number, exercise in exercises().items():
        parts.append(f"## {number}\n\nAsked for: {exercise.asks}. Answer: `{exercise.answer!r}`.\n{exercise.solution}")
    return "\n".join(parts)


def write_course(target: Path, notebooks: Path | None = None) -> list[Path]:
    """Writes `student/`, `teacher/`, the key and the lecture into a folder, and returns the files.

    Raises:
        ResultError: a notebook asks for an exercise that there is not, or an exercise is asked nowhere.
    """
    files = notebook_files([notebooks or project_root() / "notebooks"])
    read = {path.name: nbformat.reads(path.read_text(encoding="utf-8"), as_version=4) for path in files}
    numbers = [number for notebook in read.values() for number in asked(notebook)]
    strange = sorted(set(numbers) ^ set(exercises()))
    if strange:
        raise ResultError(f"notebooks and exercises.toml do not agree about {', '.join(strange)}")
    answers = {number: exercise.answer for number, exercise in exercises().items()}
    written = []
    for name, notebook in read.items():
        for folder, pasted in (("student", None), ("teacher", answers)):
            text = nbformat.writes(student_copy(notebook, pasted)) + "\n"
            written.append(write_atomically(target / folder / name, text))
    written.append(write_atomically(target / "teacher" / "key.md", key()))
    written.append(write_atomically(target / "teacher" / "lecture.html", lecture()))
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?", default="course", help="the folder to write, such as course")
    given = parser.parse_args(arguments)
    files = write_course(Path(given.target))
    print(f"{len(files)} files in {given.target}: student/ for students, teacher/ with answers and key.md")


if __name__ == "__main__":
    main()

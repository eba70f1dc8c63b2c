"""The notebooks as a course: exercises that take an own answer, copies for students, a key for teachers.

check("03.1", (6, 10, [6, 5, 4, 4, 5, 6]))       # right, or a first, second, third hint
python -m smlib.paper.course.copies course       # what `make course` runs
"""

from smlib.paper.course.exercises import check, require, solution

__all__ = ["check", "require", "solution"]

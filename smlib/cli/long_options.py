"""Options that are the fields of dataclasses, by transformers' `HfArgumentParser`, as a person can read them.

transformers' parser prints a usage of 150 lines before each error, and lists what a class inherits before what it adds.
Here an error is one line, and the help begins with what is the program's own. Importing this loads transformers.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from transformers import HfArgumentParser

EXPECTED = {"int": "a whole number", "float": "a number"}
"""What a value has to be, by the name of its type."""


class LongOptions(HfArgumentParser):
    """A parser of dataclasses' fields whose errors are a ValueError of one line and whose help is in sections.

    Args:
        kinds: the dataclasses.
        prog: the command, as it is typed.
        usage: its first lines of help. description: what it is for.
        sections: names of fields by the title of their section, in the order of the help. Fields that no section names
            come last.
        rest: the title of those.
    """

    def __init__(
        self,
        kinds: Sequence[type],
        *,
        prog: str,
        usage: str,
        description: str,
        sections: Mapping[str, Sequence[str]],
        rest: str,
    ) -> None:
        # An option that is cut short would be taken for the first that begins so, and not be named as unknown.
        super().__init__(tuple(kinds), prog=prog, usage=usage, description=description, allow_abbrev=False)
        self.sections, self.rest = dict(sections), rest

    def error(self, message: str) -> NoReturn:
        """Raises ValueError for a value that cannot be read; argparse would print the whole usage and end."""
        raise ValueError(f"{plainly(message)}; see `{self.prog} --help`")

    def check_known(self, rest: Sequence[str], known: set[str]) -> None:
        """Raises ValueError for words that are no option and no value of one, with the option that comes nearest."""
        if not rest:
            return
        if not rest[0].startswith("-"):
            raise ValueError(
                f"{rest[0]!r} stands after no option that takes it: values follow an option, and those with spaces are "
                f"quoted; see `{self.prog} --help`"
            )
        name = rest[0].lstrip("-").replace("-", "_").split("=")[0]
        near = get_close_matches(name, known, 1)
        meant = f"did you mean --{near[0]}? " if near else ""
        raise ValueError(f"unknown option {rest[0]}: {meant}`{self.prog} --help` lists those known")

    def format_help(self) -> str:
        """The help: usage, description, and the options section by section."""
        by_name: dict[str, list[Any]] = {}
        for action in self._actions:
            by_name.setdefault(action.dest, []).append(action)
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        named = {name for names in self.sections.values() for name in names}
        last = [name for name in by_name if name not in named]
        for title, names in (*self.sections.items(), (self.rest, last)):
            formatter.start_section(title)
            formatter.add_arguments([action for name in names for action in by_name[name]])
            formatter.end_section()
        return formatter.format_help()


def plainly(message: str) -> str:
    """argparse's message about a value, in plain words: an option by one spelling, and what was expected of it.

    >>> plainly("argument --max_steps/--max-steps: invalid int value: 'many'")
    "--max_steps 'many': expected a whole number"
    >>> plainly("argument --seed: expected one argument")
    '--seed: expected one argument'
    """
    option = re.match(r"argument (--\w+)[^:]*: (.*)", message, re.DOTALL)
    if option is None:  # of options that are cut short, argparse lists both spellings of each
        return re.sub(r"(, )?--\w+(-\w+)+(?=,|$)", "", message)
    name, said = option.groups()
    value = re.match(r"invalid (\w+) value: (.*)", said, re.DOTALL)
    if value is not None and value[1] in EXPECTED:
        return f"{name} {value[2]}: expected {EXPECTED[value[1]]}"
    truth = re.match(r"Truthy value expected: got (.*) but expected one of", said, re.DOTALL)
    if truth is not None:
        return f"{name} {truth[1]!r}: expected true or false"
    return f"{name}: {said}"

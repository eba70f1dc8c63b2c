"""What is told of runs on a cluster, kept in a process of its own there, which imports this module and nothing else."""


class Board:
    """The latest line of any run."""

    def __init__(self) -> None:
        self.line = ""

    def put(self, line: str) -> None:
        """A run has come further."""
        self.line = line

    def latest(self) -> str:
        """What was put last; empty where nothing was."""
        return self.line

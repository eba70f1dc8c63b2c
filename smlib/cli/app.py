"""The command line: generate, policies, train, watch, finetune, export, status, reproduce, bench, report-readme.

Each command is a module of this folder that imports what it needs when it runs, so that `smlib status` answers without
loading torch.
"""

import sys
from typing import Annotated, NoReturn

import typer

from smlib import __version__
from smlib.cli import screen
from smlib.cli.bench import bench
from smlib.cli.export import export
from smlib.cli.finetune import PASSED_ON, finetune
from smlib.cli.generate import generate
from smlib.cli.policies import policies
from smlib.cli.report_readme import report_readme
from smlib.cli.reproduce import reproduce
from smlib.cli.status import status
from smlib.cli.stopping import STATUS, Stopped
from smlib.cli.train import train
from smlib.cli.watch import watch
from smlib.files import ResultError
from smlib.screen import visible

app = typer.Typer(
    name="smlib",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"smlib {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Language models that may delete what they wrote: SequenceMatch (Cundy & Ermon, ICLR 2024), rebuilt.

    First: smlib generate --demo. Then: smlib policies, smlib status. Tab completion: smlib --install-completion.
    """


for command in (generate, policies, train, watch, export, status, reproduce, bench, report_readme):
    app.command()(command)
app.command(context_settings=PASSED_ON)(finetune)


def main() -> None:
    """The `smlib` command: an error of the user's or of the machine's is one line on stderr and exit status 2.

    Ctrl-C in a command that trains is one line too, with the command that goes on, and exit status 130.
    """
    try:
        screen.prepare()
        try:
            with screen.plain_warnings():
                app(prog_name="smlib")
        finally:
            sys.stdout.flush()
    except ResultError as error:
        _end(str(error))
    except Stopped as stopped:
        _end(str(stopped), STATUS)
    except BrokenPipeError:  # whoever reads, as `head` does, has seen enough
        screen.drop_output()
        raise SystemExit(0) from None
    except OSError as error:
        said = screen.refusal(error)
        if said is None:
            raise
        screen.drop_output()
        _end(said)


def _end(said: str, status: int = 2) -> NoReturn:
    print(f"smlib: {visible(' '.join(said.split()))}", file=sys.stderr)
    raise SystemExit(status) from None

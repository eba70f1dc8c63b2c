"""`smlib export`: a policy as a checkpoint that is used without smlib."""

from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import folder_name
from smlib.files import ResultError

DTYPES = ("float32", "bfloat16", "float16")


def export(
    policy: Annotated[
        Path,
        typer.Argument(
            parser=folder_name,
            metavar="POLICY",
            help="A policy of `smlib policies`, or a folder: of `smlib train`, `smlib finetune`, save_policy, or of "
            "any causal language model.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            parser=folder_name, metavar="OUT", help="A new folder for the checkpoint, such as runs/exported."
        ),
    ],
    bkspc_token: Annotated[
        str,
        typer.Option(
            help="What the deletion is called in the tokeniser, such as <undo> where <bkspc> is a token already."
        ),
    ] = "<bkspc>",
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Leave adapters beside the weights instead of adding them.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help=f"Number type of the weights: {', '.join(DTYPES)}. Default: as they are.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Load the result and compare its logits with the policy's.")] = True,
    title: Annotated[str | None, typer.Option(help="Headline of the card, such as 'Arithmetic with deletion'.")] = None,
    method: Annotated[str | None, typer.Option(help="For the card: how it was trained, such as sm.")] = None,
    data: Annotated[str | None, typer.Option(help="For the card: on what, such as '5,000 questions'.")] = None,
    command: Annotated[
        str | None,
        typer.Option(help="For the card: the exact command that trained it, such as 'smlib train runs/mine'."),
    ] = None,
    result: Annotated[
        list[str] | None, typer.Option(help="For the card: NAME=VALUE, such as accuracy=0.67; may be repeated.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="For the card: the base model's, such as apache-2.0.")] = None,
) -> None:
    """Write a standard checkpoint of transformers, with <bkspc> as a token and a decoding loop that deletes.

    Example: smlib export sm-arithmetic runs/exported --dtype float32
    """
    if dtype is not None and dtype not in DTYPES:
        raise ResultError(f"--dtype {dtype} is unknown: expected one of {', '.join(DTYPES)}")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):  # before the weights are read
        raise ResultError(f"{out} exists: choose a new folder, or remove it first")
    from smlib.cli.checkpoints import write_checkpoint

    facts = {"title": title, "method": method, "data": data, "command": command, "licence": licence}
    written = write_checkpoint(
        policy,
        out,
        bkspc=bkspc_token,
        merge=not keep_adapters,
        dtype=dtype,
        check=check,
        facts={name: value for name, value in facts.items() if value is not None},
        results=result or [],
    )
    print(f"saved in {written}; try, without smlib: see README.md in it")

"""`smlib generate`: completions with their deletions."""

from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import folder_name
from smlib.files import ResultError


def generate(
    folder: Annotated[
        Path | None, typer.Argument(parser=folder_name, metavar="FOLDER", help="Where `smlib train` left a policy.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What it goes on from; empty for a text from nothing.")] = "",
    model: Annotated[
        str | None,
        typer.Option(help="Instead: a folder that save_policy wrote, `smollm2`, or any causal language model."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many completions.")] = 1,
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep the most probable actions up to this mass.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the most probable action.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion; 24 for a task, 128 for text.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first completion; the others count on.")] = 0,
    download: Annotated[bool, typer.Option("--download", help="Let --model ask the hub.")] = False,
) -> None:
    """Write completions, with what was deleted struck out (in a pipe: with <bkspc> spelt out)."""
    if (folder is None) == (model is None):
        raise ResultError("name a folder of `smlib train`, or a language model with --model; one of the two")
    from smlib.cli.workbench import write, write_text
    from smlib.generation.sampling import SamplingConfig

    # Greedy decoding without a memory can insert and delete the same token for ever.
    try:
        config = SamplingConfig(
            temperature=temperature,
            top_p=top_p,
            greedy=greedy,
            exclude_deleted=greedy,
            max_new_tokens=max_tokens or (24 if model is None else 128),
        )
    except ValueError as error:
        raise ResultError(str(error)) from error
    seeds = range(seed, seed + count)
    if model is not None:
        write_text(model, prompt, config, seeds, download=download)
        return
    assert folder is not None
    for number in seeds:
        write(folder, prompt, config, number)

"""`smlib generate`: completions with their deletions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import file_name, folder_name, one_of
from smlib.files import ResultError


def _names() -> Iterable[str]:
    from smlib.policies import shipped

    return shipped.names()


def generate(
    policy: Annotated[
        str | None,
        typer.Argument(
            help="The name of a policy that comes with smlib (`smlib policies` lists them), or a folder in which "
            "`smlib train` or `smlib finetune` left one.",
            show_default=False,
            autocompletion=one_of(_names),
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="A question or a beginning, such as 'In base 7, what is 12 + 34?'; ' Solution: ' is added for a "
            "policy of a task. When empty: the question of the policy's card, or a text from nothing."
        ),
    ] = "",
    model: Annotated[
        str | None,
        typer.Option(
            help="Instead of POLICY: a folder that save_policy wrote, `smollm2`, or any causal language model "
            "(a folder, or a hub name with --download).",
            show_default=False,
        ),
    ] = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Show one completion, chosen to show deletions: POLICY, or sm-arithmetic, deletes a wrong digit that "
            "it was given and one that it wrote, and goes on.",
        ),
    ] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many completions, such as 3.")] = 1,
    temperature: Annotated[
        float,
        typer.Option(
            help="What the logits are divided by, above 0: 1 samples from the policy itself, a lower one, such as 0.5, "
            "keeps to likely actions."
        ),
    ] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Keep the most probable actions up to this mass: above 0, at most 1, such as 0.9.")
    ] = 1.0,
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy", help="Take the most probable action, and never insert a token again where it was deleted."
        ),
    ] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest completion, such as 64. Default: 24 for a task, 128 for text.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the first completion, such as 7; each further one takes the next number.")
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option(
            parser=file_name,
            metavar="FILE",
            help="Also write a page on which the completion can be stepped through, such as out.html; of several, each "
            "gets its seed in its name.",
            show_default=False,
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Let --model ask the hub for a model that is not on this machine.")
    ] = False,
) -> None:
    """Write completions action by action, with what was deleted struck out (in a pipe: with <bkspc> spelt out).

    Example: smlib generate sm-arithmetic --prompt "In base 7, what is 12 + 34?" -n 3
    """
    if demo and model is not None:
        raise ResultError("--demo shows a policy that comes with smlib: leave out --model")
    if not demo and (policy is None) == (model is None):
        raise ResultError(
            "name a policy (`smlib policies` lists those that come with smlib, `smlib train` makes others), or a "
            "language model with --model; one of the two"
        )
    if demo and policy is None:
        from smlib.cli.recorded import introduce, recording

        introduce(recording())  # before torch is imported, which takes most of a first minute
        from smlib.cli.showcase import write_again

        write_again(recording(), html=html)
        return
    from smlib.generation.sampling import SamplingConfig
    from smlib.policies import shipped
    from smlib.policies.policy import SAVED

    if greedy and (temperature, top_p) != (1.0, 1.0):
        raise ResultError(
            "--greedy takes the most probable action, whatever --temperature and --top-p say: leave out the one or the "
            "others"
        )
    if policy is not None and not demo and policy not in shipped.names() and (folder_name(policy) / SAVED).is_file():
        policy, model = None, policy  # the folder of a policy of any tokeniser, as --model takes it
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
    if demo:
        from smlib.cli.showcase import demonstrate

        assert policy is not None
        demonstrate(policy, max_new_tokens=config.max_new_tokens, html=html)
    elif model is not None:
        from smlib.cli.workbench import write_text

        write_text(str(folder_name(model)), prompt, config, seeds, download=download, html=html)
    elif policy in shipped.names():
        from smlib.cli.showcase import write_shipped

        assert policy is not None
        write_shipped(policy, prompt, config, seeds, html=html)
    else:
        from smlib.cli.workbench import write

        assert policy is not None
        write(folder_name(policy), prompt, config, seeds, html=html)

"""How the policies that ship with the package are made: `python -m smlib.paper.shipping sm-arithmetic`.

Result files keep numbers and no weights. So a policy that ships is trained again with the very configuration of a
committed run, compared with that run's result question by question, rounded to bfloat16, saved, read back, and measured
as it ships. To replace a policy, change its entry in `RECIPES` and give the command.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import torch
import typer

from smlib.data.mathematics import SOLUTION
from smlib.files import ResultError, canonical_json, plain, read_json, resolve, whole_folder, write_atomically
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, measured, trained
from smlib.paper.results import Run, checkout, load_run
from smlib.policies.loading import load_policy, save_policy
from smlib.policies.policy import SAVED, Policy
from smlib.policies.shipped import CARD, FOLDER, WEIGHTS, Card

PRESET = "full"
ALIKE = 0.93
"""Least mean share of a run's outcomes that the policy trained again repeats. On the same machine it repeats all.
Another processor adds in another order: for SequenceMatch, an AMD EPYC repeated .976 of what a Xeon had found (.950
where it was lowest). Another seed of the same configuration has .78 in common with it, and another α .89."""
NEAR = 0.03
"""How far a share, such as accuracy, may then lie from the run's: half a 95 % interval of .66 over 1,000 questions."""
EVALUATION = ("greedy", "greedy_exclude", "t1")
LIMITS = (
    "It reads sums and differences of two numbers in a base from 2 to 10, phrased as in the example, with the number "
    "sizes of the easy third of DeepMind's generator; of anything else it makes nonsense.",
    "It is often wrong, as the tables say: it is small, and ships to show how it writes and deletes, not to calculate.",
)


@dataclass(frozen=True)
class Recipe:
    """A committed run whose policy ships.

    Attributes:
        summary: a sentence for the list of policies.
        item, run: where its result is, `results/full/<item>/<run>-<hash>.json`.
        config: its configuration. test: whether that run looked at the test questions.
    """

    summary: str
    item: str
    run: str
    config: Callable[[], FineTuneConfig]
    test: bool


def _figure_3(summary: str, cell: str) -> Recipe:
    return Recipe(summary, "fig3", cell, lambda: arithmetic.preset(PRESET).grid()[cell], test=True)


def _ablation(summary: str, name: str) -> Recipe:
    return Recipe(
        summary, ablations.ITEM, f"{name}-s0", lambda: ablations.cells(PRESET, (name,))[f"{name}-s0"], test=False
    )


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "mle-arithmetic": _figure_3("Maximum likelihood: it cannot delete.", "mle-s0"),
        "bc-arithmetic": _figure_3(
            "Behavioural cloning of answers with wrong digits and their deletion.", "bc-ground_truth-0.2-s0"
        ),
        "sm-arithmetic": _figure_3(
            "SequenceMatch (eq. 4): it deletes a wrong digit, seldom several in a row.", "sm-ground_truth-0.2-s0"
        ),
        "direct-arithmetic": _ablation(
            "Occupancies matched in closed form (total variation): the most accurate, and it cannot delete.",
            "direct-tv",
        ),
        "burst-arithmetic": _ablation(
            "Behavioural cloning of answers with up to four wrong digits in a row: the best at recovery.",
            "bc-burst=4",
        ),
    }
)


def committed(recipe: Recipe, results_dir: str | Path = "results") -> Run:
    """The result file of the run that a recipe repeats; raises `ResultError` if there is none of its configuration."""
    wanted = plain({"config": recipe.config(), "test": recipe.test})
    folder = resolve(results_dir) / PRESET / recipe.item
    for path in sorted(folder.glob(f"{recipe.run}-*.json")):
        if read_json(path)["config"] == wanted:
            return load_run(path)
    raise ResultError(
        f"{folder} has no run {recipe.run} of this configuration: `smlib reproduce --preset {PRESET} --only "
        f"{recipe.item}` computes it"
    )


def outcomes(result: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every string of bits in a run's result by where it stands, such as `val/t1/correct`."""
    found: dict[str, str] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            found |= outcomes(value, f"{prefix}{key}/")
        elif prefix and isinstance(value, str) and value and set(value) <= {"0", "1"}:
            found[f"{prefix}{key}"] = value
    return found


def agreement(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """Share of equal outcomes by where they stand; raises `ResultError` if the two did not ask the same."""
    one, other = outcomes(ours), outcomes(theirs)
    if {k: len(v) for k, v in one.items()} != {k: len(v) for k, v in other.items()}:
        raise ResultError(f"the runs measured different things: {', '.join(sorted(set(one) ^ set(other))) or 'sizes'}")
    return {k: sum(map(str.__eq__, one[k], other[k])) / len(one[k]) for k in one}


def repeats(ours: Mapping[str, Any], theirs: Mapping[str, Any], what: str) -> dict[str, float]:
    """The `agreement` of two results of one configuration; raises `ResultError` if it is too low (`ALIKE`, `NEAR`)."""
    equal = agreement(ours, theirs)
    mean = sum(equal.values()) / len(equal)
    one, other = outcomes(ours), outcomes(theirs)
    gaps = {k: (one[k].count("1") - other[k].count("1")) / len(one[k]) for k in equal}
    far = {k: round(gap, 3) for k, gap in gaps.items() if abs(gap) > NEAR}
    if mean < ALIKE or far:
        shares = ", ".join(f"{k} by {gap:+.3f}" for k, gap in far.items()) or "no share"
        raise ResultError(
            f"{what} is not the policy of the run: it repeats {mean:.3f} of its outcomes (at least {ALIKE} expected), "
            f"and further off than {NEAR} is {shares}"
        )
    return equal


def rounded(policy: Policy) -> Policy:
    """The same policy, in place, with the language model's weights and the row of `<bkspc>` in bfloat16."""
    policy.lm.to(torch.bfloat16)
    policy.w_bkspc.data = policy.w_bkspc.data.to(torch.bfloat16)
    return policy


def ship(name: str, results_dir: str | Path = "results", folder: Path = FOLDER) -> Card:
    """Trains, checks, rounds, saves and measures a policy; returns its card.

    Raises:
        ResultError: an unknown name; no committed run; a retrained policy that is not the run's.
    """
    if name not in RECIPES:
        raise ResultError(f"no recipe ships {name!r}; known: {', '.join(RECIPES)}")
    recipe, config = RECIPES[name], RECIPES[name].config()
    run = committed(recipe, results_dir)
    revision = checkout()
    scratch = resolve(results_dir).parent / "runs" / "shipping" / run.path.stem
    scratch.mkdir(parents=True, exist_ok=True)
    task = config.task()
    policy, _ = trained(config, task, PRESET, results_dir, scratch)
    equal = repeats(measured(policy, task, config, recipe.test), run, f"{name}, trained again,")
    with whole_folder(folder / name, SAVED) as whole:
        save_policy(rounded(policy), task.tokenizer, whole)
        (whole / "lm" / "generation_config.json").unlink(missing_ok=True)  # transformers' own sampler does not delete
        shipped, _ = load_policy(whole, dtype=torch.float32)
        shipped.eval()
        made = Card(
            name=name,
            summary=recipe.summary,
            limits=LIMITS,
            method=config.training.objective.method,
            task=task.name,
            difficulty=task.difficulty,
            example=task.val[0].prompt.removesuffix(SOLUTION),
            seed=config.training.seed,
            parameters=sum(p.numel() for p in shipped.lm.parameters()),
            command=f"python -m smlib.paper.shipping {name}",
            run=str(Path("results", *run.path.parts[-3:])),
            revision=str(revision["git_revision"]) + ("-dirty" if revision["git_dirty"] else ""),
            config=plain(config),  # type: ignore[arg-type]
            measured=_as_shipped(config, shipped, task),
            trained=equal,
            sha256={file: sha256(whole / file) for file in WEIGHTS},
        )
        write_atomically(whole / CARD, canonical_json(asdict(made)))
        write_atomically(whole / "CARD.md", as_markdown(made))
    return made


def _as_shipped(config: FineTuneConfig, policy: Policy, task: Any) -> dict[str, Any]:
    """On the validation questions, which every run has."""
    found = measured(policy, task, config, False)
    answers: Any = found["val"]
    rules = [rule for rule in EVALUATION if rule in answers]
    recovery: Any = found.get("recovery", {})
    return {
        "split": "validation",
        "questions": len(task.val),
        "accuracy": {rule: answers[rule]["accuracy"] for rule in rules},
        "backspace_rate": {rule: answers[rule]["backspace_rate"] for rule in rules},
        "correct": {rule: answers[rule]["correct"] for rule in rules},
        "recovery": {
            depth: {what: bits.count("1") / len(bits) for what, bits in shares.items()}
            for depth, shares in recovery.items()
        },
    }


def sha256(path: Path) -> str:
    """Checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_markdown(made: Card) -> str:
    """The card for a reader."""
    accuracy, recovery = made.measured["accuracy"], made.measured["recovery"]
    titles = {"t1": "temperature 1", "greedy": "greedy", "greedy_exclude": "greedy, no token deleted twice at a state"}
    lines = [
        f"# {made.name}",
        "",
        made.summary,
        "",
        f"It answers questions such as “{made.example}”. It is a Llama with {made.parameters:,} parameters, trained "
        f"with the method `{made.method}` on the task `{made.task}` ({made.difficulty}), seed {made.seed}.",
        "",
        f"| decoding | accuracy on {made.measured['questions']} validation questions |",
        "|---|---|",
        *(
            f"| {titles[rule]} | {accuracy[rule]:.3f} |"
            for rule in ("t1", "greedy", "greedy_exclude")
            if rule in accuracy
        ),
        "",
    ]
    if recovery:
        lines += [
            "After wrong digits at the start of the answer, at temperature 1:",
            "",
            "| wrong digits | first action deletes | all of them deleted | answer right |",
            "|---|---|---|---|",
            *(
                f"| {depth} | {r['first_backspace']:.3f} | {r['all_removed']:.3f} | {r['correct']:.3f} |"
                for depth, r in sorted(recovery.items())
            ),
            "",
        ]
    least = min(made.trained.values())
    lines += [
        "Limits:",
        "",
        *(f"- {limit}" for limit in made.limits),
        "",
        f"The configuration is that of the committed run `{made.run}`, and stands in `{CARD}`. Trained again, the "
        f"policy repeats {'every one' if least == 1 else f'at least {least:.1%}'} of that run's outcomes. The weights "
        "were then rounded to bfloat16, and the numbers above are of the rounded weights.",
        "",
        f"Made at revision {made.revision} with `{made.command}`.",
        "",
    ]
    return "\n".join(lines)


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Which policies; all by default. Known: {', '.join(RECIPES)}.")
    ] = None,
    results_dir: Annotated[str, typer.Option(help="Where the committed results are.")] = "results",
) -> None:
    """Train, check, round and measure the policies that ship with the package; about five minutes each."""
    chosen: Sequence[str] = names or tuple(RECIPES)
    for name in chosen:
        made = ship(name, results_dir)
        accuracy = ", ".join(f"{rule} {share:.3f}" for rule, share in made.measured["accuracy"].items())
        print(f"{name}: {accuracy}; equal to {made.run} in {min(made.trained.values()):.1%} or more", flush=True)


if __name__ == "__main__":
    typer.run(main)

"""How the policies that ship with the package are made: `python -m smlib.paper.shipping sm-arithmetic`.

Result files keep numbers and no weights. So a policy that ships is trained again with the very configuration of a
committed run, or taken from where that run left it (`--weights-dir`). Either way it is compared with that run's result
question by question, rounded to bfloat16, saved, read back, and measured as it ships. To replace a policy, change its
entry in `RECIPES` and give the command. `--words-only` writes the cards again where a sentence has changed.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import torch
import typer

from smlib.data.mathematics import SOLUTION
from smlib.files import ResultError, canonical_json, plain, read_json, resolve, whole_folder, write_atomically
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, measured, trained
from smlib.paper.experiments.runs.kept import kept_policy, weights_of
from smlib.paper.experiments.runs.pretraining import PretrainConfig
from smlib.paper.policy_cards import as_markdown
from smlib.paper.results import Run, checkout, load_run
from smlib.policies.loading import load_policy, save_policy
from smlib.policies.policy import SAVED, Policy
from smlib.policies.shipped import CARD, FOLDER, WEIGHTS, Card, card

PRESET = "full"
ALIKE = 0.93
"""Least mean share of a run's outcomes that the policy trained again repeats. On the same machine it repeats all.
Another processor adds in another order: for SequenceMatch after 1,500 steps, an AMD EPYC repeated .976 of what a Xeon
had found (.950 where it was lowest); after the 6,000 steps of `learning` it was not tried. Another seed has at most .85
in common with a run, another α .89, and BC .92 with SequenceMatch of the same seed."""
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
        summary: a sentence for the list of policies; `{base}` in it becomes what `base_of` says.
        item, run: where its result is, `results/full/<item>/<run>-<hash>.json`.
        config: its configuration. test: whether that run looked at the test questions.
        limits: of this policy, beside `LIMITS`.
    """

    summary: str
    item: str
    run: str
    config: Callable[[], FineTuneConfig]
    test: bool
    limits: tuple[str, ...] = ()


def _learning(summary: str, cell: str, *limits: str) -> Recipe:
    return Recipe(summary, learning.ITEM, cell, lambda: learning.cells(PRESET)[cell], test=True, limits=limits)


def _ablation(summary: str, name: str) -> Recipe:
    return Recipe(
        summary, ablations.ITEM, f"{name}-s0", lambda: ablations.cells(PRESET, (name,))[f"{name}-s0"], test=False
    )


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "mle-arithmetic": _learning("Maximum likelihood, {base}; it cannot delete.", "mle-s0"),
        "bc-arithmetic": _learning(
            "Behavioural cloning of answers with wrong digits and their deletion, {base}.", "bc-ground_truth-0.2-s0"
        ),
        "sm-arithmetic": _learning(
            "SequenceMatch (eq. 4), {base}.",
            "sm-ground_truth-0.2-s0",
            "What `smlib generate --demo` shows of it was chosen: question and seed are the first in their order at "
            "which it deletes a wrong digit that was given, then one wrong digit of its own, and ends right.",
        ),
        "direct-arithmetic": _ablation(
            "Occupancies matched in closed form (total variation), {base}; it cannot delete.", "direct-tv"
        ),
        "burst-arithmetic": _ablation(
            "Behavioural cloning of answers with up to four wrong digits in a row, {base}.", "bc-burst=4"
        ),
    }
)


def base_of(config: FineTuneConfig) -> str:
    """Whether a run's base model had read the task before it was fine-tuned: policies of the two are no rivals."""
    assert isinstance(config.base, PretrainConfig)  # a pretrained language model is too large to ship
    return "from a base that " + ("knew the task" if config.base.mixture is None else "had to learn the task")


def words(recipe: Recipe) -> dict[str, Any]:
    """What a card says in sentences of its own: its summary and its limits."""
    return {"summary": recipe.summary.format(base=base_of(recipe.config())), "limits": (*LIMITS, *recipe.limits)}


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


def ship(
    name: str, results_dir: str | Path = "results", folder: Path = FOLDER, weights_dir: str | Path | None = None
) -> Card:
    """Trains, checks, rounds, saves and measures a policy; returns its card.

    Args:
        weights_dir: where runs left their policies (`fine_tune`); the one of this configuration is then not trained.

    Raises:
        ResultError: an unknown name; no committed run; no policy in `weights_dir`; a policy that is not the run's.
    """
    recipe = _recipe(name)
    config = recipe.config()
    run = committed(recipe, results_dir)
    revision = checkout()
    task = config.task()
    if weights_dir is None:
        scratch = resolve(results_dir).parent / "runs" / "shipping" / run.path.stem
        scratch.mkdir(parents=True, exist_ok=True)
        policy, _ = trained(config, task, PRESET, results_dir, scratch)
    else:
        policy = _kept(recipe, weights_dir)
    what = f"{name}, trained again," if weights_dir is None else f"{name}, as kept in {weights_dir},"
    equal = repeats(measured(policy, task, config, recipe.test), run, what)
    with whole_folder(folder / name, SAVED) as whole:
        save_policy(rounded(policy), task.tokenizer, whole)
        (whole / "lm" / "generation_config.json").unlink(missing_ok=True)  # transformers' own sampler does not delete
        shipped, _ = load_policy(whole, dtype=torch.float32)
        shipped.eval()
        made = Card(
            name=name,
            **words(recipe),
            method=config.training.objective.method,
            task=task.name,
            difficulty=task.difficulty,
            example=task.val[0].prompt.removesuffix(SOLUTION),
            seed=config.training.seed,
            parameters=sum(p.numel() for p in shipped.lm.parameters()),
            command=f"python -m smlib.paper.shipping {name}",
            kept=weights_dir is not None,
            run=str(Path("results", *run.path.parts[-3:])),
            revision=str(revision["git_revision"]) + ("-dirty" if revision["git_dirty"] else ""),
            config=plain(config),  # type: ignore[arg-type]
            measured=_as_shipped(config, shipped, task),
            trained=equal,
            sha256={file: sha256(whole / file) for file in WEIGHTS},
        )
        _write(made, whole)
    return made


def reword(name: str, folder: Path = FOLDER) -> Card:
    """Writes a card again with the sentences of today's recipe; weights and numbers stay.

    Raises:
        ResultError: an unknown name; no card to rewrite.
    """
    recipe = _recipe(name)
    made = replace(card(name), **words(recipe))
    _write(made, folder / name)
    return made


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ResultError(f"no recipe ships {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def _kept(recipe: Recipe, weights_dir: str | Path) -> Policy:
    """The policy that a recipe's run left; it answers in the way that the run itself did."""
    torch.set_num_threads(1)  # as the run did, see `trained`
    policy = kept_policy(recipe.config(), recipe.run, weights_dir)
    if policy is None:
        raise ResultError(
            f"no policy of this run is kept in {weights_of(recipe.config(), recipe.run, weights_dir)}: name another "
            "--weights-dir, or leave it out to train the policy again"
        )
    policy.eval()
    return policy


def _write(made: Card, folder: Path) -> None:
    write_atomically(folder / CARD, canonical_json(asdict(made)))
    write_atomically(folder / "CARD.md", as_markdown(made))


def _as_shipped(config: FineTuneConfig, policy: Policy, task: Any) -> dict[str, Any]:
    """On the validation questions, which every run has."""
    rules = tuple(rule for rule in EVALUATION if rule in config.decodings)
    found = measured(policy, task, replace(config, decodings=rules), False)
    answers: Any = found["val"]
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


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Which policies; all by default. Known: {', '.join(RECIPES)}.")
    ] = None,
    results_dir: Annotated[str, typer.Option(help="Where the committed results are.")] = "results",
    weights_dir: Annotated[
        str | None,
        typer.Option(help="Where the runs left their policies, such as models/learning. Default: train them again."),
    ] = None,
    words_only: Annotated[bool, typer.Option("--words-only", help="Write the sentences of the cards again.")] = False,
) -> None:
    """Train, check, round and measure the policies that ship with the package; up to half an hour each."""
    chosen: Sequence[str] = names or tuple(RECIPES)
    for name in chosen:
        made = reword(name) if words_only else ship(name, results_dir, weights_dir=weights_dir)
        accuracy = ", ".join(f"{rule} {share:.3f}" for rule, share in made.measured["accuracy"].items())
        print(f"{name}: {accuracy}; equal to {made.run} in {min(made.trained.values()):.1%} or more", flush=True)


if __name__ == "__main__":
    typer.run(main)

"""A page a method: what it minimises, its code, what it costs, and where it wins or loses, from result files."""

import os
from collections.abc import Mapping
from typing import Any

from smlib.files import ResultError, read_json, resolve
from smlib.objectives.methods import METHODS
from smlib.paper.ledger import read_item
from smlib.paper.sentences.learning import headline

LOSSES: Mapping[str, tuple[str, str, str]] = {
    "mle": (
        r"-\frac{1}{N}\sum_i \log p_\theta(a_i \mid s_i) \quad\text{on clean data}",
        "smlib/objectives/losses.py: likelihood",
        "Ordinary next-token training. The data have no mistakes and the policy has no `<bkspc>`.",
    ),
    "bc": (
        r"-\frac{1}{N}\sum_i \log p_\theta(a_i \mid s_i) \quad\text{on data with noise and its deletion}",
        "smlib/objectives/losses.py: likelihood",
        "Behavioural cloning of an expert who deletes: the data have mistakes put into them, labelled `<bkspc>`.",
    ),
    "sm": (
        r"-\mathcal J = -\sum_\text{data} \gamma^i \frac{\phi(\alpha r_i)}{\alpha} "
        r"+ \tfrac12 V(s_0) + \tfrac12 V(u_0) + \tfrac{\alpha}{4}\sum_\text{model} \gamma^i r_i^2, "
        r"\qquad r_i = \ell(a_i \mid s_i) - \gamma V(s_{i+1})",
        "smlib/objectives/losses.py: sequencematch",
        "Equation 4 of the paper, its value terms telescoped to the first states s₀ of the data and u₀ of a rollout. "
        "The sums include the absorbing end. With the χ²-mixture, the default, rollouts count by squared rewards. "
        "[Notebook 14](../notebooks/14_loss_in_pytorch.ipynb) builds it term by term.",
    ),
    "iqlearn": (
        r"-\sum_i \gamma^i \log p_\theta(a_i \mid s_i) + \tfrac{\alpha}{4} \sum_i \gamma^i r_i^2",
        "smlib/objectives/losses.py: iqlearn",
        "Equation 4 with χ² and the data alone: likelihood and a penalty on squared rewards. It samples nothing.",
    ),
    "dagger": (
        r"-\frac{1}{N}\sum_i \log p_\theta(a^*(s_i) \mid s_i) \quad\text{on the policy's own states}",
        "smlib/objectives/losses.py: likelihood, model=True",
        "The expert says what is right at the states of the policy's own rollouts: the next token, or `<bkspc>`.",
    ),
    "direct": (
        r"D\big(\rho_\theta, \rho_\text{data}\big) \quad\text{in closed form}",
        "smlib/objectives/direct.py: path_divergence",
        "Where a prompt has one right answer, the divergence of the occupancies is a function of the answer's "
        "probability, and is minimised as it is. No sampling, no `<bkspc>`.",
    ),
    "exact": (
        r"D\big(\rho_\theta, \rho_\text{ref}\big), \qquad "
        r"\nabla D = -\mathbb E_\theta\Big[\sum_i \gamma^i A_i \nabla \log p_\theta(a_i \mid s_i)\Big], \qquad "
        r"r = -f'\big(\rho_\theta / \rho_\text{ref}\big)",
        "smlib/objectives/exact.py",
        "A policy gradient with the critic that is known where a prompt has one right answer: for total variation ½ "
        "for a step on the answer's path and -½ for one off it. Without `<bkspc>` total variation is 1 less the "
        "expectation of a reward with partial credit, 1 - γᴷ after K right actions and 1 for a right answer: occupancy "
        "matching is reinforcement learning with a verifiable reward. Groups of rollouts from one prompt are each "
        "other's baseline.",
    ),
    "gail": (
        r"\min_\theta \max_r \; \mathbb E_\text{data}[\phi(r)] - \mathbb E_\theta[r]",
        "smlib/objectives/adversarial.py",
        "The imitation game with a critic of its own, from rollouts that are used once.",
    ),
    "unlikelihood": (
        r"-\frac1N \sum_i \Big[\log p_\theta(a_i \mid s_i) + "
        r"\sum_{c \in s_i} \log\big(1 - p_\theta(c \mid s_i)\big)\Big]",
        "smlib/objectives/losses.py: unlikelihood",
        "Likelihood, and every token that was already written is made less likely (Welleck et al. 2019).",
    ),
    "soft": (
        r"-\frac{1}{N}\sum_i \log p_\theta(a_i \mid a_0, \ldots, a_{i-1}) "
        r"\quad\text{on data with noise and its deletion}",
        "smlib/edits/masking.py: kept",
        "Behavioural cloning with soft deletion: the mistake and `<bkspc>` stay in the context, and the network reads "
        "both. What stands at the end is the same. Every deletion costs a forward pass and two places of the context.",
    ),
    "masked": (
        r"-\frac{1}{N}\sum_{i \,:\, \text{no mistake at } i} \log p_\theta(a_i \mid s_i) "
        r"\quad\text{on data whose mistakes stand}",
        "smlib/objectives/masked.py",
        "The model reads mistakes, is asked for the right continuation after them, and is never trained to write them. "
        "It teaches to go on, not to go back.",
    ),
}
"""Method -> its loss, where the code is, and what it is in plain words."""


def page(method: str, results_dir: str | os.PathLike[str] = "results") -> str:
    """The Markdown of a method's page."""
    known = METHODS[method]
    formula, code, words = LOSSES[method]
    facts = {
        "demonstrations": "with noise that stands" if known.standing else _demonstrations(known.noise),
        "samples while training": "yes" if known.rollouts else "no",
        "`<bkspc>`": "yes" if known.backspace else "no",
        "blended with cloning at first": "yes" if known.annealed else "no",
        "second network": "yes" if known.critic else "no",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return (
        f"# {known.title}\n\n{words}\n\n$$\n{formula}\n$$\n\n| | |\n|---|---|\n{rows}\n\n"
        f'Code: `{code}`. In a run: `ObjectiveConfig(method="{method}")`, or `smlib finetune --method {method}`.\n\n'
        f"## What it costs\n\n{_cost(method, results_dir)}\n\n"
        f"## Where it wins or loses\n\n{_learning(method, results_dir)}{_accuracy(method, results_dir)}\n"
    )


def _demonstrations(noise: bool) -> str:
    return "with noise and its deletion" if noise else "clean"


def _cost(method: str, results_dir: str | os.PathLike[str]) -> str:
    short = {"mle": "MLE /", "sm": "SM /"}.get(method)
    rows = [
        f"| {title}: {row['label']} | {row['ours']} | {row['paper']} |"
        for item, title in (("tab3", "text"), ("tab4", "arithmetic"))
        for row in _rows(item, results_dir)
        if short and str(row["label"]).startswith(short)
    ]
    if not rows:
        return "It has no row in Tables 3 and 4; [06](../notebooks/06_overhead.ipynb) has the parts of a step."
    return "Seconds, from Tables 3 and 4:\n\n| | ours | the paper |\n|---|---|---|\n" + "\n".join(rows)


def _learning(method: str, results_dir: str | os.PathLike[str]) -> str:
    """The regime in which the base model has to learn the task, for the methods that were run in it."""
    path = resolve(results_dir) / "full" / "learning.json"
    if not path.is_file():
        return ""
    study: Any = read_json(path)
    level = study["claims"][0]["level"]
    names = {"mle": "mle", **{f"{name}-ground_truth-{level:g}": name for name in METHODS}}
    found = {names[cell["cell"]]: cell for cell in study["cells"] if cell["cell"] in names}
    if method not in found:
        return ""
    rows = [
        f"| {f'**{METHODS[name].title}**' if name == method else METHODS[name].title} "
        f"| {value['value']:.3f} | {value['low']:.3f} to {value['high']:.3f} | {found[name]['n_seeds']} |"
        for name, value in sorted(
            ((name, cell["test"]["t1"]) for name, cell in found.items()), key=lambda pair: -pair[1]["value"]
        )
    ]
    return (
        f"Where the base model has to learn the task ([04](../notebooks/04_arithmetic.ipynb)). {headline(study)}\n\n"
        "| method | accuracy | 95 % interval | seeds |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
    )


def _accuracy(method: str, results_dir: str | os.PathLike[str]) -> str:
    try:
        details: Any = read_item("ablations", "full", results_dir)["details"]
    except (ResultError, FileNotFoundError):
        return "The ablations were not run."
    found = {entry["name"]: (entry["title"], entry["accuracy"]["t1"]) for entry in details["methods"]}
    own = {name for name in found if name == method or name.startswith(f"{method}-")}
    if not own:
        return "The ablations do not have it; [05](../notebooks/05_text_generation.ipynb) has it on text."
    rows = [
        f"| {f'**{title}**' if name in own else title} "
        f"| {value['value']:.3f} | {value['low']:.3f} to {value['high']:.3f} | {value['n_seeds']} |"
        for name, (title, value) in sorted(found.items(), key=lambda pair: -pair[1][1]["value"])
    ]
    return (
        "Where the base model knew the task before ([11](../notebooks/11_ablations.ipynb)): accuracy at temperature 1 "
        "on validation questions.\n\n"
        "| method | accuracy | 95 % interval | seeds |\n|---|---|---|---|\n" + "\n".join(rows)
    )


def _rows(item: str, results_dir: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    try:
        rows: Any = read_item(item, "full", results_dir)["rows"]
    except (ResultError, FileNotFoundError):
        return []
    return list(rows)

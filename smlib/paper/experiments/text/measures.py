"""What is measured on a policy that continues text: likelihood, generations, corrupted prompts (App. E, Table 8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smlib.data.continuations import Continuations, inner_decoder, token_law
from smlib.data.text import EvaluationSet
from smlib.data.tokenizers import TextTokenizer
from smlib.edits.actions import ActionSpace, Ids, Trajectory, final_state
from smlib.edits.packing import pack
from smlib.generation.contrastive import ContrastiveConfig, contrastive_search
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.streaming import spans
from smlib.policies.policy import Policy


@dataclass(frozen=True)
class TextEvaluation:
    """What is generated and measured. The paper: 1,000 prompts of 256 tokens, 256 new ones, two draws.

    Attributes:
        prompts, prompt_len, continuation_len: the evaluation set.
        draws: times that each prompt is continued, with other seeds.
        corrupted: prompts whose last token is replaced by a random one, and as many left as they are (Table 8); may
            be more than are continued.
        corrupted_actions: actions within which the replaced token may be removed.
        examples, example_len: completions of corrupted prompts that are kept in full.
        batch: prompts at a time, a stage each.
    """

    prompts: int = 1_000
    prompt_len: int = 256
    continuation_len: int = 256
    draws: int = 2
    corrupted: int = 500
    corrupted_actions: int = 16
    examples: int = 5
    example_len: int = 256
    stride: int | None = None
    batch: int = 250


def likelihoods(policy: Policy, test: EvaluationSet, batch: int = 8) -> dict[str, Any]:
    """Negative log-likelihood of each human text (prompt and continuation) in nats, given `<bos>`.

    Twice: among all actions, so that probability spent on `<bkspc>` counts against the model as in training; and
    renormalised over the tokens.
    """
    space = policy.space
    among_all, among_tokens, counts = [], [], []
    texts = [np.concatenate([p, c]) for p, c in zip(test.prompts, test.continuations, strict=True)]
    policy.eval()
    for begin in range(0, len(texts), batch):
        groups = [[Trajectory.make(t[:1], [*t[1:], space.eos], space=space)] for t in texts[begin : begin + batch]]
        packed = pack(groups, space).to(policy.device)
        with torch.inference_mode():
            hidden, _ = policy.state_hidden(packed)
            for one in range(len(groups)):
                visits = torch.nonzero(packed.trajectory == one).flatten()[:-1]  # <eos> was added here
                states = packed.visit_state[visits]
                logits = policy.logits(hidden[states], None).double()
                chosen = logits.gather(1, packed.label[visits][:, None])[:, 0]
                among_all.append(float((logits.logsumexp(-1) - chosen).sum()))
                among_tokens.append(float((logits[:, : space.vocab_size].logsumexp(-1) - chosen).sum()))
                counts.append(int(visits.numel()))
    return {
        "nats": [round(x, 6) for x in among_all],
        "nats_tokens_only": [round(x, 6) for x in among_tokens],
        "tokens": counts,
    }


def generate(
    policy: Policy,
    tokenizer: TextTokenizer,
    prompts: Sequence[Ids],
    settings: TextEvaluation,
    *,
    decoding: str,
    draw: int = 0,
    begin: int = 0,
) -> dict[str, Any]:
    """Continuations of prompts: the final text and its tokens (deleted ones are gone), and counts of edits.

    Args:
        decoding: `sample` (temperature 1, top-p 1, as App. E) or `contrastive`.
        draw, begin: number of the draw and of the first prompt; they decide the seeds.
    """
    space = policy.space
    if decoding == "contrastive":
        trajectories = contrastive_search(policy, prompts, ContrastiveConfig(settings.continuation_len))
    else:
        seeds = [int(np.random.SeedSequence([draw, begin + i]).generate_state(1)[0]) for i in range(len(prompts))]
        config = SamplingConfig(max_new_tokens=settings.continuation_len)
        trajectories = sample(policy, prompts, config, seeds).trajectories
    decode = inner_decoder(tokenizer)
    finals = [final_state(t, space).tolist() for t in trajectories]
    backspaces = [int((t.realised == space.bkspc).sum()) for t in trajectories]
    return {
        "texts": [decode(f) for f in finals],
        "tokens": [" ".join(map(str, f)) for f in finals],
        "actions": [len(t) for t in trajectories],
        "backspaces": backspaces,
        "deleted": [_deleted(t, space) for t in trajectories],
        "ended": [bool(t.labels[-1] == space.eos) for t in trajectories],
    }


def _deleted(trajectory: Trajectory, space: ActionSpace) -> int:
    """Tokens that were inserted and are no more."""
    inserted = int(((trajectory.realised != space.bkspc) & (trajectory.realised != space.eos)).sum())
    return inserted - final_state(trajectory, space).size


def corrupted(
    policy: Policy, tokenizer: TextTokenizer, data: Continuations, test: EvaluationSet, settings: TextEvaluation
) -> dict[str, Any]:
    """Table 8: the last token of a prompt replaced by one drawn from the training text, beside the prompt as it was.

    The root lies before that token, so that it can be deleted. `probability`: of `<bkspc>` as the first action,
    exactly; `at_once`: whether it was drawn; `removed`: whether the token was gone within `corrupted_actions`.
    """
    space = policy.space
    prompts = test.prompts[: settings.corrupted]
    rng = np.random.default_rng(8)
    law = token_law(tokenizer, "unigram", data.texts)
    random = law.sample(rng, len(prompts)).copy()
    for i, prompt in enumerate(prompts):
        while random[i] == prompt[-1]:
            random[i : i + 1] = law.sample(rng, 1)
    roots = [p[:-1] for p in prompts]
    seeds = [int(s) for s in rng.integers(0, 2**63, len(prompts))]
    result: dict[str, Any] = {}
    for kind, last in (("random", random), ("clean", np.array([p[-1] for p in prompts], np.int32))):
        prefixes = [last[i : i + 1] for i in range(len(prompts))]
        config = SamplingConfig(max_new_tokens=settings.corrupted_actions, max_actions=settings.corrupted_actions)
        drawn = sample(policy, roots, config, seeds, prefixes=prefixes).trajectories
        result[kind] = {
            "at_once": "".join("1" if t.realised[1] == space.bkspc else "0" for t in drawn),
            "removed": "".join("1" if _root_reached(t, space) else "0" for t in drawn),
        }
    exact = _backspace_probability(policy, roots, np.stack([random, [p[-1] for p in prompts]], 1))
    result["random"]["probability"], result["clean"]["probability"] = exact.T.tolist()
    n = settings.examples
    whole = SamplingConfig(max_new_tokens=settings.example_len)
    shown = sample(policy, roots[:n], whole, seeds[:n], prefixes=[random[i : i + 1] for i in range(n)]).trajectories
    result["examples"] = [
        {
            "prompt": tokenizer.decode(t.prompt),
            "token": tokenizer.token(int(random[i])),
            "runs": runs(t, space, tokenizer, skip=1),
            "title": test.titles[i],
        }
        for i, t in enumerate(shown)
    ]
    return result


def _root_reached(trajectory: Trajectory, space: ActionSpace) -> bool:
    depth = 0
    for i, action in enumerate(trajectory.realised.tolist()):
        depth += -1 if action == space.bkspc else 1
        if i and depth <= 0:
            return True
    return False


def _backspace_probability(
    policy: Policy, roots: Sequence[Ids], last: NDArray[np.integer], batch: int = 16
) -> NDArray[np.float64]:
    """p(<bkspc> | root and last token), exactly, for each of the tokens [roots, k] after a root, rounded."""
    space, found = policy.space, []
    for begin in range(0, len(roots), batch):
        part = slice(begin, begin + batch)
        groups = [  # tokens after one root are branches: the root is read once
            [Trajectory.make(r, [int(t), space.eos], space=space) for t in tokens]
            for r, tokens in zip(roots[part], last[part], strict=True)
        ]
        packed = pack(groups, space).to(policy.device)
        with torch.inference_mode():
            hidden, _ = policy.state_hidden(packed)
            at = packed.visit_state[torch.cumsum(packed.length, 0) - 1]  # the state of each last visit
            found.append(torch.softmax(policy.logits(hidden[at], None).double(), dim=-1)[:, space.bkspc].cpu())
    return torch.cat(found).numpy().reshape(last.shape).round(8)


def runs(trajectory: Trajectory, space: ActionSpace, tokenizer: TextTokenizer, skip: int = 0) -> list[dict[str, str]]:
    """The actions after the prompt as runs of one kind (see `smlib.generation.streaming.spans`), as text.

    Args:
        skip: tokens at the start that nobody chose, a prefix, to be left out.
    """
    made, decode = [], inner_decoder(tokenizer)
    for span in spans(trajectory, space, prompt=False):
        ids, skip = span.ids[skip:], max(skip - len(span.ids), 0)
        if ids:
            text = "<bkspc>" * len(ids) if span.kind == "backspace" else decode(list(ids))
            made.append({"kind": span.kind, "text": text})
    return made

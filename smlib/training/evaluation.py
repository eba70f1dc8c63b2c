"""The loss on held-out data, as `SequenceMatchTrainer.evaluate` reports it."""

import math

import numpy as np
import torch

from smlib.edits.packing import pack
from smlib.generation.edit_batch import evaluating
from smlib.policies.policy import Policy
from smlib.training.batches import demonstration
from smlib.training.configuration import TrainConfig
from smlib.training.dataset import Dataset
from smlib.training.sharding import whole

MEASURES = ("loss", "loss_clean", "perplexity", "bkspc_probability")
"""What `held_out` returns; less is better of each."""


def check_measure(name: str) -> None:
    """Raises ValueError for what is no measure of held-out data, such as a `metric_for_best_model`."""
    said = name.removeprefix("eval_")
    if not any(said == known or said.endswith(f"_{known}") for known in MEASURES):  # eval_held_loss: of a set by name
        raise ValueError(
            f"metric_for_best_model={name!r} is not measured on held-out data: expected one of "
            f"{', '.join(f'eval_{known}' for known in MEASURES)}"
        )


def held_out(
    policy: Policy, data: Dataset, config: TrainConfig, batch_size: int, device: torch.device | str
) -> dict[str, float]:
    """Behavioural cloning's loss on held-out demonstrations, whose mistakes are the same at every call.

    `loss` is nats per action; `loss_clean` the same on the data as they are (the loss of language modelling, if the
    policy did not have to choose `<bkspc>`), and `perplexity` its exponential; `bkspc_probability` is P(<bkspc>) at
    the clean states, where nothing is to be deleted.
    """
    noisy, clean = np.zeros(2), np.zeros(3)
    with whole(policy), evaluating(policy), torch.no_grad():
        for begin in range(0, len(data), batch_size):
            examples = range(begin, min(begin + batch_size, len(data)))
            rngs = [np.random.default_rng([config.seed, 7, i]) for i in examples]
            given = [demonstration(i, data, config, rng) for i, rng in zip(examples, rngs, strict=True)]
            plain = [data.demonstration(i, rng, 0.0, 1) for i, rng in zip(examples, rngs, strict=True)]
            for total, trajectories in ((noisy, given), (clean, plain)):
                groups, keep = [[t] for t in trajectories], policy.config.keep_edits
                batch = pack(groups, policy.space, row_len=config.row_len, keep_edits=keep).to(device)
                logit, value = policy(batch, config.chunk)
                total[:2] += float((logit - value[batch.visit_state]).sum()), batch.label.numel()
                if total is clean:
                    hidden, positions = policy.state_hidden(batch)
                    for part in torch.arange(len(hidden), device=hidden.device).split(512):
                        edit = policy.logits(hidden[part], positions[part]).log_softmax(-1)[:, -1].exp()
                        here = torch.isin(batch.visit_state, part)
                        clean[2] += float(edit[batch.visit_state[here] - part[0]].sum())
    loss, loss_clean = -noisy[0] / noisy[1], -clean[0] / clean[1]
    return {
        "loss": float(loss),
        "loss_clean": float(loss_clean),
        "perplexity": math.exp(min(loss_clean, 700.0)),
        "bkspc_probability": float(clean[2] / clean[1]),
    }

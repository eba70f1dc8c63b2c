"""TRL's trainers beside ours: one loss on the same data, and a table of what was measured. Skipped without TRL."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from smlib.bench import peers
from smlib.bench.steps import GradientStep
from smlib.bench.workloads import dataset, groups, policy_for
from smlib.cli.app import app
from smlib.paper.figures import overhead as pictures

SHAPE = replace(
    peers.PEERS,
    batch=4, context=48, prompt=16, rollout=6, vocab=61, dim=16, layers=1, heads=2, refill=4, row_len=128, chunk=32,
)  # fmt: skip
needs_trl = pytest.mark.skipif(not peers.available(), reason='needs TRL: pip install "smlib[peers]"')


@needs_trl
@pytest.mark.parametrize("packing", [True, False])
def test_trls_fine_tuning_on_our_data_has_our_loss_step_by_step(packing, tmp_path):
    """Two steps: were the examples, the packing or the update another, the second loss would differ."""
    data, space = dataset(SHAPE)
    policy = policy_for(SHAPE, space)
    clean = groups(SHAPE, data, space, method="mle")
    ours = GradientStep(policy, clean, "mle", row_len=SHAPE.row_len)
    with peers._quiet():
        theirs = peers.sft_step(policy, [g[0] for g in clean], space, SHAPE, str(tmp_path), packing=packing)
        for _ in range(3):
            batch = ours.pack()
            expected = float(ours.loss(ours.values(batch), batch).total.detach())
            ours()
            assert float(theirs()) == pytest.approx(expected, rel=1e-4)


@needs_trl
def test_distillation_learns_from_continuations_of_our_prompts(tmp_path, monkeypatch):
    """Of the length that ours have, from every prompt, and the prompts themselves are no part of the loss."""
    with peers._quiet():
        from trl.experimental.gkd import GKDTrainer

    data, space = dataset(SHAPE)
    policy = policy_for(SHAPE, space)
    prompts = [g[1].prompt for g in groups(SHAPE, data, space, method="sm")]
    seen, real = [], GKDTrainer.generate_on_policy_outputs

    def watched(*args):
        seen.append(real(*args))
        return seen[-1]

    monkeypatch.setattr(GKDTrainer, "generate_on_policy_outputs", staticmethod(watched))
    with peers._quiet():
        loss = peers.gkd_step(policy, prompts, space, SHAPE, str(tmp_path))()
    assert abs(float(loss)) < 1e-5  # student and teacher are still one model
    ((tokens, mask, labels),) = seen
    assert ((labels != -100).sum(1) == SHAPE.rollout).all()
    for row, m, prompt in zip(tokens, mask, prompts, strict=True):
        assert row[m.bool()][: len(prompt)].tolist() == prompt.tolist()


@needs_trl
@pytest.mark.slow
def test_every_rival_is_measured_and_named():
    found = peers.run(quick=True, shape=SHAPE)
    names = ("mle", "sm", "sm_on_policy", "sm_amortised", "trl_sft_packed", "trl_sft_padded", "trl_gkd")
    assert {f"peers_{name}_{what}" for name in names for what in ("step", "tokens_per_s")} <= set(found)
    assert all(entry["value"] > 0 and entry["threads"] == torch.get_num_threads() for entry in found.values())
    step = {name: found[f"peers_{name}_step"] for name in names}
    assert step["mle"]["tokens"] == step["trl_sft_packed"]["tokens"] == step["trl_sft_padded"]["tokens"]
    assert step["sm_on_policy"]["value"] > step["sm"]["value"]
    assert step["trl_gkd"]["sampled"] == SHAPE.batch * SHAPE.rollout
    assert found["peers_trl_gkd_step_over_sm_on_policy"]["unit"] == "ratio"
    shown = pictures.peers(found)
    assert len(shown) == len(names)
    assert (
        shown.loc["GKDTrainer of TRL: new continuations every step", "of these sampled"] == SHAPE.batch * SHAPE.rollout
    )


def test_without_trl_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(peers, "available", lambda: False)
    with pytest.raises(RuntimeError, match=r'needs the package trl: pip install "smlib\[peers\]"'):
        peers.run()
    result = CliRunner().invoke(app, ["bench", "--peers", "--json"])
    assert result.exit_code != 0
    assert "smlib[peers]" in result.output + str(result.exception)


def test_the_command_prints_what_was_measured(monkeypatch):
    entry = {"value": 1.0, "unit": "s", "baseline": "none", "n": 1}
    monkeypatch.setattr(peers, "run", lambda quick, tell: {"peers_mle_step": entry} if quick else {})
    result = CliRunner().invoke(app, ["bench", "--peers", "--quick", "--json"])
    assert json.loads(result.stdout) == {"peers_mle_step": entry}

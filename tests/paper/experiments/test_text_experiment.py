"""The text experiment: presets, measures against literal computation, scores, tables, the README's lines."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from smlib.cli import app as cli
from smlib.cli.workbench import write_text
from smlib.data.text import EvaluationSet
from smlib.data.tokenizers import PretrainedTokenizer
from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.files import ResultError
from smlib.paper.experiments.text import scores as text_scores
from smlib.paper.experiments.text import study as text
from smlib.paper.experiments.text.features import features
from smlib.paper.experiments.text.measures import TextEvaluation, corrupted, generate, likelihoods, runs
from smlib.paper.experiments.text.stages import Stages
from smlib.paper.figures import text as figures
from smlib.paper.items import get_item
from smlib.paper.ledger import read_item
from smlib.paper.results import Run
from smlib.policies.loading import load_policy, save_policy
from smlib.policies.policy import tiny_policy
from tests.support.models import saved_model, texts, words_tokenizer

TOKENIZER = PretrainedTokenizer(words_tokenizer())
SPACE = ActionSpace(TOKENIZER.vocab_size, eos=2, bos=1)
runner = CliRunner()


def policy():
    made = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64, seed=1)
    with torch.no_grad():
        made.lm.lm_head.weight.mul_(20)
        made.w_bkspc.normal_(std=0.5)
    return made.double()


def evaluation(n=5):
    rng = np.random.default_rng(0)
    prompts = tuple(np.array([1, *rng.integers(3, 43, 4)], np.int32) for _ in range(n))
    return EvaluationSet(prompts, tuple(rng.integers(3, 43, 6).astype(np.int32) for _ in range(n)), ("t",) * n, 0)


SETTINGS = TextEvaluation(prompts=5, prompt_len=4, continuation_len=6, draws=2, corrupted=5, examples=2, example_len=6)


# --- presets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "quick", "full", "paper"])
def test_every_preset_names_its_runs_and_keeps_the_papers_alpha_and_gamma(name):
    chosen = text.preset(name)
    grid = chosen.grid()
    assert list(grid)[:5] == ["mle-s0", "unlikelihood-s0", "bc-s0", "sm-s0", "iqlearn-s0"]
    assert chosen.seeds == ((0, 1, 2) if name in ("full", "paper") else (0,))
    assert {(r.training.objective.alpha, r.training.objective.gamma) for r in grid.values()} == {(0.01, 0.998)}
    assert all(r.training.objective.mixture and r.training.objective.divergence == "chi2" for r in grid.values())
    assert chosen.mauve.num_buckets <= chosen.evaluation.prompts
    assert chosen.evaluation.prompt_len + chosen.evaluation.continuation_len <= chosen.context
    assert chosen.max_prompt + chosen.training.rollout_tokens <= 2 * chosen.context


# --- measures ------------------------------------------------------------------------------------------------------


def test_likelihoods_are_sums_over_single_states():
    model, test = policy(), evaluation(3)
    found = likelihoods(model, test, batch=2)
    model.requires_grad_(False)
    for i in range(3):
        tokens = [*test.prompts[i].tolist(), *test.continuations[i].tolist()]
        total, among_tokens = 0.0, 0.0
        for k in range(1, len(tokens)):
            mask = torch.ones(1, 1, k, k, dtype=torch.bool).tril()
            hidden = model.hidden(torch.tensor([tokens[:k]]), torch.arange(k)[None], mask)[0, -1:]
            logits = model.logits(hidden, None)[0]
            total -= float(logits.log_softmax(-1)[tokens[k]])
            among_tokens -= float(logits[: SPACE.vocab_size].log_softmax(-1)[tokens[k]])
        assert found["nats"][i] == pytest.approx(total, abs=2e-6)  # rounded to six digits
        assert found["nats_tokens_only"][i] == pytest.approx(among_tokens, abs=2e-6)
        assert found["tokens"][i] == len(tokens) - 1


def test_generations_hold_what_is_left_and_count_what_is_not():
    model, test = policy(), evaluation()
    model.offset = None
    real = model.logits
    lift = torch.zeros(SPACE.n_actions).index_fill(0, torch.tensor([SPACE.bkspc]), 3.0)  # one action in three deletes
    model.logits = lambda hidden, positions: real(hidden, positions) + lift
    drawn = generate(model, TOKENIZER, test.prompts, SETTINGS, decoding="sample")
    assert sum(drawn["backspaces"]) > 0
    for i in range(5):
        kept = [int(t) for t in drawn["tokens"][i].split()]
        assert len(kept) <= 6
        assert all(t not in (SPACE.eos, SPACE.bkspc) for t in kept)
        # insertions = kept + deleted, and every action is an insertion, a deletion, or the last <eos>
        assert drawn["actions"][i] == len(kept) + drawn["deleted"][i] + drawn["backspaces"][i] + 1
    assert drawn == generate(model, TOKENIZER, test.prompts, SETTINGS, decoding="sample")
    assert drawn["tokens"] != generate(model, TOKENIZER, test.prompts, SETTINGS, decoding="sample", draw=1)["tokens"]
    parts = [generate(model, TOKENIZER, test.prompts[b : b + 3], SETTINGS, decoding="sample", begin=b) for b in (0, 3)]
    assert parts[0]["tokens"] + parts[1]["tokens"] == drawn["tokens"]  # the cut into stages changes nothing
    searched = generate(model, TOKENIZER, test.prompts, SETTINGS, decoding="contrastive")
    assert sum(searched["backspaces"]) == 0


def test_corrupted_prompts_know_the_exact_probability_of_a_backspace():
    from smlib.data.continuations import Continuations

    model, test = policy().requires_grad_(False), evaluation()
    data = Continuations.from_texts(texts(), TOKENIZER, context=24, max_prompt=8)
    found = corrupted(model, TOKENIZER, data, test, SETTINGS)
    for i, prompt in enumerate(test.prompts):
        n = prompt.size
        mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
        hidden = model.hidden(torch.tensor(prompt[None].astype(np.int64)), torch.arange(n)[None], mask)[0, -1:]
        p = float(model.logits(hidden, None).softmax(-1)[0, SPACE.bkspc])
        assert found["clean"]["probability"][i] == pytest.approx(p, abs=1e-7)  # rounded to eight digits
        assert found["random"]["probability"][i] != found["clean"]["probability"][i]  # another last token
    for kind in ("random", "clean"):
        at_once, removed = found[kind]["at_once"], found[kind]["removed"]
        assert len(at_once) == len(removed) == 5
        assert all(r == "1" for a, r in zip(at_once, removed, strict=True) if a == "1")
    assert len(found["examples"]) == 2
    assert {part["kind"] for example in found["examples"] for part in example["runs"]} <= {
        "kept",
        "deleted",
        "backspace",
    }


def test_a_prefix_is_left_out_of_the_runs():
    t = Trajectory.make([1], [5, SPACE.bkspc, 6, SPACE.eos], space=SPACE)
    assert [p["kind"] for p in runs(t, SPACE, TOKENIZER, skip=1)] == ["backspace", "kept"]
    assert len(replay(t, SPACE)[-1]) == 3


def test_a_stage_is_computed_once(tmp_path):
    calls = []
    stages = Stages(tmp_path)
    for _ in range(2):
        assert stages("a", lambda: calls.append(1) or {"x": 1}) == {"x": 1}
    assert calls == [1]


# --- features -------------------------------------------------------------------------------------------------------


def test_features_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="1 empty texts"):
        features("minilm", ["w1", " "])
    folder = str(saved_model(tmp_path))
    with pytest.raises(ValueError, match="1 empty texts"):
        features(folder, ["w1", " "])
    rows = features(folder, ["w1 w2", "w3"])
    assert rows.shape == (2, 16)
    from smlib.paper.experiments.text import features as text_features

    monkeypatch.setattr(text_features, "minilm_features", lambda texts: np.full((len(texts), 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="2 rows of features that are not finite"):
        features("minilm", ["w1", "w2"])


# --- the whole experiment ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smoke_writes_both_items_and_every_figure(tmp_path):
    found, scores = text.run("smoke", tmp_path, processes=1)
    assert set(found) == {f"{m}-s0" for m in text.TRAINED}
    table_2, table_8 = (read_item(item, "smoke", tmp_path) for item in ("tab2", "tab8"))
    ours = {row["label"] for row in table_2["rows"]}
    assert ours >= set(get_item("tab2").numbers)
    assert figures.table_2(table_2).shape == (9, 6)
    assert "MAUVE: SM > MLE" in figures.comparisons(table_2).index
    assert figures.edits(table_2).loc["MLE", "share of <bkspc>"] == 0
    for picture in (figures.metrics(table_2), figures.spurious_token(table_8)):
        assert picture.axes
    assert figures.learning({"sm": found["sm-s0"]["history"]}).axes
    assert figures.table_8(table_8).count("<tr>") == 3
    assert text_scores.table(found, scores)["sm"]["MAUVE"].n_items == 16
    assert len(scores["articles"]) == 18  # as many as are corrupted
    assert all(f"{m} / MAUVE by the package" in ours for m in ("MLE", "SM"))
    before = {p: p.stat().st_mtime for p in (tmp_path / "smoke" / "tab2").glob("*.json")}
    text.run("smoke", tmp_path, processes=1)
    assert before == {p: p.stat().st_mtime for p in (tmp_path / "smoke" / "tab2").glob("*.json")}


# --- Table 8's verdict ---------------------------------------------------------------------------------------------


def corrupted_runs(rates, n_seeds, n=500):
    """Runs whose random last tokens are deleted at once at the given rate, by method; true ones never."""
    rng = np.random.default_rng(0)

    def bits(p):
        return "".join("1" if hit else "0" for hit in rng.random(n) < p)

    def shares(p):
        return {"at_once": bits(p), "removed": bits(p), "probability": [p] * n}

    def run(p, seed):
        result = {"corrupted": {"random": shares(p), "clean": shares(0.0), "examples": []}}
        return Run({"result": result, "provenance": {}, "seeds": [seed]}, Path("made-up.json"))

    return {f"{method}-s{seed}": run(p, seed) for seed in range(n_seeds) for method, p in rates.items()}


@pytest.mark.parametrize(
    ("rate", "n_seeds", "verdict"),
    [(0.8, 3, "reproduced"), (0.8, 1, "direction only"), (0.12, 3, "direction only"), (0.0, 3, "not reproduced")],
)
def test_table_8_is_reproduced_only_at_the_papers_rate(rate, n_seeds, verdict, tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr(text_scores, "write_item", lambda item, preset, **content: made.update(content))
    scores = Run(
        {"result": {"articles": [f"article {i % 20}" for i in range(500)]}, "provenance": {}, "seeds": []}, Path()
    )
    runs = corrupted_runs({"bc": 0.5, "sm": rate}, n_seeds)
    text_scores.write_table_8(runs, scores, "full", tmp_path, actions=8)
    assert "20 clusters" in made["details"]["comparisons"][0]["method"]
    assert made["verdict"] == verdict
    assert re.fullmatch(r"deleted at once: SM 0\.\d{3}, BC 0\.\d{3}, true tokens 0\.000", made["ours"])
    assert f"SM {made['rows'][0]['ours']:.3f}" in made["ours"]
    assert made["error"].startswith("SM ± 0.")
    assert ("where the paper has 0.8" in made["details"]["why"]) == (rate < 0.8)


# --- the README and the command ------------------------------------------------------------------------------------


def test_the_lines_of_the_page_train_a_model_of_ones_own(tmp_path, monkeypatch, repository):
    """The very lines, with numbers made smaller: steps, and lengths beyond this model's."""
    page = (repository / "docs" / "running.md").read_text(encoding="utf-8")
    section = page.split("## Your own model, in full")[1]
    code = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    shorter = {"steps=5_000": "steps=3, warmup_steps=1", "bc_steps=1_000": "bc_steps=1", "context=1024": "context=40"}
    shorter |= {"max_prompt=256": "max_prompt=8", "accumulation=8": "accumulation=8, rollout_tokens=8"}
    for long, short in shorter.items():
        assert code.count(long) == 1, long
        code = code.replace(long, short)
    saved_model(tmp_path / "my-model")
    (tmp_path / "my-text.txt").write_text("\n\n".join(texts(12)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMLIB_QUIET", "1")
    exec(compile(code, "running.md", "exec"), {})
    (folder,) = re.findall(r"smlib generate --model (\S+)", section)
    loaded, _ = load_policy(tmp_path / folder)
    assert loaded.config.backspace


def test_generate_streams_from_a_language_model(tmp_path):
    base, tokenizer = load_policy(saved_model(tmp_path / "base"))
    with torch.no_grad():
        base.w_bkspc.normal_(std=2.0)
    save_policy(base, tokenizer, tmp_path / "mine")
    asked = ["generate", "--prompt", "w1 w2", "--max-tokens", "12", "-n", "3", "--model"]
    mine = runner.invoke(cli.app, [*asked, str(tmp_path / "mine")], catch_exceptions=False).stdout
    assert "<bkspc>" in mine
    assert mine == runner.invoke(cli.app, [*asked, str(tmp_path / "mine")], catch_exceptions=False).stdout
    plain = runner.invoke(cli.app, [*asked, str(tmp_path / "base")], catch_exceptions=False).stdout
    assert "<bkspc>" not in plain  # nobody taught it to delete
    assert isinstance(runner.invoke(cli.app, ["generate", "--prompt", "x"]).exception, ResultError)


def test_a_prompt_that_fills_the_model_is_refused(tmp_path):
    from smlib.generation.sampling import SamplingConfig

    saved_model(tmp_path)
    with pytest.raises(ResultError, match="no room for 12 more"):
        write_text(str(tmp_path), " ".join(["w1"] * 60), SamplingConfig(max_new_tokens=12), [0])
    with pytest.raises(ResultError, match="no model"):
        write_text(str(tmp_path / "absent"), "w1", SamplingConfig(max_new_tokens=12), [0])


def test_a_run_of_the_preset_can_be_changed_without_touching_it():
    run = text.preset("quick").run("sm", seed=3)
    assert replace(run, context=64) != run
    assert run.training.seed == 3
    assert Path(text.__file__).exists()

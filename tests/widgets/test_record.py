"""What the stepper draws, against replay and the trie; what a page holds; what the live widget answers."""

import html
import json
import re

import pytest
import torch

from smlib.data.tokenizers import PretrainedTokenizer, arithmetic_tokenizer
from smlib.edits.actions import ActionSpace, Trajectory, final_state
from smlib.edits.masking import dense_mask, trie
from smlib.edits.packing import pack
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies.policy import tiny_policy
from smlib.widgets.record import Recorder, record
from smlib.widgets.stepper import Stepper
from smlib.widgets.twin import frame, page, summary, write
from tests.support.models import words_tokenizer

TOKENIZER = arithmetic_tokenizer()
SPACE = ActionSpace(TOKENIZER.vocab_size, eos=TOKENIZER.eos, bos=TOKENIZER.bos)
QUESTION = "In base 7, what is 6 + 4? Solution: "
CONFIG = SamplingConfig(max_new_tokens=6)


def even_policy(backspace=True):
    """One to which all actions are equally likely."""
    policy = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64, backspace=backspace)
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.zero_()
        policy.w_bkspc.zero_()
    return policy


@pytest.fixture(scope="module")
def policy():
    return even_policy()


def test_a_record_is_the_samplers_trajectory(policy):
    for seed in range(4):
        made = record(policy, TOKENIZER, QUESTION, CONFIG, seed)
        prompt = [TOKENIZER.bos, *TOKENIZER.encode(QUESTION)]
        want = sample(policy, [prompt], CONFIG, [seed]).trajectories[0]
        assert [s["executedId"] for s in made["steps"]] == want.realised.tolist()
        assert made["prompt"] == QUESTION
        assert made["next"] is None
        json.dumps(made, allow_nan=False)  # JSON types alone, no infinity


def test_slots_are_those_of_the_packed_row_after_every_action(policy):
    prompt = [TOKENIZER.bos, *TOKENIZER.encode(QUESTION)]
    edits = 0
    for seed in range(4):
        deletions = dict.fromkeys({0: (1, 3), 1: (0, 1, 4, 5), 2: (2, 3, 4, 6), 3: (1,)}[seed], SPACE.bkspc)
        limits = SamplingConfig(max_new_tokens=6, max_actions=14)
        made = record(policy, TOKENIZER, QUESTION, limits, seed, forced=deletions)
        executed = [s["executedId"] for s in made["steps"]]
        edits += executed.count(SPACE.bkspc)
        for count in range(len(executed) + 1):
            whole = executed[:count] if SPACE.eos in executed[:count] else [*executed[:count], SPACE.eos]
            t = Trajectory.make(prompt, whole, space=SPACE)
            layout = trie(t, SPACE)
            slots = [s for s in made["slots"] if s["born"] < count]
            n = len(slots)
            expiry = [s["expiry"] if s["deleted"] is not None and s["deleted"] < count else n for s in slots]
            seen = dense_mask(torch.tensor([expiry]))[0, 0]
            packed = pack([[t]], SPACE).mask()[0, 0][:n, :n]  # the packer's own mask, <eos> added by `whole` left out
            assert torch.equal(seen, packed)
            assert [s["position"] for s in slots] == layout.positions[:n].tolist()
            assert [s["label"] for s in slots] == [TOKENIZER.token(int(i)) for i in layout.tokens[:n]]
    assert edits >= 8


def test_going_back_and_on_is_what_was_there(policy):
    recorder = Recorder(policy, TOKENIZER, QUESTION, CONFIG, 3).run()
    whole = recorder.record()
    for count in (len(recorder.steps), 2, 0):
        recorder.rewind(count)
        assert len(recorder.steps) == count
        assert recorder.run().record() == whole
    with pytest.raises(ValueError, match="cannot go back to action 99"):
        recorder.rewind(99)


def test_another_tokeniser_is_refused(policy):
    other = tiny_policy(ActionSpace(9, eos=1, bos=0), dim=16, layers=1, heads=2)
    with pytest.raises(ValueError, match=r"the tokeniser has .* tokens and the policy 9"):
        Recorder(other, TOKENIZER, QUESTION, CONFIG)


def test_a_page_holds_the_record_and_no_markup_of_the_models(policy):
    made = record(policy, TOKENIZER, QUESTION, CONFIG, 0, note="<b>&amp;")
    evil = "</script><script>alert(1)</script><!-- \u2028"
    made["steps"][0]["executed"] = made["prompt"] = evil
    text = page(made, title=evil)
    assert text.count("<script") == 2  # the record and the module
    assert "alert(1)</script>" not in text
    (data,) = re.findall(r'<script type="application/json" id="record">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data) == made
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)  # nothing is fetched
    framed = frame(made, evil)
    (inner,) = re.findall(r'srcdoc="([^"]*)"', framed)
    assert html.unescape(inner) == page(made, evil)


def test_a_page_is_written_whole_and_says_what_happened_without_scripts(policy, tmp_path):
    made = record(policy, TOKENIZER, QUESTION, CONFIG, 1)
    path = write(made, tmp_path / "deep" / "out.html")
    assert path.read_text(encoding="utf-8") == page(made)
    assert summary(made).startswith(QUESTION)
    assert f"<noscript>{html.escape(summary(made))}</noscript>" in path.read_text(encoding="utf-8")


def test_the_live_widget_steps_takes_a_click_and_what_is_typed(policy):
    widget = Stepper(policy, TOKENIZER, QUESTION, CONFIG, seed=2)
    assert (widget.cursor, widget.record["steps"]) == (0, [])
    widget.handle({"type": "step"})
    first = widget.record["steps"][0]
    assert widget.cursor == 1
    widget.handle({"type": "type", "at": 0, "text": "12"})
    assert [(s["executed"], s["forced"]) for s in widget.record["steps"]] == [("1", True), ("2", True)]
    widget.handle({"type": "act", "at": 2, "id": SPACE.bkspc})
    assert widget.record["steps"][2]["kind"] == "delete"
    assert final_state_of(widget) == "1"
    widget.handle({"type": "settings", "seed": 2, "temperature": 1.0, "top_p": 1.0, "greedy": False})
    widget.handle({"type": "step"})
    assert widget.record["steps"][0] == first
    widget.handle({"type": "settings", "seed": 0, "temperature": 1.0, "top_p": 1.0, "greedy": True})
    assert widget.record["settings"]["greedy"]


def final_state_of(widget):
    executed = [s["executedId"] for s in widget.record["steps"]]
    t = Trajectory.make([TOKENIZER.bos], [*executed, TOKENIZER.eos], space=SPACE)
    return TOKENIZER.decode(final_state(t, SPACE).tolist())


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"type": "type", "at": 1, "text": ""}, "cannot be written"),
        ({"type": "type", "at": 1, "text": "1111111111"}, "has ended"),
        ({"type": "act", "at": 1, "id": 9999}, "9999 is no action"),
        ({"type": "act", "at": 77, "id": 3}, "cannot go back to action 77"),
        ({"type": "settings", "seed": -1, "temperature": 1.0, "top_p": 1.0, "greedy": False}, "-1 is no seed"),
        ({"type": "settings", "seed": 0, "temperature": 0.0, "top_p": 1.0, "greedy": False}, "temperature=0.0"),
        ({"type": "dance"}, "unknown message 'dance'"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_changes(policy, message, error):
    widget = Stepper(policy, TOKENIZER, QUESTION, CONFIG, seed=2)
    widget.handle({"type": "step"})
    before = widget.record["steps"]
    widget.handle(message)
    assert error in widget.record["error"]
    assert widget.record["steps"] == before
    widget.handle({"type": "step"})
    assert widget.record["error"] == ""
    assert len(widget.record["steps"]) == 2


def test_a_word_outside_the_vocabulary_is_named():
    tokenizer = PretrainedTokenizer(words_tokenizer())
    space = ActionSpace(tokenizer.vocab_size, eos=tokenizer.eos, bos=tokenizer.bos)
    policy = tiny_policy(space, dim=16, layers=1, heads=2, positions=64)
    widget = Stepper(policy, tokenizer, "w1 w2", CONFIG)
    widget.handle({"type": "type", "at": 0, "text": "w3 neverheard"})
    assert "'w3 neverheard' cannot be written in this policy's vocabulary" in widget.record["error"]
    widget.handle({"type": "type", "at": 0, "text": "w3 w4"})
    assert [s["executed"].strip() for s in widget.record["steps"]] == ["w3", "w4"]


def test_a_policy_without_backspace_offers_none():
    widget = Stepper(even_policy(backspace=False), TOKENIZER, QUESTION, CONFIG)
    assert all(option["kind"] != "delete" for option in widget.record["next"]["top"])
    widget.handle({"type": "act", "at": 0, "id": SPACE.bkspc})
    assert "has no <bkspc>" in widget.record["error"]

"""`explore`: live or recorded, and what it says about input that a policy cannot use."""

import json
import time

import pytest
import torch

from smlib.data.tokenizers import PretrainedTokenizer, arithmetic_tokenizer
from smlib.edits.actions import ActionSpace, final_state, replay
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies import shipped
from smlib.policies.policy import tiny_policy
from smlib.widgets import explore as module
from smlib.widgets.explore import Twin, explore
from smlib.widgets.record import PROMPT_SLOTS, Recorder, record
from smlib.widgets.stepper import Stepper
from tests.support.models import words_tokenizer

TOKENIZER = arithmetic_tokenizer()
SPACE = ActionSpace(TOKENIZER.vocab_size, eos=TOKENIZER.eos, bos=TOKENIZER.bos)
QUESTION = "In base 7, what is 6 + 4?"
CONFIG = SamplingConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64)


def test_nobody_looks_on_in_a_test_and_the_variable_wins(monkeypatch):
    assert not module.looked_at()
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert module.looked_at()
    monkeypatch.setenv("SMLIB_HEADLESS", "1")
    assert not module.looked_at()


def test_a_policy_that_ships_gets_the_form_of_its_task(tmp_path):
    twin = explore("sm-arithmetic", QUESTION, seed=53)
    assert isinstance(twin, Twin)
    assert twin.record["prompt"] == f"{QUESTION} Solution: "
    assert twin.record["note"] == "sm-arithmetic, seed 53."
    assert twin._repr_html_().startswith("<iframe")
    assert repr(twin).endswith("<eos>")
    assert twin.save(tmp_path / "run.html").stat().st_size > 1000
    assert "Loading" not in repr(twin)


def test_the_seed_of_notebook_00_is_the_first_that_shows_a_deletion_and_most_show_none():
    policy, tokenizer = shipped.load("sm-arithmetic")
    prompt = [tokenizer.bos, *tokenizer.encode(f"{QUESTION} Solution: ")]
    config, delete = SamplingConfig(max_new_tokens=24), policy.space.bkspc
    found = sample(policy, [prompt] * 54, config, range(54)).trajectories
    right = tokenizer.encode("13")

    def corrects(trajectory):
        states = [list(state[len(prompt) :]) for state in replay(trajectory, policy.space)]
        deleted = [s for s, a in zip(states, trajectory.realised, strict=False) if a == delete]
        wrong = [s for s in deleted if s != right[: len(s)]]
        return bool(wrong) and final_state(trajectory, policy.space).tolist() == right

    assert [seed for seed, trajectory in enumerate(found) if corrects(trajectory)] == [53]
    assert sum(delete in trajectory.realised for trajectory in found) < 54 / 2


def test_what_notebook_00_says_of_its_probabilities_holds():
    def deletes(*typed):
        tokenizer = shipped.load("sm-arithmetic")[1]
        [*_, last] = explore("sm-arithmetic", QUESTION, forced=[tokenizer.id(d) for d in typed]).record["steps"][
            : len(typed) + 1
        ]
        return last["b"], {option["label"]: option["p"] for option in last["top"]}

    (right, _), (wrong, _), (other, _) = deletes("1", "3"), deletes("1", "4"), deletes("2")
    assert right < wrong < right + 0.05 < 0.2
    assert other > 0.7
    likely = deletes("1")[1]
    assert min(likely["3"], likely["4"]) > 0.4


def test_the_live_widget_brings_its_twin_for_a_page_without_a_widget_manager(policy):
    widget = explore((policy, TOKENIZER), QUESTION, CONFIG, live=True)
    assert isinstance(widget, Stepper)
    data, _ = widget._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert "No widget manager is here" in data["text/html"]
    assert data["text/plain"].startswith(QUESTION)
    assert widget.record["steps"] == []  # the recorded run is not the live one


def test_a_prompt_that_the_reader_types_takes_the_form(policy):
    widget = Stepper(policy, TOKENIZER, QUESTION, CONFIG, form=lambda text: f"{text} Solution: ")
    settings = {"type": "settings", "seed": 1, "temperature": 1.0, "top_p": 0.9, "greedy": False}
    widget.handle({**settings, "prompt": "In base 5, what is 1 + 1?"})
    assert widget.record["prompt"] == "In base 5, what is 1 + 1? Solution: "
    assert widget.record["settings"]["top_p"] == 0.9
    same = widget.record["prompt"]
    widget.handle({**settings, "prompt": same})
    assert widget.record["prompt"] == same  # untouched, it is not completed once more
    widget.handle({**settings, "prompt": "9" * 500})
    assert widget.record["error"]
    assert widget.record["prompt"] == same


def test_a_prompt_outside_the_vocabulary_is_shown_as_it_is_read():
    tokenizer = PretrainedTokenizer(words_tokenizer())
    space = ActionSpace(tokenizer.vocab_size, eos=tokenizer.eos, bos=tokenizer.bos)
    policy = tiny_policy(space, dim=16, layers=1, heads=2, positions=64)
    made = record(policy, tokenizer, "w1 neverheard w2", CONFIG)
    assert "The vocabulary lacks some of the prompt" in made["note"]
    assert "neverheard" not in made["prompt"]
    assert record(policy, tokenizer, "w1 w2", CONFIG)["note"] == ""


def test_a_policy_without_backspace_says_so():
    policy = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64, backspace=False)
    assert record(policy, TOKENIZER, QUESTION, CONFIG)["settings"]["backspace"] is False
    forbidden = SamplingConfig(max_new_tokens=6, allow_backspace=False)
    assert (
        record(tiny_policy(SPACE, dim=16, layers=1, heads=2), TOKENIZER, QUESTION, forbidden)["settings"]["backspace"]
        is False
    )


class Numbers:
    """A tokeniser of any size whose tokens are numbers."""

    bos, eos, pad = 0, 1, 2
    special_ids = frozenset({0, 1, 2})

    def __init__(self, size):
        self.vocab_size = size

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return "".join(f" {int(i)}" for i in ids if i not in self.special_ids)

    def token(self, action):
        return {self.vocab_size: "<bkspc>", self.eos: "<eos>"}.get(action, f" {action}")


def test_a_vocabulary_of_152_000_stays_usable():
    tokenizer = Numbers(152_000)
    space = ActionSpace(tokenizer.vocab_size, eos=1, bos=0)
    widget = Stepper(tiny_policy(space, dim=8, layers=1, heads=2, positions=32), tokenizer, "3 4", CONFIG)
    begun = time.monotonic()
    widget.handle({"type": "step"})
    widget.handle({"type": "type", "at": 1, "text": "151999"})
    assert widget.record["steps"][1]["executedId"] == 151_999
    assert any(option["kind"] == "delete" for option in widget.record["steps"][0]["top"])
    assert time.monotonic() - begun < 30
    assert len(json.dumps(widget.record)) < 20_000


def test_a_text_of_4_000_tokens_stays_usable():
    tokenizer = Numbers(50)
    space = ActionSpace(tokenizer.vocab_size, eos=1, bos=0)
    policy = tiny_policy(space, dim=8, layers=1, heads=2, positions=4200)
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.zero_()
    prompt = " ".join(str(3 + i % 40) for i in range(4000))
    recorder = Recorder(policy, tokenizer, prompt, SamplingConfig(max_new_tokens=60))
    for action in (7, 8, space.bkspc, 9):
        recorder.step(action)
    made = recorder.record()
    assert len(made["slots"]) == PROMPT_SLOTS + 3
    assert made["slotsLeftOut"] == 4001 - PROMPT_SLOTS
    assert [slot["expiry"] for slot in made["slots"][PROMPT_SLOTS:]] == [None, 4003, None]
    assert len(json.dumps(made)) < 60_000

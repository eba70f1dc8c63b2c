"""Trajectories for the eye: what is struck out is what the edit MDP deletes."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from smlib.edits.actions import ActionSpace, Trajectory, final_state
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.steps import steps
from smlib.generation.streaming import as_ansi, as_html, as_rich, as_text, show, spans, stream
from smlib.policies.policy import tiny_policy

SPACE = ActionSpace(vocab_size=27, eos=1, bos=0)
BACK = SPACE.bkspc


def decode(ids):
    return "".join(".$<>"[i] if i < 4 else chr(ord("a") + i - 4) for i in ids)


def encode(text):
    return [ord(c) - ord("a") + 4 if c.isalpha() else ".$<>".index(c) for c in text]


@pytest.fixture
def trajectory():
    """`ab`, one deleted, `cd`, both deleted with the rest of the first, then `e`: the noise token is d."""
    realised = [*encode("ab"), BACK, *encode("cd"), BACK, BACK, BACK, BACK, *encode("e<"), SPACE.eos]
    labels = list(realised)
    labels[4] = BACK
    return Trajectory.make(encode(".p"), labels, realised, space=SPACE)


def test_every_form_by_hand(trajectory):
    parts = spans(trajectory, SPACE)
    assert [(s.kind, len(s.ids)) for s in parts] == [
        ("prompt", 2), ("deleted", 2), ("backspace", 1), ("deleted", 1), ("noise", 1), ("backspace", 4), ("kept", 2),
    ]  # fmt: skip
    assert as_text(parts, decode) == ".pab<bkspc>cd<bkspc><bkspc><bkspc><bkspc>e<"
    assert as_ansi(parts, decode) == "\x1b[2m.p\x1b[0m\x1b[9mab\x1b[0m\x1b[9mc\x1b[0m\x1b[9;31md\x1b[0me<"
    assert as_rich(parts, decode).plain == ".pabcde<"
    assert "<del" in as_html(parts, decode)
    assert as_html(parts, decode).endswith("e&lt;</div>")


@given(st.lists(st.sampled_from([*range(2, 27), BACK, BACK, BACK]), max_size=30))
def test_what_is_kept_is_the_final_state(actions):
    t = Trajectory.make([0], [*actions, SPACE.eos], space=SPACE)
    kept = [i for s in spans(t, SPACE, prompt=False) if s.kind == "kept" for i in s.ids]
    assert kept == final_state(t, SPACE).tolist()


def test_streaming_ends_in_what_sample_draws():
    policy = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64)
    policy.w_bkspc.data.normal_(0, 0.5)
    config = SamplingConfig(max_new_tokens=12)
    shown = list(stream(policy, [0, 5], config, 3, prefix=[7]))
    want = sample(policy, [[0, 5]], config, [3], prefixes=[[7]]).trajectories[0]
    assert np.array_equal(shown[-1].realised, want.realised)
    for step in shown:
        n = len(step) - 1
        assert np.array_equal(step.realised[:n], want.realised[:n])


def test_the_caller_takes_actions_as_in_steps():
    policy = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=64)
    config = SamplingConfig(max_new_tokens=12)
    for forced in ([7, BACK], {0: 7, 2: 9}):
        *_, whole = stream(policy, [0, 5], config, 3, forced=forced)
        want = list(steps(policy, [0, 5], config, 3, forced=forced))
        assert whole.realised.tolist() == [step.executed for step in want]
        given = dict(forced if isinstance(forced, dict) else enumerate(forced))
        assert {i: int(whole.realised[i]) for i in given} == given


def test_a_pipe_gets_text_and_a_terminal_gets_strikes(trajectory):
    pipe = io.StringIO()
    got = show(iter([trajectory]), SPACE, decode, Console(file=pipe))
    assert got is trajectory
    assert pipe.getvalue() == ".pab<bkspc>cd<bkspc><bkspc><bkspc><bkspc>e<\n"
    terminal = io.StringIO()
    show(iter([trajectory]), SPACE, decode, Console(file=terminal, force_terminal=True, color_system="standard"))
    assert re.search(r"\x1b\[9mabc?", terminal.getvalue())
    with pytest.raises(ValueError, match="nothing to show"):
        show(iter([]), SPACE, decode, Console(file=pipe))


# --- a text that is written like the edits ---------------------------------------------------------------------------

WRITTEN = list("<bkspc>\\ab\x1b[9m$")
OWN = ActionSpace(vocab_size=len(WRITTEN), eos=14, bos=14)
MARK = list(range(7))


def read(ids):
    return "".join(WRITTEN[i] for i in ids)


@given(st.lists(st.sampled_from([MARK, MARK, [7], [7], [8], [0], [OWN.bkspc], [OWN.bkspc]]), max_size=20))
def test_the_printed_form_can_be_read_back(pieces):
    """The text's own mark and the action print differently, wherever spans and backslashes fall."""
    actions = [a for piece in pieces for a in piece]
    t = Trajectory.make([8], [*actions, OWN.eos], space=OWN)
    printed = as_text(spans(t, OWN, prompt=False), read)
    found, i = [], 0
    while i < len(printed):
        run = re.match(r"(\\*)<bkspc>", printed[i:])
        if run is None:
            found.append(printed[i])
            i += 1
        else:
            found += ["\\"] * (len(run[1]) // 2) + (list("<bkspc>") if len(run[1]) % 2 else ["BACK"])
            i += run.end()
    assert found == ["BACK" if a == OWN.bkspc else WRITTEN[a] for a in actions]


def test_a_texts_own_mark_and_codes_are_shown_as_text():
    marked = Trajectory.make([8], [*MARK, 9, OWN.bkspc, OWN.eos], space=OWN)
    assert as_text(spans(marked, OWN), read) == r"a\<bkspc>b<bkspc>"
    page = as_html(spans(marked, OWN), read)
    assert page.count("&lt;bkspc&gt;") == 1
    assert page.endswith('&lt;bkspc&gt;<del style="opacity:.7">b</del></div>')
    coded = Trajectory.make([8], [10, 11, 12, 13, OWN.eos], space=OWN)
    assert as_rich(spans(coded, OWN), read).plain == r"a\x1b[9m"
    assert as_ansi(spans(coded, OWN, prompt=False), read) == r"\x1b[9m"
    pipe = io.StringIO()
    show(iter([coded]), OWN, read, Console(file=pipe))
    assert pipe.getvalue() == "a\\x1b[9m\n"

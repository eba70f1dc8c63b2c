"""What a reader gets wrong in the first hour: told at once, in words about the thing, and not Python's own.

The type checker that the other tests run under is off here, as it is in a reader's script.
"""

from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import torch

from smlib.data.continuations import Continuations
from smlib.data.cutting import Passage
from smlib.data.tokenizers import PretrainedTokenizer
from smlib.edits.noise import NoiseLaw, expert_trajectory
from smlib.generation.contrastive import ContrastiveConfig, contrastive_search
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.streaming import stream
from smlib.objectives.methods import ObjectiveConfig
from smlib.training.algorithm_1 import TrainConfig
from tests.support.copying import policy
from tests.support.models import texts, words_tokenizer
from tests.support.oracles import SPACE

CONFIG = SamplingConfig(max_new_tokens=2)


@pytest.fixture(autouse=True)
def _as_in_a_script() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# --- sampling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [np.array([0, 2, 3]), [0, 2, 3], torch.tensor([0, 2]), [0.0, 2.0]])
def test_one_prompt_where_a_list_of_them_is_expected(flat):
    with pytest.raises(ValueError, match=r"prompts is one vector .*expected a list of them, \[prompt\]"):
        sample(policy(), flat, CONFIG, [0])
    with pytest.raises(ValueError, match=r"prompts is one vector .*expected a list of them, \[prompt\]"):
        contrastive_search(policy(), flat, ContrastiveConfig(max_new_tokens=2))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([[0, 2], [0, 3]], r"has the shape \(2, 2\): expected a single vector"),
        ([[0, 2], [0, 2, 3]], "holds vectors of several lengths: expected a single vector"),
        (np.array([0.0, 2.0]), "holds numbers of type float64: expected integers"),
        ("Once", r"is text: expected token ids, .*tokenizer.encode\(text\)"),
        (["Once", "upon"], "is text: expected token ids"),
        ([0, SPACE.bkspc], rf"holds {SPACE.bkspc} \(<bkspc>, an action and no token\): expected token ids in \[0, "),
        ([0, -1], "holds -1: expected token ids in"),
    ],
)
def test_what_is_no_prompt_is_named(prompt, message):
    with pytest.raises(ValueError, match=f"prompt 0 {message}"):
        next(stream(policy(), prompt, CONFIG, seed=0))
    with pytest.raises(ValueError, match=f"prompt 1 {message}"):
        sample(policy(), [[0, 2], prompt], CONFIG, [0, 1])
    with pytest.raises(ValueError, match=f"prompt 0 {message}"):
        contrastive_search(policy(), [prompt], ContrastiveConfig(max_new_tokens=2))


def test_the_settings_of_one_sampler_are_not_those_of_another():
    other = ContrastiveConfig(max_new_tokens=2)
    with pytest.raises(TypeError, match="config is a ContrastiveConfig: expected a SamplingConfig"):
        sample(policy(), [[0, 2]], other, [0])
    with pytest.raises(TypeError, match="config is a int: expected a SamplingConfig"):
        next(stream(policy(), [0, 2], 5, seed=0))
    with pytest.raises(TypeError, match="config is a SamplingConfig: expected a ContrastiveConfig"):
        contrastive_search(policy(), [[0, 2]], CONFIG)


@pytest.mark.parametrize("seed", [0.5, None, -1, 2**64, "0"])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match=rf"{seed!r} is no seed: expected an integer in \[0, 2\*\*64\)"):
        sample(policy(), [[0, 2]], CONFIG, [seed])
    with pytest.raises(ValueError, match=rf"{seed!r} is no seed"):
        next(stream(policy(), [0, 2], CONFIG, seed))


def test_numbers_of_rows_and_seeds():
    with pytest.raises(ValueError, match=r"seeds is one number, 0: expected one per prompt, for instance range\(2\)"):
        sample(policy(), [[0, 2], [0, 3]], CONFIG, 0)
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size={batch_size}: expected >= 1"):
            contrastive_search(policy(), [[0, 2]], ContrastiveConfig(max_new_tokens=2), batch_size=batch_size)


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "field", "value", "expected"),
    [
        (TrainConfig, "steps", 1e4, "steps=10000.0: expected int"),
        (TrainConfig, "eta", "0.1", "eta='0.1': expected float"),
        (TrainConfig, "row_len", 64.0, "row_len=64.0: expected int or None"),
        (TrainConfig, "objective", "sm", "objective='sm': expected ObjectiveConfig"),
        (TrainConfig, "paired", 1, "paired=1: expected bool"),
        (ObjectiveConfig, "alpha", "0.01", "alpha='0.01': expected float"),
        (ObjectiveConfig, "bc_steps", None, "bc_steps=None: expected int"),
        (SamplingConfig, "top_k", None, "top_k=None: expected int"),
        (SamplingConfig, "temperature", "1", "temperature='1': expected float"),
        (SamplingConfig, "max_new_tokens", 5.0, "max_new_tokens=5.0: expected int"),
        (ContrastiveConfig, "k", 2.5, "k=2.5: expected int"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(make, field, value, expected):
    least = {} if make in (TrainConfig, ObjectiveConfig) else {"max_new_tokens": 2}
    with pytest.raises(TypeError, match=expected):
        make(**{**least, field: value})


def test_numbers_of_numpy_are_numbers_and_an_integer_is_a_float():
    made = TrainConfig(steps=np.int64(10), eta=np.float32(0.5), times_seen=8, row_len=np.int32(64))
    assert (made.steps, made.times_seen, made.row_len) == (10, 8, 64)


# --- data ----------------------------------------------------------------------------------------------------------

TOKENIZER = PretrainedTokenizer(words_tokenizer())


def test_a_tokeniser_of_transformers_has_to_be_wrapped():
    with pytest.raises(TypeError, match=r"without bos, eos, special_ids: .*PretrainedTokenizer\(tokenizer\)"):
        Continuations.from_texts(texts(), words_tokenizer(), context=24, max_prompt=8)


@pytest.mark.parametrize("document", [{"text": "w1 w2"}, None, b"w1 w2"])
def test_documents_are_strings(document):
    with pytest.raises(TypeError, match=f"document 1 is a {type(document).__name__}: expected a string"):
        Continuations.from_texts(["w1 w2 w3", document], TOKENIZER, context=24, max_prompt=8)


@pytest.mark.parametrize("name", ["context", "max_prompt"])
def test_lengths_of_texts_are_integers(name):
    with pytest.raises(TypeError, match=f"{name}=8.0: expected an integer"):
        Continuations.from_texts(texts(), TOKENIZER, **{"context": 24, "max_prompt": 4, name: 8.0})


def test_passages_are_passages_of_token_ids():
    def made(*source):
        return Continuations(source, TOKENIZER, context=24, max_prompt=8)

    for wrong in ("w1 w2", np.array([3, 4, 5])):
        with pytest.raises(TypeError, match=rf"is a {type(wrong).__name__}: expected what .*Continuations.from_texts"):
            made(wrong)
    for ids, message in (
        ([3.0, 4.5], "the ids of mine must be integers, got dtype float64"),
        ([3, 43], "mine contains id 43: the tokeniser has those below 43"),
        ([3, -1], "mine contains id -1"),
        ([3, 2, 4], "mine contains <eos>"),
    ):
        with pytest.raises(ValueError, match=message):
            made(Passage(np.array(ids), True, "mine", 0))


def test_ids_that_are_no_integers_are_not_cut_down_to_some():
    law = NoiseLaw.uniform([3, 4])
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="the answer must be integers, got dtype float64"):
        expert_trajectory([0], np.array([3.7, 1.0]), law, 0.1, rng, SPACE)
    with pytest.raises(ValueError, match="the prompt must be integers, got dtype float64"):
        expert_trajectory(np.array([0.0]), [3, 1], law, 0.1, rng, SPACE)
    for make in (NoiseLaw.uniform, lambda tokens: NoiseLaw(tokens, np.array([0.5, 0.5]))):
        with pytest.raises(ValueError, match="the tokens of a noise law must be integers"):
            make(np.array([3.2, 4.9]))

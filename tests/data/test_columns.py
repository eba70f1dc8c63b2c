"""Data by their columns: each form, each source, streams, truncation that is said, and every refusal with its cure."""

import json

import numpy as np
import pytest

from smlib.data.columns import Prompted, Texts, form_of, from_columns
from smlib.data.examples import intended
from smlib.data.rows import Stream, rows_of
from smlib.data.tokenizers import PretrainedTokenizer
from smlib.edits.actions import final_state
from smlib.edits.noise import expert_trajectory
from smlib.training.dataset import Dataset
from tests.support.finetuning import CHAT, prompted
from tests.support.models import texts, words_tokenizer

RNG = np.random.default_rng(0)


def tokenizer(**changes):
    backend = words_tokenizer()
    for name, value in changes.items():
        setattr(backend, name, value)
    return PretrainedTokenizer(backend, 48)


def read(rows, tokens=None, **options):
    return from_columns(rows, tokens or tokenizer(), **{"max_length": 32, **options})


def words(*numbers):
    return [3 + n for n in numbers]


def test_prompts_and_completions():
    data = read([{"prompt": "w1 w2", "completion": "w3 w4", "source": "x"}])
    assert isinstance(data, Dataset)
    assert (len(data), data.branches, data.in_order, data.eta) == (1, False, False, None)
    clean = data.demonstration(0, RNG, 0.0, 1)
    assert clean.prompt.tolist() == [1, *words(1, 2)]
    assert clean.realised.tolist() == data.reference(0).tolist() == [*words(3, 4), 2]
    noisy = data.demonstration(0, RNG, 0.7, 1)
    assert len(noisy) > 3
    assert final_state(noisy, data.space).tolist() == words(3, 4)
    assert data.rollout_prompt(0, RNG).tolist() == clean.prompt.tolist()
    assert set(data.noise_law(0).tokens) == set(range(3, 43))


def test_messages_make_an_example_of_every_turn_of_the_assistant():
    talk = [("user", "w5"), ("assistant", "w6 w7"), ("user", "w8"), ("assistant", "w9")]
    rows = [{"messages": [{"role": role, "content": content} for role, content in talk]}]
    data = read(rows, tokenizer(chat_template=CHAT))
    first, second = data.examples
    assert first.prompt.tolist() == words(0, 5, 1)  # no <bos> that the template does not write
    assert first.answer.tolist() == [*words(6, 7), 2]
    assert second.prompt.tolist() == [*words(0, 5, 1, 6, 7), 2, *words(0, 8, 1)]
    assert second.answer.tolist() == [*words(9), 2]
    pair = {"prompt": rows[0]["messages"][:3], "completion": rows[0]["messages"][3:]}
    (only,) = read([pair], tokenizer(chat_template=CHAT)).examples
    assert only.prompt.tolist() == second.prompt.tolist()
    assert only.answer.tolist() == second.answer.tolist()


@pytest.mark.parametrize(
    "actions",
    [
        "w3 w9<bkspc>w4 w8 w7<bkspc><bkspc>w5",
        ["w3", "w9", "<bkspc>", "w4 w8", "w7", "<bkspc>", "<bkspc>", "w5"],
        [*words(3, 9), 48, *words(4, 8, 7), 48, 48, *words(5), 2],
    ],
)
def test_demonstrations_with_their_own_backspace(actions):
    rows = [{"prompt": "w1", "actions": actions}]
    data = read(rows)
    shown = data.demonstration(0, RNG, 0.3, 1)
    assert data.eta == 0.0
    assert shown.realised.tolist() == [*words(3, 9), 48, *words(4, 8, 7), 48, 48, *words(5), 2]
    assert shown.labels.tolist() == [*words(3, 4), 48, *words(4, 5), 48, 48, 48, *words(5), 2]
    assert data.reference(0).tolist() == [*words(3, 4, 5), 2]
    assert read(rows, mistakes="chosen").demonstration(0, RNG, 0.0, 1).labels.tolist() == shown.realised.tolist()
    assert read(rows, clean=True).demonstration(0, RNG, 0.0, 1).realised.tolist() == [*words(3, 4, 5), 2]


@pytest.mark.parametrize("burst", [1, 3])
def test_the_intended_labels_are_those_of_the_papers_demonstrations(burst):
    data = read(prompted())
    rng = np.random.default_rng(1)
    for i in range(len(data)):
        made = expert_trajectory(
            data.rollout_prompt(i, rng), data.reference(i), data.noise_law(i), 0.4, rng, data.space, burst=burst
        )
        assert intended(made.realised.tolist(), data.space.bkspc) == made.labels.tolist()


def test_running_text_is_cut_into_passages_and_says_so():
    long = "W1 w2 w3. " * 40
    with pytest.warns(UserWarning, match="1 of 7 texts are longer than max_length=48 tokens: they are cut into"):
        data = read([{"text": t} for t in [*texts(), long]], max_length=48)
    assert isinstance(data, Texts)
    assert data.branches
    assert len(data) > 7
    assert all(len(data.demonstration(i, RNG, 0.0, 1).prompt) == 1 for i in range(len(data)))


LONG = " ".join(["w2"] * 30)
TOO_LONG = {
    "completion": ({"prompt": "w1 " * 30, "completion": LONG}, {"prompt": "w1", "completion": "w2"}, 30),
    "actions": ({"prompt": "w1 " * 30, "actions": "w3<bkspc>" + LONG}, {"prompt": "w1", "actions": "w2"}, 30),
    "messages": (
        {"messages": [{"role": "user", "content": "w1 " * 30}, {"role": "assistant", "content": LONG}]},
        {"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]},
        31,
    ),
}


@pytest.mark.parametrize("form", TOO_LONG)
def test_what_is_cut_off_is_said(form):
    long, short, lost = TOO_LONG[form]
    said = rf"1 of 5 examples are longer than max_length=32.*max_prompt_length=16: {lost} tokens"
    with pytest.warns(UserWarning, match=said):
        data = read([short] * 4 + [long], tokenizer(chat_template=CHAT))
    assert (data.cut, data.lost) == (1, lost)
    shown = data.demonstration(4, RNG, 0.0, 1)
    assert shown.prompt.size == 16
    assert shown.prompt[-1] == words(1)[0]
    if form == "completion":
        assert shown.prompt.tolist() == [1, *words(*[1] * 15)]
    standing = final_state(shown, data.space)
    assert shown.prompt.size + len(standing) + 1 == 32  # <eos> is read too
    assert (shown.labels[-1], shown.realised[-1]) == (words(2)[0], 2)


def files(folder, rows):
    import pyarrow
    from pyarrow import parquet

    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    (folder / "rows.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return [str(folder / f"rows.{kind}") for kind in ("jsonl", "json", "parquet")]


def test_every_source_gives_the_same_examples(tmp_path):
    import datasets

    rows = prompted()
    expected = read(rows)
    table = datasets.Dataset.from_list(rows)
    streams = [table.to_iterable_dataset(), datasets.IterableDataset.from_generator(lambda: iter(rows))]
    for source in [*files(tmp_path, rows), table, *streams]:
        data = read(source, places=100)
        assert isinstance(data, Prompted)
        assert data.in_order == (source in streams)
        assert len(data) == (100 if data.in_order else 12)
        for i in range(12):
            assert data.rollout_prompt(i, RNG).tolist() == expected.rollout_prompt(i, RNG).tolist()
            assert data.reference(i).tolist() == expected.reference(i).tolist()
        if data.in_order:
            assert data.reference(12 + 5).tolist() == expected.reference(5).tolist()  # after its end it begins again


def test_a_stream_of_texts_is_read_as_it_is_asked_for():
    read_rows = []

    class Endless:
        def __iter__(self):
            for i in range(10**9):
                read_rows.append(i)
                yield {"text": texts(6)[i % 6]}

    data = read(Endless(), max_length=48, places=10**6, keep=50)
    assert data.in_order
    assert len(read_rows) <= 2
    data.demonstration(40, RNG, 0.0, 1)
    assert max(read_rows) <= 41
    expected = read([{"text": t} for t in texts()], max_length=48)
    assert (
        data.demonstration(40, RNG, 0.0, 1).realised.tolist()
        == expected.demonstration(4, RNG, 0.0, 1).realised.tolist()
    )


def test_a_stream_remembers_or_reads_again_but_gives_what_stands_at_a_place():
    begun = []

    def begin():
        begun.append(1)
        return iter(range(0, 300, 3))

    stream = Stream(begin, 10**6, keep=10)
    rng = np.random.default_rng(0)
    for ahead in range(100):  # two readers in order, as data and buffer are, and one that comes back to the start
        assert stream[ahead] == 3 * ahead
        assert stream[ahead // 8] == 3 * (ahead // 8)
        if ahead % 25 == 0:
            assert stream[0] == 0
    assert len(begun) < 10
    for place in rng.integers(0, 10**5, 50).tolist():
        assert stream[place] == 3 * (place % 100)
    assert stream.total == 100
    assert stream[123_456] == 3 * 56


def test_a_stream_says_once_that_it_is_cut():
    import datasets

    long = [{"prompt": "w1", "completion": " ".join(["w2"] * 60)}] * 3
    data = read(datasets.Dataset.from_list(long).to_iterable_dataset(), places=9)
    with pytest.warns(UserWarning, match="an example of the stream, and maybe more, is longer than max_length=32"):
        data.demonstration(0, RNG, 0.0, 1)
    data.demonstration(2, RNG, 0.0, 1)
    assert data.cut == 3


def test_a_row_that_lacks_a_column_is_named():
    with pytest.raises(ValueError, match="row 1 has the columns text, and no prompt: every row needs prompt"):
        read([{"prompt": "w1", "completion": "w2"}, {"text": "w3"}])


def test_a_misspelt_column_gets_its_own_cure():
    with pytest.raises(ValueError, match=r"rename_columns\(\{'completions': 'completion'\}\)"):
        form_of(["prompt", "completions"])


def test_deletions_among_the_characters_of_a_completion_are_pointed_out():
    rows = [{"prompt": "w1", "completion": "w2"}] + 3 * [{"prompt": "w1", "completion": "w2<bkspc> w3"}]
    with pytest.warns(UserWarning, match="row 1, and maybe more: .* has <bkspc> in it") as said:
        read(rows)
    assert len(said) == 1


def test_columns_that_are_none_or_several_are_named():
    with pytest.raises(ValueError, match=r"has the columns question, answer: expected one of these sets: text; prompt"):
        read([{"question": "w1", "answer": "w2"}])
    with pytest.raises(ValueError, match=r"fit completion and text: leave those of one"):
        read([{"prompt": "w1", "completion": "w2", "text": "w3"}])
    assert form_of(["id", "prompt", "actions"]) == "actions"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "w1", "completion": " "}, r"row 1, column completion is empty \(' '\).*dataset.filter"),
        ({"prompt": "w1", "completion": None}, "row 1, column completion: expected a string, got None"),
        ({"prompt": 7, "completion": "w1"}, "row 1, column prompt: expected a string, messages or token ids, got 7"),
        ({"prompt": "w1", "actions": ""}, r"row 1, column actions is empty.*lambda row: row\['actions'\]"),
        ({"prompt": "w1", "actions": [5, 49]}, r"49 is no action: expected token ids below 48, and 48 for <bkspc>"),
        ({"prompt": "w1", "actions": ["w1", 3]}, "'w1' is no action"),
        ({"prompt": [1, 99], "actions": [5]}, r"column prompt: ids lie in 0..47"),
        ({"messages": [{"role": "user", "content": "w1"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "assistant", "content": ""}]}, r"turn 0 of the assistant is empty.*row\['messages'\]"),
        ({"messages": "w1"}, "expected a list of"),
        ({"text": ""}, "row 1, column text is empty"),
        ({"text": "w1"}, "row 1, column text has one token"),
        ({"text": "  "}, r"row 1, column text is empty .*row\['text'\].strip\(\)"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused_by_number(row, message):
    good = {
        "completion": {"prompt": "w1", "completion": "w2"},
        "actions": {"prompt": "w1", "actions": "w2"},
        "messages": {"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]},
        "text": {"text": "w1 w2 w3"},
    }[form_of(list(row))]
    with pytest.raises(ValueError, match=message):
        read([good, row], tokenizer(chat_template=CHAT))


def test_a_missing_chat_template_is_said_and_may_be_given_as_a_file(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]}]
    with pytest.raises(ValueError, match="has no chat template: give one by chat_template_path"):
        read(rows)
    (tmp_path / "chat.jinja").write_text(CHAT)
    assert len(read(rows, chat_template=str(tmp_path / "chat.jinja"))) == 1
    with pytest.raises(ValueError, match=r"nowhere.jinja' cannot be read: No such file"):
        read(rows, chat_template=str(tmp_path / "nowhere.jinja"))
    turning = "{{ messages | length }} {% for m in messages %}{{ m['content'] }} {% endfor %}"
    with pytest.raises(ValueError, match="give a template that only adds"):
        read(rows, tokenizer(chat_template=turning))


def test_sources_that_are_none_are_refused(tmp_path):
    import datasets

    with pytest.raises(ValueError, match="has the splits train, test: give one of them"):
        rows_of(datasets.DatasetDict({"train": datasets.Dataset.from_list(prompted()), "test": None}))
    with pytest.raises(TypeError, match="is a generator, which can be read once"):
        rows_of(row for row in prompted())
    with pytest.raises(TypeError, match="the data set is a int"):
        rows_of(5)
    with pytest.raises(TypeError, match="a row of list is a str: expected a dictionary"):
        rows_of(["w1"])
    with pytest.raises(ValueError, match="list has no rows"):
        rows_of([])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        rows_of(str(tmp_path / "nothing.jsonl"))
    (tmp_path / "rows.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"ends in '.csv': expected one of .jsonl, .json, .parquet"):
        rows_of(tmp_path / "rows.csv")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "w1", "completion": "w2"}\n{"prompt"')
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        rows_of(tmp_path / "rows.jsonl")
    (tmp_path / "rows.parquet").write_text("no")
    with pytest.raises(ValueError, match="is no parquet file"):
        rows_of(tmp_path / "rows.parquet")


def test_files_as_windows_saves_them_are_read_or_named(tmp_path):
    line = '{"prompt": "w1", "completion": "é"}'
    for name, text in (("mark.jsonl", f"{line}\r\n{line}\r\n"), ("mark.json", f"[{line}]")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig", newline="")
        assert next(iter(rows_of(tmp_path / name).begin())) == {"prompt": "w1", "completion": "é"}
    for encoding, said in (
        ("utf-16", r"line 1 is no UTF-8 \(it begins with the byte-order mark of UTF-16\).* iconv -f UTF-16 -t UTF-8"),
        ("latin1", r"line 2 is no UTF-8 \(byte 0xe9 at its place 32: .*\).* iconv -f LATIN1 -t UTF-8"),
    ):
        for name in ("other.jsonl", "other.json"):
            (tmp_path / name).write_text(f"{{}}\n{line}\n", encoding=encoding)
            with pytest.raises(ValueError, match=f"{name}, {said}"):
                rows_of(tmp_path / name)


def test_datasets_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"someone/edits is no file here.*pip install 'smlib\[datasets\]'"):
        rows_of("someone/edits", download=True)


def test_the_hub_is_asked_for_no_data_unless_one_says_so():
    with pytest.raises(FileNotFoundError, match="no file someone/edits, and the hub is not asked"):
        rows_of("someone/edits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.1}, "eta=0.1, and the demonstrations have mistakes of their own"),
        ({"max_length": 2}, "expected max_length >= 3"),
        ({"max_prompt_length": 31}, "max_prompt_length < max_length - 1"),
    ],
)
def test_options_that_do_not_fit_the_data(options, message):
    with pytest.raises(ValueError, match=message):
        read([{"prompt": "w1", "actions": "w2"}], **options)


def test_a_stream_has_neither_an_epoch_nor_a_count_of_tokens():
    import datasets

    stream = datasets.Dataset.from_list(prompted()).to_iterable_dataset()
    with pytest.raises(ValueError, match="so an epoch has none either: set max_steps"):
        read(stream)
    with pytest.raises(ValueError, match="a stream is never seen whole: choose noise='vocabulary'"):
        read(stream, places=10, noise="unigram")

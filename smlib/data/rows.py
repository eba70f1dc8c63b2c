"""Rows of a data set as people have it: a list, a JSONL or parquet file, a data set of `datasets`, streaming or not."""

import json
import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Rows:
    """A table that can be read from its start as often as one likes.

    Attributes:
        name: for messages. columns: their names. number: of rows; None for a stream, which has none.
        begin: an iterator over all rows.
    """

    name: str
    columns: tuple[str, ...]
    number: int | None
    begin: Callable[[], Iterator[Row]]


def rows_of(source: Any, *, split: str = "train", streaming: bool = False, download: bool = False) -> Rows:
    """The rows of whatever `source` is.

    Args:
        source: `Rows`; a list of dictionaries; the path of a JSONL, JSON or parquet file; a `datasets.Dataset` or
            `IterableDataset`; anything else that can be iterated over again and again; a data set's name on the hub.
        split: of a data set on the hub. streaming: read a file or a data set on the hub as it is needed.
        download: let a name ask the hub.

    Raises:
        FileNotFoundError: no such file; a name on the hub without `download`. ModuleNotFoundError: a name on the hub
            without `datasets`.
        TypeError: another kind of source. ValueError: no rows; a file that is damaged or of an unknown kind; splits.
    """
    if isinstance(source, Rows):
        return source
    if isinstance(source, str | os.PathLike):
        return _named(str(source), split, streaming, download)
    if isinstance(source, Mapping):
        raise ValueError(
            f"the data set has the splits {', '.join(map(str, source))}: give one of them, such as dataset['train']"
        )
    if isinstance(source, Iterator):
        raise TypeError(
            "the data set is a generator, which can be read once: give a list of rows, a file, or an IterableDataset "
            "(datasets.IterableDataset.from_generator)"
        )
    if not isinstance(source, Iterable):
        raise TypeError(
            f"the data set is a {type(source).__name__}: expected a list of rows, the path of a .jsonl or .parquet "
            "file, or a Dataset or IterableDataset of datasets"
        )
    name = type(source).__name__
    number = len(source) if isinstance(source, Sized) else None
    return _checked(name, getattr(source, "column_names", None), number, lambda: iter(source))


def _checked(name: str, columns: Sequence[str] | None, number: int | None, begin: Callable[[], Iterator[Row]]) -> Rows:
    first = next(begin(), None)
    if first is None:
        raise ValueError(f"{name} has no rows: expected one example at least")
    if not isinstance(first, Mapping):
        raise TypeError(f"a row of {name} is a {type(first).__name__}: expected a dictionary from columns to values")
    return Rows(name, tuple(columns or first), number, begin)


def _named(name: str, split: str, streaming: bool, download: bool) -> Rows:
    path = Path(name)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{name} ends in {path.suffix!r}: expected one of {', '.join(SUFFIXES)}")
        begin = {".parquet": _parquet, ".jsonl": _lines, ".json": _json}[path.suffix]
        number = None if streaming else sum(1 for _ in begin(path))
        return _checked(name, None, number, lambda: begin(path))
    if path.suffix in SUFFIXES or path.is_dir() or name[:1] in ("/", ".", "~"):
        raise FileNotFoundError(f"there is no file {name}: expected a file that ends in one of {', '.join(SUFFIXES)}")
    if not download:
        raise FileNotFoundError(
            f"there is no file {name}, and the hub is not asked for a data set of that name unless you say so: "
            "rows_of(..., download=True), or smlib finetune --local_files_only false"
        )
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is no file here, and data sets of the hub come through datasets: pip install 'smlib[datasets]'"
        ) from error
    return rows_of(datasets.load_dataset(name, split=split, streaming=streaming))


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """The file, opened as UTF-8, with the mark at its beginning or without, as editors on Windows save it."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        number, said = _undecodable(path)
        raise ValueError(
            f"{path}, line {number} is no UTF-8 ({said}): save the file as UTF-8, as by "
            f"iconv -f {'UTF-16' if number == 1 and 'byte-order mark' in said else 'LATIN1'} -t UTF-8"
        ) from error


def _undecodable(path: Path) -> tuple[int, str]:
    """The first line that is no UTF-8, and what is wrong with it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
                return number, "it begins with the byte-order mark of UTF-16"
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return number, f"byte 0x{line[error.start]:02x} at its place {error.start}: {error.reason}"
    raise AssertionError("a file that cannot be read as UTF-8 has such a line")


def _lines(path: Path) -> Iterator[Row]:
    with _text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is no JSON ({error}): expected one object a line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number} is a {type(row).__name__}: expected one JSON object a line")
            yield row


def _json(path: Path) -> Iterator[Row]:
    with _text(path) as file:
        begins = file.read(64).lstrip()[:1]
    if begins != "[":
        yield from _lines(path)
        return
    with _text(path) as file:
        try:
            rows = json.load(file)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
    yield from rows


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet file: {error}") from error
    for batch in table.iter_batches(1_024):
        yield from batch.to_pylist()


class Stream(Sequence[Any]):
    """Examples by their place in a stream that is read as they are asked for; after its end it begins again.

    Whoever reads on in order is served by one pass. An example that is asked for again is remembered for a while, and
    read once more after that: what is returned depends on its place alone.

    Args:
        begin: an iterator over all examples.
        places: how many are asked for, which is all the length that a stream has.
        keep: how many are remembered.
    """

    READERS = 4

    def __init__(self, begin: Callable[[], Iterator[Any]], places: int, keep: int) -> None:
        self.begin, self.places, self.keep = begin, places, keep
        self.total: int | None = None  # examples in the stream, once its end has been seen
        self._kept: dict[int, Any] = {}
        self._readers: list[tuple[int, Iterator[Any]]] = []  # (place of the next example, iterator), the last used last

    def __len__(self) -> int:
        return self.places

    def __getitem__(self, place: Any) -> Any:
        if self.total is not None:
            place %= self.total
        if place not in self._kept:
            self._read_to(place)
            return self[place]
        return self._kept[place]

    def _read_to(self, place: int) -> None:
        near = [r for r in self._readers if r[0] <= place]
        at, reader = max(near, key=lambda r: r[0]) if near else (0, self.begin())
        self._readers = [r for r in self._readers if r[1] is not reader]
        for example in reader:
            self._kept.pop(at, None)
            self._kept[at] = example
            if len(self._kept) > self.keep:
                del self._kept[next(iter(self._kept))]
            at += 1
            if at > place:
                self._readers = [*self._readers[-self.READERS + 1 :], (at, reader)]
                return
        if at == 0:
            raise ValueError("the stream has no examples: expected one at least")
        self.total = at  # and place is taken modulo that from now on

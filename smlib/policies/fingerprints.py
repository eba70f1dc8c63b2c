"""A fingerprint of the weights under adapters: the same numbers in the same places, or another model.

It is taken of the checkpoint and not of what is in memory, so it does not depend on the dtype or the device that the
weights are loaded to, nor on 4-bit rounding; and tensor by tensor, so that it does not depend on how they are divided
into files. Every byte counts.
"""

import hashlib
import json
import mmap
from pathlib import Path

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def fingerprint(where: str, *, local_files_only: bool = True) -> str | None:
    """sha256 over name, dtype, shape and bytes of every tensor of a checkpoint, by name; None if it has no safetensors.

    Args:
        where: a folder or a hub name.
    """
    tensors: dict[str, tuple[Path, str, list[int], int, int]] = {}
    for file in _files(where, local_files_only):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + at for at in entry["data_offsets"])
                tensors[name] = (file, entry["dtype"], entry["shape"], begin, end)
    if not tensors:
        return None
    seen, opened = hashlib.sha256(), {}
    try:
        for name in sorted(tensors):
            file, dtype, shape, begin, end = tensors[name]
            if file not in opened:
                with file.open("rb") as stream:
                    opened[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            seen.update(json.dumps([name, dtype, shape]).encode())
            with memoryview(opened[file]) as whole, whole[begin:end] as part:
                seen.update(part)
    finally:
        for mapped in opened.values():
            mapped.close()
    return f"sha256:{seen.hexdigest()}"


def _files(where: str, local_files_only: bool) -> list[Path]:
    """The safetensors files of a checkpoint, which has been loaded before: on disk, or in the hub's cache."""
    index = _find(where, INDEX, local_files_only)
    single = _find(where, WEIGHTS, local_files_only)
    if single is not None or index is None:  # where there are both, transformers reads the single file
        return [single] if single is not None else []
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    found = [_find(where, name, local_files_only) for name in names]
    return [file for file in found if file is not None]


def _find(where: str, name: str, local_files_only: bool) -> Path | None:
    if Path(where).is_dir():
        return Path(where, name) if Path(where, name).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        where,
        name,
        local_files_only=local_files_only,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None

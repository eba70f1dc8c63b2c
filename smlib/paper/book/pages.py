"""Pages of `docs/` in the book: the same text, with links that lead somewhere on the site.

A link to a page, a notebook or a figure stays a link. One to a file of the repository that the site does not have, such
as a module, becomes its name in code type.
"""

import re
from pathlib import PurePosixPath

LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
OUTSIDE = ("http://", "https://", "mailto:")


def on_site(text: str, place: PurePosixPath, known: frozenset[str]) -> str:
    """The text with its links turned to the site.

    Args:
        place: of the page in the repository, such as `docs/running.md`.
        known: files of the repository that the site has, at the same places.

    >>> on_site("[a](../smlib/files.py) [b](running.md)", PurePosixPath("docs/x.md"), frozenset({"docs/running.md"}))
    '`smlib/files.py` [b](running.md)'
    """
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    def turn(found: re.Match[str]) -> str:
        target = found["target"]
        if target.startswith("#"):  # Jupyter keeps capitals in a heading's anchor, the site has none
            return f"{found['image']}[{found['text']}]({target.lower()})"
        if target.startswith(OUTSIDE):
            return found[0]
        path, _, _ = target.partition("#")
        inside = _resolved(place.parent / path)
        if inside in known:
            return found[0]
        shown = re.sub(r"^`(.*)`$", r"\1", found["text"]) if inside.endswith(".ipynb") else inside
        return f"`{shown}`"

    turned = LINK.sub(turn, FENCE.sub(keep, text))
    turned = re.sub(r"^```mermaid$", "```text", turned, flags=re.MULTILINE)
    return re.sub(r"\0(\d+)\0", lambda found: kept[int(found[1])].replace("```mermaid", "```text"), turned)


def _resolved(path: PurePosixPath) -> str:
    """A path without `..`."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            if parts:
                parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)

"""Wikipedia's markup to prose: paragraphs of whole sentences, nothing else.

Tables, lists, headings, references, images and templates go. What a template or a formula would have printed inside a
sentence is lost, so that sentence goes too (or the parenthesis that it stands in, as with pronunciations): the text
that remains is what its authors wrote.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator

_HOLE = "\x00"  # stands where something unprintable was removed from the middle of a sentence

_COMMENT = re.compile(r"<!--.*?-->", re.S)
_REF = re.compile(r"<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>", re.S | re.I)
_BLOCK = re.compile(
    r"<(gallery|timeline|imagemap|score|source|syntaxhighlight|pre|table|poem|hiero|div|section|code)\b[^>]*>.*?</\1\s*>",
    re.S | re.I,
)
_FORMULA = re.compile(r"<(math|chem|ce|sup)\b[^>]*>.*?</\1\s*>", re.S | re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$", re.M)
_APPENDICES = re.compile(
    r"see also|references?|notes?( and references)?|further reading|external links|bibliography|sources?|"
    r"footnotes|citations|works cited|gallery|selected works|publications|discography|filmography|"
    r"cited sources|primary sources|secondary sources|references and notes|notes and citations",
    re.I,
)
_URL = re.compile(r"(?:https?|ftp)://\S+")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//[^\s\]]+\s*([^\]]*)\]")
_PARENTHESIS = re.compile(r"\s*[(\[][^()\[\]]*\x00[^()\[\]]*[)\]]")
_SENTENCE_END = re.compile(r"(?<=[.!?])([\"”’)]*)\s+(?=[\"“‘(]*[A-Z0-9])")
# Templates that print nothing within a sentence.
_SILENT = re.compile(
    r"cite|citation|citation needed|cn|fact|sfnp?|sfnm|efn|refn|rp|harvp?|harvnb|harvtxt|notetag|note|ref|"
    r"clarify|when|who|which|by whom|according to whom|dubious|disputed.*|vague|page needed|verify.*|"
    r"failed verification|dead link|as of|better source.*|original research.*|or|pov.*|why|where|how|"
    r"specify|quantify|update.*|anchor|visible anchor|clear|-|use .* dates?|use .* english|pp.*|about|"
    r"main.*|see also.*|further.*|infobox.*|good article|featured article|redirect.*|distinguish|"
    r"other uses.*|for|hatnote|multiple image|quote box|double image|toc.*|details.*|wide image|refend|"
    r"refbegin|reflist|portal.*|commons.*|split.*|unreferenced.*|refimprove.*|expand.*|sic|"
    r"self-published.*|primary.*|contradict.*|image.*|tone.*|undue.*|weasel.*|peacock.*|importance.*|"
    r"legend.*|linktext|cleanup.*|example needed.*|listen|need.*|more.*|medical.*|unbalanced.*|discuss|"
    r"relevance.*|non-primary.*|vn|cbignore|shy|wikt.*|sup|webarchive|better.*",
    re.I,
)
# Templates that print one of their arguments: name -> position of that argument (from 1; negative counts from the end).
_PRINTS = {
    "lang": 2, "transl": -1, "nowrap": 1, "nobr": 1, "nobreak": 1, "small": 1, "big": 1, "abbr": 1, "tooltip": 1,
    "smallcaps": 1, "sc": 1, "ship": -1, "uss": 1, "em": 1, "strong": 1, "vr": 1, "okina": 0, "interlanguage link": 1,
    "ill": 1, "quote": 1, "blockquote": 1, "cquote": 1, "quotation": 1, "visible": 1, "not a typo": 1, "proper name": 1,
    "script": -1, "unicode": 1, "polytonic": 1, "math": 0, "mvar": 1, "var": 1,
}  # fmt: skip
_LITERAL = {
    "ndash": "–", "mdash": "—", "en dash": "–", "em dash": "—", "spaced ndash": " – ", "snd": " – ", "nbsp": " ",
    "'": "'", "'s": "'s", "spaces": " ", "·": "·", "dash": "–", "ad": "AD", "bc": "BC", "sclass-": _HOLE, "!": " ",
}  # fmt: skip


def prose(wikitext: str) -> str:
    """Plain paragraphs of an article's source, one per line.

    Args:
        wikitext: MediaWiki source, XML entities decoded.

    Returns:
        Paragraphs of at least one full sentence, separated by newlines; no heading, list, table, note or markup.
    """
    text = _COMMENT.sub("", wikitext)
    text = _REF.sub("", text)
    text = _BLOCK.sub("\n", text)
    text = _FORMULA.sub(_HOLE, text)
    text = _balanced(text, "{|", "\n|}", lambda inner: "\n")
    text = _balanced(text, "{{", "}}", _template)
    text = re.sub(r"^[\x00 \t]+$", "", text, flags=re.M)  # a template that has the line to itself is no part of it
    text = _body(text)
    text = _balanced(text, "[[", "]]", _link)
    text = _EXTERNAL.sub(r"\1", text)
    text = _TAG.sub("", text)
    text = html.unescape(text)
    text = _URL.sub(_HOLE, text)
    text = re.sub(r"'{2,}", "", text)
    paragraphs = (_paragraph(p) for p in _joined_lines(text))
    return "\n".join(p for p in paragraphs if p)


def _joined_lines(text: str) -> Iterator[str]:
    # In wikitext a single line break is a space; an empty line, a list or a table line ends the paragraph.
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip() and line[0] not in "*#:;|!{} =<" and "__" not in line:
            lines.append(line)
        elif lines:
            yield " ".join(lines)
            lines = []


def _balanced(text: str, opening: str, closing: str, replace: Callable[[str], str]) -> str:
    # Innermost first, so that `replace` never sees a nested pair. An opening without its closing leaves a hole.
    token = re.compile(f"{re.escape(opening)}|{re.escape(closing)}")
    stack: list[list[str]] = [[]]
    position = 0
    for match in token.finditer(text):
        stack[-1].append(text[position : match.start()])
        position = match.end()
        if match.group() == opening:
            stack.append([])
        elif len(stack) > 1:
            inner = "".join(stack.pop())
            stack[-1].append(replace(inner))
    stack[-1].append(text[position:])
    while len(stack) > 1:
        unclosed = "".join(stack.pop())
        stack[-1].append(_HOLE + unclosed)
    return "".join(stack[0])


def _template(inner: str) -> str:
    name, *rest = inner.split("|")
    name = " ".join(name.replace("_", " ").split()).lower()
    arguments = [r.strip() for r in rest if not re.match(r"\s*[A-Za-z][\w -]*\s*=", r)]
    if name in _LITERAL:
        return _LITERAL[name]
    if name in ("convert", "cvt") and len(arguments) >= 2:
        return _conversion(arguments)
    if name in ("circa", "c.", "ca"):
        return f"c. {arguments[0]}" if arguments else "c."
    position = _PRINTS.get(name, 0)
    if position and len(arguments) >= abs(position):
        return arguments[position - 1 if position > 0 else position]
    if _SILENT.fullmatch(name) or "\n" in inner.strip():
        return ""
    if name.startswith(("cite ", "citation", "infobox", "taxobox", "coord", "sfn", "harv", "navbox", "ipa", "respell")):
        return ""
    return _HOLE


def _conversion(arguments: list[str]) -> str:
    # {{convert|5|km|mi}}: the first value and unit, ranges as {{convert|5|to|7|km}}.
    if arguments[1] in ("to", "-", "–", "and", "or") and len(arguments) >= 4:
        joint = "–" if arguments[1] in "-–" else f" {arguments[1]} "
        number, unit = f"{arguments[0]}{joint}{arguments[2]}", arguments[3]
    else:
        number, unit = arguments[0], arguments[1]
    unit = {"C": "°C", "F": "°F", "sqmi": "square miles", "km2": "square kilometres", "mi": "miles", "ft": "feet"}.get(
        unit, unit
    )
    return f"{number} {unit}"


def _link(inner: str) -> str:
    target, *rest = inner.split("|")
    if re.match(r"\s*(file|image|category|media|wikt|template|user)\s*:", target, re.I):
        return ""
    if re.match(r"\s*[a-z]{2,3}(-[a-z]+)*\s*:", target) and not rest:
        return ""  # interwiki
    shown = rest[-1] if rest else target
    return shown if shown.strip() else re.sub(r"\s*\(.*?\)$", "", target.split(":")[-1])


def _body(text: str) -> str:
    # Headings go, and with them whole sections that hold no prose.
    kept, skip_level, position = [], 7, 0
    for match in _HEADING.finditer(text):
        if skip_level == 7:
            kept.append(text[position : match.start()])
        level = len(match.group(1))
        if level <= skip_level:
            skip_level = level if _APPENDICES.fullmatch(match.group(2).strip("' ")) else 7
        position = match.end()
    if skip_level == 7:
        kept.append(text[position:])
    return "\n\n".join(kept)


def _paragraph(line: str) -> str:
    for _ in range(3):  # nested parentheses, innermost first
        line = _PARENTHESIS.sub("", line)
    line = re.sub(r"[\u200b-\u200f\u2060\ufeff\xad]", "", unicodedata.normalize("NFC", line))
    line = re.sub(r"\(\s*[,;:]\s*", "(", line)
    line = re.sub(r"[\s,;:]+\)", ")", line)
    line = re.sub(r"\s*(?:\(\s*(?:or|and)?\s*\)|\[\s*\])", "", line)
    line = re.sub(r"\s+", " ", line)
    line = re.sub(r" ([,.;:!?])(?=\s|$)", r"\1", line).strip()
    whole = [s for s in _sentences(line) if _is_clean(s)]
    text = " ".join(whole)
    return text if len(text) >= 60 else ""


def _sentences(paragraph: str) -> list[str]:
    pieces, position = [], 0
    for match in _SENTENCE_END.finditer(paragraph):
        pieces.append(paragraph[position : match.end(1)])
        position = match.end()
    return [*pieces, paragraph[position:]]


def _is_clean(sentence: str) -> bool:
    return (
        bool(re.search(r"[.!?][\"”’)]*$", sentence))
        and not re.search(r"[\x00{}|<>]|\w=\w|''", sentence)
        and sentence.count("(") == sentence.count(")")
        and sentence.count("[") == sentence.count("]")
    )

"""Text from result files, models and their tokenisers, as a terminal may show it.

Such text is somebody else's: an escape sequence in it would move the cursor, colour or hide what stands beside it, and
a character that turns the writing direction would show one value as another. It is shown, and not obeyed.
"""

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that a terminal obeys, or that show nothing: control, format, surrogate, line separators."""
KEPT = ("\u200c", "\u200d", "\u00ad")
"""Format characters that belong to words of Persian, Hindi and other scripts, to emoji, or to a hyphenation."""


def visible(text: object, newlines: bool = False) -> str:
    """`text` with what a terminal would obey spelt as Python spells it: `\\x1b`, `\\u202e`.

    Args:
        newlines: keep line breaks and tabs.
    """
    kept = (*KEPT, "\n", "\t") if newlines else KEPT
    return "".join(
        character if character in kept or unicodedata.category(character) not in HIDDEN else ascii(character)[1:-1]
        for character in str(text)
    )

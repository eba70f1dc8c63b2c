"""The static twin of a widget: one HTML page with its script, its styles and a recorded run; it needs no kernel.

Nothing is fetched, and nothing of the record becomes markup: it is JSON in a script element that no browser runs, and
the script writes it with `textContent`.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smlib.files import write_atomically

STATIC = Path(__file__).parent / "static"
HEIGHT = 640
"""Of the frame in a notebook, in pixels."""


def script() -> str:
    """The stepper's module."""
    return (STATIC / "stepper.js").read_text(encoding="utf-8")


def style() -> str:
    """The stepper's styles."""
    return (STATIC / "stepper.css").read_text(encoding="utf-8")


def page(record: Mapping[str, Any], title: str = "A trajectory, action by action") -> str:
    """A whole HTML document that steps through a record (`smlib.widgets.record`)."""
    data = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # In a script element only `</script` and `<!--` mean something to a browser.
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ margin: 0; padding: 8px; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14181d; }} }}
{style()}
</style>
</head>
<body>
<div id="stepper" class="sm-auto"></div>
<noscript>{html.escape(summary(record))}</noscript>
<script type="application/json" id="record">{data}</script>
<script type="module">
{script().replace("export default { render };", "").replace("export function", "function")}
mount(document.getElementById("stepper"), {{ record: JSON.parse(document.getElementById("record").textContent) }});
</script>
</body>
</html>
"""


def frame(record: Mapping[str, Any], title: str = "A trajectory, action by action", height: int = HEIGHT) -> str:
    """The page as an `<iframe>` that carries it, for a notebook's output."""
    return (
        f'<iframe srcdoc="{html.escape(page(record, title))}" title="{html.escape(title)}" '
        f'style="width:100%;height:{height}px;border:0" sandbox="allow-scripts"></iframe>'
    )


def write(record: Mapping[str, Any], path: str | Path, title: str = "A trajectory, action by action") -> Path:
    """Writes the page; whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, page(record, title))
    return target


def summary(record: Mapping[str, Any]) -> str:
    """The trajectory in one line, deletions spelt out; what is shown where no script runs."""
    actions = (step["executed"] if step["kind"] == "insert" else f" {step['executed']} " for step in record["steps"])
    return (record["prompt"] + "".join(actions)).strip()

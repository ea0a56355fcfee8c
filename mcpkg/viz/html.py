"""HTML pieces for a page that is one file: readable on a phone, on paper, in light and dark mode, without a network."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from jaxtyping import Float
from PIL import Image

from mcpkg import __version__

LARGEST_PX = 512
"""Longer side of an embedded picture; the picture in full size is in the page's folder."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="mcpkg {version}">
<title>{title}</title>
<style>
:root {{ --text: #1c1e21; --soft: #5b626c; --line: #d8dce2; --paper: #ffffff; --card: #f5f6f8; --accent: #1859b8; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e6e8eb; --soft: #a3abb6; --line: #3a404a; --paper: #15171b; --card: #1f2329; --accent: #8ab4f8; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--text);
        font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }}
h2 {{ font-size: 1.2rem; margin: 2rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1rem 0 .25rem; }}
p {{ max-width: 42rem; margin: .5rem 0; }}
.notice {{ border-left: .25rem solid var(--accent); background: var(--card); padding: .5rem .75rem; }}
.pictures {{ display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); margin: .5rem 0; }}
figure {{ margin: 0; break-inside: avoid; }}
figure img {{ width: 100%; height: auto; display: block; border-radius: .25rem; background: #fff; }}
figcaption {{ font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; margin: .5rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0;
          border-bottom: 1px solid var(--line); }}
td.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
code {{ overflow-wrap: anywhere; }}
@media print {{
  :root {{ --text: #000; --soft: #444; --line: #bbb; --paper: #fff; --card: #fff; --accent: #000; }}
  body {{ max-width: none; padding: 0; font-size: 10pt; }}
  h2, h3 {{ break-after: avoid; }}
  tr {{ break-inside: avoid; }}
}}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return the whole file; `parts` are pieces of HTML."""
    return _PAGE.format(title=escape(title), version=escape(__version__), body="\n".join(parts))


def heading(text: str, level: int = 2) -> str:
    """Return a heading; the text is escaped, as everywhere below."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, notice: bool = False) -> str:
    """Return a paragraph, set apart from the text if it is a notice."""
    return f"<p{' class=notice' if notice else ''}>{escape(text)}</p>"


def picture(pixels: Float[np.ndarray, "h w 3"], caption: str, alt: str = "") -> str:
    """Return a picture as an embedded PNG with a caption below it.

    Args:
        pixels: in [0, 1].
        alt: text for screen readers; by default the caption.
    """
    image = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    image.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return embedded(file.getvalue(), caption, alt)


def embedded(png: bytes, caption: str, alt: str = "") -> str:
    """Return an embedded PNG, unchanged, with a caption below it."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt or caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def linked(path: str, caption: str) -> str:
    """Return a picture in a file beside the page, as wide as the page, with a caption below it."""
    return (
        f'<figure><img src="{escape(path)}" alt="{escape(caption)}" loading="lazy">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pictures(figures: Iterable[str]) -> str:
    """Return figures side by side, as many as fit the width of the screen."""
    return f'<div class="pictures">{"".join(figures)}</div>'


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = (), numbers: Sequence[int] = ()) -> str:
    """Return a table whose first column holds headings; a table wider than the screen can be scrolled.

    Args:
        numbers: columns whose cells stay on one line, in digits of equal width.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = []
    for first, *others in rows:
        classes = (" class=number" if column in numbers else "" for column in range(1, len(others) + 1))
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(classes, others, strict=True))
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'

"""Markdown from a template, and one HTML page from that Markdown.

Whatever comes from a file or from the model is escaped before a template sees it, but for what is Markdown already.
"""

import base64
import html
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import mistune

from pgolf_core.lab.shared.tables import so_many

TEMPLATES = Path(__file__).parent / "templates"
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates: a model of bytes can sample them, no page can hold them."""


class Markdown(str):
    """Text that is markup and no longer to be escaped."""


def plain(text: Any) -> Markdown:
    """Text for GitHub-flavoured Markdown, one line: no markup, no HTML, no mention, no web address that is a link."""
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    escaped = re.sub(r"([\\`*_\[\]{}|~#!$])", r"\\\1", escaped)
    return Markdown(escaped.replace("@", "&#64;").replace("://", ":&#47;/").replace("www.", "www\\."))


def quoted(text: str) -> Markdown:
    """Text as the lines of a quotation, its line breaks and leading blanks kept."""
    lines = []
    for line in text.split("\n"):
        blanks = "\u00a0" * (len(line) - len(line.lstrip()))
        words = re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", plain(line))  # else a dash or a number begins a list
        lines.append(f"> {blanks}{words}  " if words else ">")
    return Markdown("\n".join(lines))


def fenced(text: str, language: str = "") -> Markdown:
    """A block of code that no backticks in the text can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], text_columns: int | Container[int] = 1, totals: int = 0
) -> Markdown:
    """A table of text columns, the first so many or those at the given places, and of numbers, which are set right;
    its last `totals` rows sum it up."""
    texts = range(text_columns) if isinstance(text_columns, int) else text_columns
    cells = [[str(plain(cell)) for cell in row] for row in rows]
    for row in cells[len(cells) - totals :]:
        row[0] = f"**{row[0]}**"
    rule = [":--" if place in texts else "--:" for place in range(len(header))]
    lines = [[str(plain(name)) for name in header], rule, *cells]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def render(name: str, context: Mapping[str, Any]) -> str:
    """The Markdown of a template; every text of the context that is not Markdown is escaped first."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "plain": plain,
        "so_many": so_many,
        "fixed": lambda value, digits=0: "–" if value is None else f"{value:,.{digits}f}",
        "signed": lambda value, digits=0: f"{value:+.{digits}f}".replace("-", "−"),
    }
    text = environment.get_template(name).render(_escaped(context))
    return UNPRINTABLE.sub("\ufffd", re.sub(r"\n{3,}", "\n\n", text))


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return plain(value) if isinstance(value, str) and not isinstance(value, Markdown) else value


class _Page(mistune.HTMLRenderer):
    """HTML that loads nothing: figures are data, and what was a link is text."""

    def __init__(self, folder: Path):
        super().__init__(escape=False)  # it is escaped already, and folded parts are HTML
        self.folder = folder

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """An image of the folder as data."""
        payload = base64.b64encode((self.folder / url).read_bytes()).decode()
        return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{payload}">'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Where a file lies beside the page."""
        return f'<span class="numbers">{text}: {html.escape(url)}</span>'

    def table(self, text: str) -> str:
        """A table that scrolls by itself where the window is narrow."""
        return f'<div class="scroll" role="region" tabindex="0" aria-label="Table"><table>{text}</table></div>\n'

    def table_row(self, text: str) -> str:
        """A row whose first cell is its name."""
        named = re.sub(r"<td([^>]*)>(.*?)</td>", r'<th scope="row"\1>\2</th>', text, count=1, flags=re.DOTALL)
        return f"<tr>{named}</tr>\n"


def html_page(markdown: str, title: str, folder: Path) -> str:
    """One HTML file of a report's Markdown, its figures taken from `folder`; `title` is plain text."""
    body = str(mistune.create_markdown(renderer=_Page(folder), plugins=["table"])(markdown))
    head, heading, rest = body.partition("<h2>")
    values = {"title": UNPRINTABLE.sub("\ufffd", title), "head": head, "body": heading + rest}
    skeleton = (TEMPLATES / "page.html.j2").read_text(encoding="utf-8")
    return jinja2.Template(skeleton, autoescape=True, undefined=jinja2.StrictUndefined).render(values)

"""Tables that people read: within the terminal's width, in plain characters without colour, never a crash."""

import codecs
import io
import os
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "±": "+/-", "×": "x", "…": "...", "→": "->", "·": "-", "≤": "<="})
"""What stands for a character that the output cannot encode; any other becomes a question mark."""
NARROWEST = 40
RULED = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
"""A line under the header, of hyphens."""


def width() -> int:
    """Columns of the terminal, or COLUMNS where that is set; 80 where there is neither."""
    given = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return max(shutil.get_terminal_size((80, 24)).columns, NARROWEST) if given else 80


def some(names: Iterable[object]) -> str:
    """The first three of many names, and how many more there are."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def so_many(number: float, noun: str) -> str:
    """As `1 seed`, `2 seeds`, `1,069 steps`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def table_text(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table as lines without trailing blanks; the first `left` columns are text, the others numbers, set right.

    A cell that is too wide for the terminal is wrapped. None is shown as a dash.
    """
    table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for place, name in enumerate(header):
        table.add_column(Text(name), justify="left" if place < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    return _drawn(table)


def entries_text(entries: Iterable[tuple[str, str, str]]) -> str:
    """(label, headline, details): a line for label and headline, the details wrapped and set in below it."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, headline, details in entries:
        table.add_row(Text(label), Text(headline))
        if details:
            table.add_row(Text(""), Text(details))
    return _drawn(table)


def _drawn(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=width(), force_terminal=False, force_jupyter=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def encodable(stream: io.TextIOWrapper) -> None:
    """From now on write what the stream's encoding lacks by PLAIN, instead of failing."""
    codecs.register_error("pgolf", _plain)
    stream.reconfigure(errors="pgolf")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(PLAIN)
    return "".join(char if char.isascii() else "?" for char in text), error.end

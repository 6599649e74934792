"""Small pictures for pages: figures in few colours, and formulas drawn by matplotlib: no page needs a script."""

import html
import io
import re

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from PIL import Image, ImageOps

from pgolf_core.base.files import UserError, sha256_bytes

FOLDER = "pictures"
COLOURS, SHADES = 128, 16
"""Colours of a figure and greys of a formula: what looks like all of them."""
FIGURE_WIDTH = 700
"""Pixels of a page that a figure takes, as in JupyterLab."""
TEXT_PIXELS, X_HEIGHT = 17, 8
"""Size of a formula, and of the small letters of the text around it, in pixels of a page."""
SHARPNESS = 3
"""Pixels of a formula's picture for each of the page."""
FORMULA = re.compile(r"`[^`\n]+`|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$\n]+)\$", re.DOTALL)
"""TeX in Markdown; what stands between backticks is found too, and is none."""


class Pictures:
    """The pictures of some pages by file name, each kept once."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._figures: dict[bytes, str] = {}

    def figure(self, png: bytes, name: str, about: str) -> str:
        """Markdown of a figure, made small and kept as NAME.png; one that is there already is shown again."""
        file = self._figures.setdefault(png, f"{name}.png")
        if file not in self.files:
            self.files[file] = _few_colours(Image.open(io.BytesIO(png)), COLOURS)
        return f'<img src="{FOLDER}/{file}" alt="{html.escape(about)}" width="{FIGURE_WIDTH}">'

    def with_formulas(self, markdown: str) -> str:
        """Markdown with a picture for every formula; UserError for TeX that cannot be drawn.

        A displayed formula is cut where it is spaced out (qquad), so that it is as wide as the window allows.
        """

        def drawn(found: re.Match[str]) -> str:
            if display := found["display"]:
                parts = [self._formula(part) for part in display.replace(r"\frac", r"\dfrac").split(r"\qquad")]
                return f'<p align="center">{" &emsp; ".join(parts)}</p>'
            return self._formula(found["inline"]) if found["inline"] else found[0]

        return FORMULA.sub(drawn, markdown)

    def _formula(self, tex: str) -> str:
        tex = " ".join(tex.split())
        name = f"formula-{sha256_bytes(tex.encode())[:10]}.png"
        if name not in self.files:
            self.files[name] = formula_png(tex)
        height = Image.open(io.BytesIO(self.files[name])).height // SHARPNESS
        alt = html.escape(tex).replace("|", "&#124;")  # a bar would end the cell of a table
        return f'<img src="{FOLDER}/{name}" alt="{alt}" height="{height}" align="absmiddle">'


def formula_png(tex: str) -> bytes:
    """A formula in black on white; its middle lies where `align="absmiddle"` puts it half a small letter high."""
    tex = tex.replace(r"\!", "")  # it takes away a space that mathtext does not set
    font, dpi = FontProperties(size=TEXT_PIXELS, math_fontfamily="stix"), 72 * SHARPNESS  # at 72 dpi a point is a pixel
    try:
        width, height, *_ = MathTextParser("path").parse(f"${tex}$", dpi, font)
    except ValueError as error:
        why = str(error).strip().splitlines()[-1]
        raise UserError(f"the formula ${tex}$ cannot be drawn: {why}; write it as matplotlib's mathtext") from None
    wide, half = width + 2 * font.get_size() * SHARPNESS, height + X_HEIGHT * SHARPNESS  # more than letters reach out
    fig = Figure(figsize=(wide / dpi, 2 * half / dpi))
    line = (half - X_HEIGHT * SHARPNESS / 2) / (2 * half)
    fig.text(font.get_size() * SHARPNESS / wide, line, f"${tex}$", fontproperties=font, color="#1f2328")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    drawn = Image.open(buffer).convert("L")
    left, top, right, bottom = ImageOps.invert(drawn).getbbox() or (0, 0, 1, 1)
    middle = drawn.height // 2
    reach = max(middle - top, bottom - middle) + SHARPNESS
    reach += -reach % SHARPNESS
    return _few_colours(drawn.crop((left - SHARPNESS, middle - reach, right + SHARPNESS, middle + reach)), SHADES)


def _few_colours(drawn: Image.Image, colours: int) -> bytes:
    buffer = io.BytesIO()
    drawn.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

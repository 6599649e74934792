"""Formulas as pictures: every notebook's can be drawn, whole, on the line of the text around them."""

import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from refused import refused

from pgolf_core.lab.gallery.pictures import FORMULA, SHARPNESS, X_HEIGHT, Pictures, formula_png

NOTEBOOKS = sorted((Path(__file__).resolve().parents[3] / "notebooks").glob("*.ipynb"))


def pixels(png: bytes) -> np.ndarray:
    """Greys of a picture, 0 black to 255 white."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_a_notebook_becomes_a_picture(path: Path):
    pictures = Pictures()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            found = pictures.with_formulas(cell.source)
            assert "$" not in FORMULA.sub("", found), cell.id
    assert pictures.files and all(name.startswith("formula-") for name in pictures.files)
    assert max(map(len, pictures.files.values())) < 20_000


@pytest.mark.parametrize("tex", ["x", "x_j", r"\frac{a}{b}", r"\sum_{i=1}^{n} x", "f", r"\lfloor L/2\rfloor"])
def test_a_formula_is_whole_and_its_middle_is_half_a_small_letter_above_its_line(tex: str):
    grey = pixels(formula_png(tex))
    assert grey.min() < 80 and grey.shape[0] % SHARPNESS == 0
    for edge in (grey[0], grey[-1], grey[:, 0], grey[:, -1]):
        assert edge.min() > 200, "something is cut"
    if tex == "x":  # its feet are the line
        feet = 1 + np.flatnonzero(grey.min(axis=1) < 128)[-1]
        assert abs(feet - grey.shape[0] / 2 - X_HEIGHT * SHARPNESS / 2) <= 2


def test_text_between_formulas_stays_and_displayed_ones_are_cut_where_they_are_spaced_out():
    pictures = Pictures()
    found = pictures.with_formulas("| `$HOME` | $|w|$ |\n\n$$a = \\frac{b}{c},\n\\qquad d = e$$\n")
    cells, shown = found.split("\n\n")
    assert cells.startswith("| `$HOME` | <img ") and 'alt="&#124;w&#124;"' in cells and cells.count("|") == 3
    assert shown.startswith('<p align="center"><img ') and shown.count("<img ") == 2 and "\n" not in shown.strip()
    assert len(pictures.files) == 3
    again = pictures.with_formulas("$|w|$")
    assert again in cells and len(pictures.files) == 3


def test_what_cannot_be_drawn_is_named():
    with refused(r"\$\\nosuch\{a\}\$ cannot be drawn: .*write it as matplotlib's mathtext"):
        formula_png(r"\nosuch{a}")


def test_a_figure_is_made_small_and_kept_once():
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    pictures = Pictures()
    first = pictures.figure(buffer.getvalue(), "a", 'A "figure"')
    assert first == '<img src="pictures/a.png" alt="A &quot;figure&quot;" width="700">'
    assert "pictures/a.png" in pictures.figure(buffer.getvalue(), "b", "B") and list(pictures.files) == ["a.png"]
    assert len(pictures.files["a.png"]) < 0.7 * len(buffer.getvalue())

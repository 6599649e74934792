"""Controls over a figure: each redraws it, refuses in words, follows the others, and is a plain image elsewhere."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pandas as pd
import pytest
from nbconvert import HTMLExporter

from pgolf_core.base.files import UserError
from pgolf_core.lab.look import controls
from pgolf_core.lab.look.drawn import Drawing, Drawn
from pgolf_core.lab.shared.plots import Chart


class Toy(Drawing):
    """A small kind and a large one, which has more sizes, one part and no weight."""

    name = "00-toy"

    def __init__(self) -> None:
        weights = [("half", 0.5), ("one", 1)]
        self.labels = {"size": "how large"}
        self.options = {"kind": ["small", "large"], "part": ["a", "b"], "size": range(2), "weight": weights}
        self.default = {"kind": "small", "part": "b", "size": 1, "weight": 0.5}

    def fitting(self, *arguments: Any, **values: Any) -> dict:
        large = {"kind": ["small", "large"], "part": ["a"], "size": range(5)}
        return large if values["kind"] == "large" else self.options

    def draw(self, **values: Any) -> Drawn:
        if values["size"] == 3:
            raise UserError("<3> is no size")
        figure = Chart(figsize=(1, 1))
        said = ", ".join(map(str, values.values()))
        figure.suptitle(said, fontsize=4)
        return Drawn(figure, pd.DataFrame([values]), said)


@pytest.fixture
def made() -> controls.Explorer:
    """The explorer with its controls made, as a front end would get them."""
    made = controls.Explorer(Toy())
    made.panel()
    return made


def is_shown(made: controls.Explorer) -> bool:
    return made.picture.layout.display is None and bytes(made.picture.value).startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "value"), [("kind", "large"), ("part", "a"), ("size", 0), ("weight", 1)])
def test_each_control_redraws_the_picture_and_the_sentence(name: str, value: Any, made: controls.Explorer):
    assert [control.description for control in made.controls.values()] == ["kind", "part", "how large", "weight"]
    assert is_shown(made) and "small, b, 1, 0.5" in made.said.value
    before = made.picture.value
    made.controls[name].value = value
    assert is_shown(made) and made.picture.value != before and str(value) in made.said.value


def test_controls_follow_each_other_and_one_that_changes_nothing_is_disabled(made: controls.Explorer):
    kind, part, size, weight = made.controls.values()
    kind.value = "large"
    assert (part.options, part.value, size.max, weight.disabled) == (("a",), "a", 4, True)
    size.value = 4
    kind.value = "small"
    assert (part.options, part.value, size.max, size.value, weight.disabled) == (("a", "b"), "a", 1, 1, False)
    assert is_shown(made)


def test_what_cannot_be_drawn_is_refused_in_words_until_it_fits_again(made: controls.Explorer):
    made.controls["kind"].value = "large"
    made.controls["size"].value = 3
    assert not is_shown(made) and "Cannot be drawn:</b> &lt;3&gt; is no size" in made.said.value
    assert "Traceback" not in made.said.value
    made.controls["size"].value = 2
    assert is_shown(made) and "Cannot" not in made.said.value


CELL = """
import pandas as pd
import torch
from pathlib import Path
from pgolf_core.lab.look import controls, drawn
from pgolf_core.network.score import Score
by_context = pd.DataFrame({"middle": [1.0, 2.0], "bpb": [2.0, 1.8]})
windows = drawn.Windows(by_context, Score(1.7, 2.0, 1.0, 1000, 1000, 9, 32, 8, 2.0, None))
for drawing in (windows, drawn.Rounding({"a.weight": torch.eye(8)}, {"a.weight": "int6_row"})):
    controls.Explorer(drawing).show(Path("."))
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.slow  # starts a kernel
def test_a_cell_leaves_plain_images_and_controls_only_where_a_front_end_sent_it(tmp_path: Path):
    """Two cells of one kernel: sent as papermill sends them, and as a front end does, which may be asked questions."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL) for _ in range(2)])
    seen = []

    def before(cell, cell_index: int) -> None:
        client.kc.allow_stdin = cell_index == 1

    def after(cell, cell_index: int, execute_reply) -> None:
        seen.append(len(client.widget_state))

    folder = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(
        notebook, resources=folder, timeout=300, on_cell_execute=before, on_cell_executed=after
    )
    client.execute()
    plain, live = ([out for out in cell.outputs if out.output_type == "display_data"] for cell in notebook.cells)
    assert len(plain) == len(live) == 2 and seen[0] == 0 < seen[1]
    for without, under in zip(plain, live, strict=True):
        assert "image/png" in without.data and WIDGET not in without.data
        assert without.data["image/png"] == under.data["image/png"] and WIDGET in under.data
    assert "windows read" in "".join(out.get("text", "") for out in notebook.cells[0].outputs)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"06-windows.png", "06-windows.csv", "05-rounding.png", "05-rounding.csv"}
    del notebook.metadata["widgets"]  # as JupyterLab saves it: no state
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count("<img") == 4 and "VBox(" not in page and "widget-view" not in page


def test_outside_a_kernel_nobody_is_there():
    assert not controls.somebody_is_there()

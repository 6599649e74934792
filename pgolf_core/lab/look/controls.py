"""Controls over a figure of a notebook: in JupyterLab they redraw it, without a front end the default is drawn.

Whether anybody is there to move a control is what the request to run the cell says: a front end allows the kernel to
ask questions (`allow_stdin` of the messaging protocol's execute_request), papermill, nbclient and nbconvert do not.
Without one no widget is made, and an executed notebook holds an ordinary image. With one the output also holds the
default as an image, for exports to HTML: widgets do not outlive their kernel.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.core.getipython import get_ipython
from IPython.display import display

from pgolf_core.base.files import UserError
from pgolf_core.lab.look.drawn import Drawing
from pgolf_core.lab.shared import plots


def somebody_is_there() -> bool:
    """Whether the cell that is running was sent by a front end; False outside a kernel."""
    request: dict[str, Any] = getattr(get_ipython(), "get_parent", dict)() or {}
    return bool(request.get("content", {}).get("allow_stdin"))


class Explorer:
    """A drawing, with a control for each of its values."""

    def __init__(self, drawing: Drawing):
        self.drawing, self._busy = drawing, False

    def show(self, folder: Path) -> None:
        """Save the default figure and its numbers in `folder`, then display it: under controls if somebody is there."""
        drawn = self.drawing.draw(**self.drawing.default)
        plots.save_figure(drawn.figure, folder, self.drawing.name, drawn.table)
        if not somebody_is_there():
            display(drawn.figure)
            print(drawn.said)
            return
        data, size = drawn.figure._repr_png_()
        live = self.panel()._repr_mimebundle_()
        display({**live, "image/png": data}, metadata={"image/png": size}, raw=True)

    def panel(self) -> widgets.VBox:
        """The controls above what they draw, the default drawn."""
        labels, options = self.drawing.labels, self.drawing.options.items()
        self.controls = {name: _control(labels.get(name, name), choices) for name, choices in options}
        self.said = widgets.HTML()
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", height="auto"))
        for name, control in self.controls.items():
            control.value = self.drawing.default[name]
            control.observe(self.redraw, names="value")
        self.redraw()
        row = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="4px 16px")
        return widgets.VBox([widgets.Box(list(self.controls.values()), layout=row), self.picture, self.said])

    def redraw(self, change: Any = None) -> None:
        """Draw what the controls say. Values that cannot be drawn take the figure away and say why."""
        if self._busy:  # the controls are being fitted to each other
            return
        self._busy = True
        try:
            self._fit()
            drawn = self.drawing.draw(**{name: control.value for name, control in self.controls.items()})
        except UserError as error:
            self.picture.layout.display = "none"
            self.said.value = f'<b style="color: #B00020">Cannot be drawn:</b> {html.escape(str(error))}'
            return
        finally:
            self._busy = False
        data, size = drawn.figure._repr_png_()
        self.picture.width, self.picture.value = str(size["width"]), data
        self.picture.layout.display = None
        self.said.value = html.escape(drawn.said)

    def _fit(self) -> None:
        """Let each control reach as far as the others' values allow."""
        values = {name: control.value for name, control in self.controls.items()}
        fitting = self.drawing.fitting(**values)
        for name, control in self.controls.items():
            control.disabled = name not in fitting
            options = fitting.get(name, self.drawing.options[name])
            if isinstance(control, widgets.IntSlider):
                control.max = options[-1]
            elif list(control.options) != list(options):
                control.options = options
                control.value = values[name] if values[name] in options else options[0]


def _control(label: str, options: Sequence[Any]) -> widgets.Widget:
    """A slider over a range or a list, which speaks when it is let go; a menu of words."""
    looks = {"description": label, "style": {"description_width": "initial"}}
    if isinstance(options, range):
        return widgets.IntSlider(max=options[-1], continuous_update=False, **looks)
    if isinstance(options[0], str):
        return widgets.Dropdown(options=options, **looks)
    return widgets.SelectionSlider(options=options, continuous_update=False, **looks)

"""Controls over a figure of a notebook: in JupyterLab they redraw it, without a front end the default is drawn.

Whether anybody is there to move a control is what the request to run the cell says: a front end allows the kernel to
ask questions (`allow_stdin` of the messaging protocol's execute_request), papermill, nbclient and nbconvert do not.
Without one no widget is made at all, so an executed notebook holds an ordinary image and no widget state. With one the
output also holds the default as an image, which is what an export to HTML shows: widgets do not outlive their kernel.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.core.getipython import get_ipython
from IPython.display import display

from pgolf_core.base.files import UserError
from pgolf_core.lab.look.drawn import Drawn, Heads, Rounding, Windows
from pgolf_core.lab.shared import plots

Controls = dict[str, Any]
"""{argument of the figure's function: the widget whose value it takes}."""


def somebody_is_there() -> bool:
    """Whether the cell that is running was sent by a front end; False outside a kernel."""
    shell = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else None
    return bool(request and request.get("content", {}).get("allow_stdin"))


class Explorer:
    """A figure of some values, with a control for each."""

    def __init__(
        self,
        name: str,
        draw: Callable[..., Drawn],
        default: Mapping[str, Any],
        controls: Callable[[], Controls],
        follow: Callable[[Controls], None] | None = None,
    ):
        """`draw` takes the values of `default` by name and refuses some with UserError; `controls` makes the widgets.

        `name` is the figure's file; `follow` fits the controls to each other after each change (a layer's range).
        """
        self.name, self.draw, self.default = name, draw, dict(default)
        self._make, self._follow = controls, follow or (lambda controls: None)
        self._busy = False

    def show(self, folder: Path) -> None:
        """Save the default figure and its numbers in `folder`, then display it: under controls if somebody is there."""
        drawn = self.draw(**self.default)
        plots.save_figure(drawn.figure, folder, self.name, drawn.table)
        if not somebody_is_there():
            display(drawn.figure)
            print(drawn.said)
            return
        data, size = drawn.figure._repr_png_()
        live = self.panel()._repr_mimebundle_()
        display({**live, "image/png": data}, metadata={"image/png": size}, raw=True)

    def panel(self) -> widgets.VBox:
        """The controls above what they draw, the default drawn."""
        self.controls = self._make()
        for name, control in self.controls.items():
            control.value = self.default[name]
            control.style.description_width = "initial"
        self.said = widgets.HTML()
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", height="auto"))
        self.redraw()
        for control in self.controls.values():
            control.observe(self.redraw, names="value")
        row = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="4px 16px")
        return widgets.VBox([widgets.Box(list(self.controls.values()), layout=row), self.picture, self.said])

    def redraw(self, change: Any = None) -> None:
        """Draw what the controls say. Values that cannot be drawn take the figure away and say why."""
        if self._busy:  # the controls are being fitted to each other
            return
        self._busy = True
        try:
            self._follow(self.controls)
            drawn = self.draw(**{name: control.value for name, control in self.controls.items()})
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


# ---------------------------------------------------------------------- 02


def heads(*arguments: Any) -> Explorer:
    """Recipe, weights, layer and head of an attention map, over `explore_figures.Heads` of these arguments."""
    made = Heads(*arguments)
    own = made.recipes[0]
    default = {"recipe": own, "weights": made.START, "layer": 0, "head": 0}

    def controls() -> Controls:
        shape = made.settings(own).model
        return {
            "recipe": widgets.Dropdown(description="recipe", options=made.recipes),
            "weights": widgets.Dropdown(description="weights", options=made.weights(own)),
            "layer": _count("layer", shape.num_layers),
            "head": _count("head", shape.num_heads),
        }

    def follow(controls: Controls) -> None:
        recipe, weights = (controls[name] for name in ("recipe", "weights"))
        known, chosen = made.weights(recipe.value), weights.value
        if list(weights.options) != known:
            weights.options = known
            weights.value = chosen if chosen in known else known[0]
        shape = made.settings(recipe.value).model
        controls["layer"].max, controls["head"].max = shape.num_layers - 1, shape.num_heads - 1

    return Explorer("02-head", made.draw, default, controls, follow)


# ---------------------------------------------------------------------- 05


def rounding(*arguments: Any) -> Explorer:
    """A matrix and how it is rounded, by bits or by step, over `explore_figures.Rounding` of these arguments."""
    made = Rounding(*arguments)
    default = {"tensor": made.tensor, "rule": made.rule, "bits": made.bits, "step": made.step}

    def controls() -> Controls:
        steps = [(f"1/{1 / step:g}", step) for step in made.STEPS]
        return {
            "tensor": widgets.Dropdown(description="matrix", options=made.tensors),
            "rule": widgets.Dropdown(description="rounded by", options=[made.FLOOR, made.FREE, made.STEP]),
            "bits": _slider("bits", made.BITS),
            "step": _slider("step", steps),
        }

    def follow(controls: Controls) -> None:
        by_step = controls["rule"].value == made.STEP
        controls["bits"].disabled, controls["step"].disabled = by_step, not by_step

    return Explorer("05-rounding", made.draw, default, controls, follow)


# ---------------------------------------------------------------------- 06


def windows(*arguments: Any, **options: Any) -> Explorer:
    """Window and stride of a score, over `explore_figures.Windows` of these arguments."""
    plan = Windows(*arguments, **options)
    default = {"window": plan.window, "stride": plan.stride}

    def controls() -> Controls:
        return {
            "window": _slider("window L (tokens)", plan.windows),
            "stride": _slider("stride S (tokens)", plan.strides),
        }

    return Explorer("06-windows", plan.draw, default, controls)


def _slider(label: str, options: Any) -> widgets.SelectionSlider:
    """A slider over a list, which speaks when it is let go."""
    return widgets.SelectionSlider(description=label, options=options, continuous_update=False)


def _count(label: str, count: int) -> widgets.IntSlider:
    """A slider from 0 to count - 1."""
    return widgets.IntSlider(description=label, min=0, max=count - 1, continuous_update=False)

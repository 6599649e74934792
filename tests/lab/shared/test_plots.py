"""Figures: axis labels on every axis, fixed colours, files whole and repeatable, no global state."""

import itertools
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from refused import refused

from pgolf_core.lab.shared import plots

STEPS = np.arange(0, 50, 10)
LOSSES = pd.DataFrame(
    itertools.product((1337, 1338), ("train", "val"), STEPS.tolist()), columns=["seed", "kind", "step"]
).assign(loss=lambda table: 7 - table["step"] / 20 + table["seed"] % 7 / 10)
SCORES = pd.DataFrame(
    {"raw": [1.80, 1.81, 1.79], "sliding": [1.75, 1.76, 1.74]}, index=pd.Index([1337, 1338, 1339], name="seed")
)
LEDGER = {"seed 1337": {"weights": 600, "scales": 20, "header": 10, "code": 150}}


def every_figure():
    """One figure from each function, with its options in use."""
    rng = np.random.default_rng(0)
    labels = {"x_label": "value (unit)", "y_label": "count (unit)"}
    bytes_label, step = {"x_label": "bytes"}, {"x_label": "step"}
    maps = {"x_label": "key (tokens)", "y_label": "query (tokens)", "value_label": "attention (1)"}
    return {
        "histogram": plots.histogram({"raw": rng.normal(size=99)}, grid_values=np.arange(-3, 4), **labels),
        "bars": plots.bars({"train": ([1, 2], [3, 4]), "validation": ([1, 2], [5, 6])}, note="mean 2", **labels),
        "grouped_bars": plots.grouped_bars(SCORES, **labels),
        "horizontal_bars": plots.horizontal_bars(
            ["attention", "mlp"], {"weights": [5, 9], "scales": [1, 1]}, share=True, **bytes_label
        ),
        "curves": plots.curves(
            {"bpb": {"seed 1": ([64, 128], [1.7, 1.8])}, "time (s)": {"seed 1": ([64, 128], [9, 5])}},
            log_x=True, markers=True, side_by_side=True, references={"target": 1.8}, **step,
        ),
        "ordered curves": plots.curves({"loss": {"0": (STEPS, STEPS), "1": (STEPS, STEPS)}}, ordered=True, **step),
        "loss_curves": plots.loss_curves(LOSSES, skip_share=0.1),
        "scatter": plots.scatter({"seed 1337": ([1800, 1900], [1.7, 1.8])}, sizes={"seed 1337": [5, 9]}, **labels),
        "heatmaps": plots.heatmaps({"a": rng.random((4, 4)), "b": np.full((4, 4), np.nan)}, gamma=0.5, **maps),
        "ledger_bar": plots.ledger_bar(LEDGER, 1000),
        "seed_strip": plots.seed_strip(SCORES, y_label="bits per byte"),
    }  # fmt: skip


FIGURES = every_figure()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_its_axes_and_can_be_drawn(name):
    fig = FIGURES[name]
    assert plots.png_bytes(fig).startswith(b"\x89PNG")
    axes = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    assert axes and (name == "seed_strip" or all(ax.get_xlabel() or fig.get_supxlabel() for ax in axes))
    named_by_ticks = name in ("horizontal_bars", "ledger_bar")  # their rows, as the strip's columns are
    assert named_by_ticks or all(ax.get_ylabel() or fig.get_supylabel() for ax in axes)
    assert all(ax.get_ylabel() for ax in fig.axes if ax.get_label() == "<colorbar>")


def test_a_seed_has_one_colour_whichever_seeds_are_drawn_with_it():
    def colour(table):
        lines = plots.loss_curves(table).axes[0].get_lines()
        return next(to_hex(line.get_color()) for line in lines if line.get_label() == "seed 1338 train").upper()

    assert colour(LOSSES) == colour(LOSSES[LOSSES["seed"] == 1338]) == plots.signs(1338)[1].upper()
    assert plots.loss_curves(LOSSES).axes[0].get_ylabel() == "loss (nats per token)"
    assert len({plots.signs(number) for number in range(30)}) == 30
    assert plots.colour_of("int6_row", 1) == plots.colour_of("int6_clip_search", 2) == plots.COLOURS["int6"]


# Linear RGB as seen without one kind of cone: Machado, Oliveira and Fernandes, IEEE TVCG 15, 2009, severity 1.
VISION = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", VISION)
def test_the_palette_stays_apart_without_one_kind_of_cone_and_on_white(vision):
    linear = np.array([mpl.colors.to_rgb(colour) for colour in (*plots.PALETTE, "white")]) ** 2.2
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1) ** (1 / 2.2)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.1


def test_the_cap_line_stands_at_the_cap_and_bars_end_at_the_total():
    ax = plots.ledger_bar(LEDGER, 1000).axes[0]
    assert max(bar.get_x() + bar.get_width() for bar in ax.patches) == 780
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [1000]
    assert ax.get_xlim()[1] > 1000 and ax.get_xlabel() == "bytes"


def test_the_strip_draws_mean_and_sample_deviation():
    ax = plots.seed_strip(SCORES, y_label="bits per byte").axes[0]
    boxes = [bar for bar in ax.patches if bar.get_height() > 0]
    assert [round(box.get_height() / 2, 6) for box in boxes] == [0.01, 0.01]  # 1.79, 1.80, 1.81: std 0.01
    assert len(plots.seed_strip(SCORES[:1], y_label="bits per byte").axes[0].patches) == 0


def test_save_figure_writes_a_png_of_150_dots_an_inch_and_the_numbers_behind_it(tmp_path):
    path = plots.save_figure(FIGURES["seed_strip"], tmp_path / "figures", "seeds", SCORES)
    payload = path.read_bytes()
    width, height = (int.from_bytes(payload[start : start + 4], "big") for start in (16, 20))
    assert path.name == "seeds.png" and (width, height) == (1050, 510)
    back = pd.read_csv(tmp_path / "figures" / "seeds.csv", index_col="seed")
    pd.testing.assert_frame_equal(back, SCORES)
    assert sorted(file.name for file in path.parent.iterdir()) == ["seeds.csv", "seeds.png"]
    assert plots.save_figure(FIGURES["seed_strip"], tmp_path, "again").read_bytes() == payload


def test_a_figure_is_drawn_once_however_often_it_is_saved_and_again_once_it_has_changed(monkeypatch):
    fig, draws = plots.bars({"": ([1, 2], [3, 4])}, x_label="a", y_label="b"), []
    savefig = plots.Figure.savefig
    monkeypatch.setattr(plots.Figure, "savefig", lambda *args, **options: draws.append(1) or savefig(*args, **options))
    first = plots.png_bytes(fig)
    shown = first, {"width": 700, "height": 340}  # what a notebook asks for, there being no pyplot
    assert plots.png_bytes(fig) == first and fig._repr_png_() == shown and len(draws) == 1
    fig.axes[0].get_children()[0].set_color("#000000")
    second = plots.png_bytes(fig)
    fig.axes[0].xaxis.get_major_locator().set_params(nbins=2)
    fig.axes[0].set_ylim(0, 9)
    assert len({first, second, plots.png_bytes(fig)}) == 3


def test_a_figure_name_with_a_folder_in_it_is_refused(tmp_path):
    with refused("plain file name"):
        plots.save_figure(FIGURES["bars"], tmp_path, "../bars")


def test_plotting_leaves_no_global_state():
    code = """
import sys, matplotlib
before = matplotlib.rcParams.copy()
from pgolf_core.lab.shared import plots
plots.png_bytes(plots.bars({"": ([1], [2])}, x_label="a", y_label="b"))
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)

"""The controls of notebooks 02, 05 and 06: each redraws its figure, refuses in words, and is a plain image elsewhere.

pytest tests/test_explore.py
"""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbconvert import HTMLExporter

from pgolf_core.evaluate import Score, plan_windows
from pgolf_core.files import UserError
from pgolf_core.lab import analysis_scoring, explore, explore_figures

MEASURED = pd.DataFrame({"middle": [1.0, 2.0, 3.5], "bpb": [2.0, 1.8, 1.7]})


def score_of(tokens: int = 1000, seq_len: int = 32, stride: int = 8, seconds: float = 2.0) -> Score:
    return Score(1.7, 2.0, 1.0, tokens, tokens, 9, seq_len, stride, seconds, np.zeros(tokens, np.float32))


def opened(made: explore.Explorer) -> explore.Explorer:
    """The explorer with its controls made, as a front end would get them."""
    made.panel()
    return made


def change(made: explore.Explorer, **values: object) -> bool:
    """Move controls; whether the picture became another one. A control that refuses a value raises."""
    before = made.picture.value
    for name, value in values.items():
        made.controls[name].value = value
    return made.picture.value != before


def is_shown(made: explore.Explorer) -> bool:
    return made.picture.layout.display is None and bytes(made.picture.value).startswith(b"\x89PNG")


# ---------------------------------------------------------------------- 06


def test_window_and_stride_redraw_the_plan_and_say_its_cost() -> None:
    made = opened(explore.windows(MEASURED, score_of()))
    assert list(made.controls) == ["window", "stride"] and is_shown(made)
    assert (made.controls["window"].value, made.controls["stride"].value) == (32, 8)
    own = len(plan_windows(1000, 32, 8))
    assert made.said.value.startswith(f"{own} windows") and "about 2.0 s" in made.said.value
    assert change(made, stride=32)
    assert made.said.value.startswith("32 windows") and "1.00 a target" in made.said.value
    assert change(made, window=64) and "1 to 64 tokens" not in made.said.value and "33 to 64" in made.said.value


def test_a_stride_above_the_window_is_refused_in_words_until_it_fits_again() -> None:
    made = opened(explore.windows(MEASURED, score_of()))
    made.controls["stride"].value = 64
    assert not is_shown(made) and "stride 64 is larger than window 32" in made.said.value
    assert "Traceback" not in made.said.value
    made.controls["window"].value = 64
    assert is_shown(made) and "Cannot" not in made.said.value


def test_a_plan_too_long_for_a_second_is_refused_with_the_stride_that_is_not() -> None:
    plan = explore_figures.Windows(MEASURED, score_of(tokens=1000))
    plan.targets = 62_000_000
    with pytest.raises(UserError, match=r"62,000,000 windows.*at least 31"):
        plan.draw(32, 1)
    assert plan.targets // 31 <= plan.MOST_WINDOWS


@pytest.mark.parametrize(("targets", "window", "stride"), [(1000, 32, 8), (1000, 32, 32), (20, 32, 8), (997, 16, 1)])
def test_the_shares_by_context_are_those_of_the_targets_counted_one_by_one(
    targets: int, window: int, stride: int
) -> None:
    windows = plan_windows(targets, window, stride)
    lengths = analysis_scoring.context_lengths(windows, targets)
    counts = analysis_scoring.context_counts(windows)
    assert counts.tolist() == np.bincount(lengths).tolist()
    table = explore_figures.Windows(MEASURED, score_of(targets)).draw(window, stride).table
    for row in table.itertuples():
        inside = (row.first <= lengths) & (lengths <= row.last)
        assert row.share == pytest.approx(inside.mean())
    assert table["share"].sum() == pytest.approx(1)


def test_only_what_a_window_scores_is_bright() -> None:
    axes = explore_figures.Windows(MEASURED, score_of()).draw(32, 8).figure.axes[0]
    (dark, bright) = axes.containers
    windows = plan_windows(1000, 32, 8)[: len(bright)]
    assert [bar.get_x() for bar in bright] == windows[:, 1].tolist()
    assert [bar.get_width() for bar in bright] == (windows[:, 2] - windows[:, 1]).tolist()
    assert [bar.get_width() for bar in dark] == (windows[:, 1] - windows[:, 0]).tolist()


# ---------------------------------------------------------------------- with and without a front end

CELL = f"""
import pandas as pd
from pathlib import Path
from pgolf_core.evaluate import Score
from pgolf_core.lab import explore
by_context = pd.DataFrame({MEASURED.to_dict("list")})
explore.windows(by_context, Score(1.7, 2.0, 1.0, 1000, 1000, 9, 32, 8, 2.0, None)).show(Path("."))
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


def test_a_cell_leaves_a_plain_image_and_controls_only_where_a_front_end_sent_it(tmp_path: Path) -> None:
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
    assert len(plain) == len(live) == 1
    assert "image/png" in plain[0].data and WIDGET not in plain[0].data and seen[0] == 0
    assert plain[0].data["image/png"] == live[0].data["image/png"] and WIDGET in live[0].data and seen[1] > 0
    assert "windows read" in "".join(out.get("text", "") for out in notebook.cells[0].outputs)
    assert (tmp_path / "06-windows.png").is_file() and (tmp_path / "06-windows.csv").is_file()
    del notebook.metadata["widgets"]  # as JupyterLab saves it: no state
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count("<img") == 2 and "VBox(" not in page and "widget-view" not in page


def test_outside_a_kernel_nobody_is_there() -> None:
    assert not explore.somebody_is_there()

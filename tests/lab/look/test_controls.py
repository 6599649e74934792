"""The controls of notebooks 02, 05 and 06: each redraws its figure, refuses in words, and is a plain image elsewhere.

pytest tests/lab/look/test_controls.py
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbconvert import HTMLExporter
from toy_run import finished_run

from pgolf_core.base.files import UserError
from pgolf_core.lab.look import controls as explore
from pgolf_core.lab.look import drawn as explore_figures
from pgolf_core.lab.look import n02_network as analysis_model
from pgolf_core.lab.look import n05_packing as analysis_packing
from pgolf_core.lab.look import n06_scoring as analysis_scoring
from pgolf_core.lab.record import stages
from pgolf_core.lab.record.folder import Run, RunRequest, locate_run
from pgolf_core.network.model import build_model, network_with
from pgolf_core.network.score import Score, plan_windows
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.training.checkpoint import load_tensors

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


# ---------------------------------------------------------------------- 02


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A toy recipe with one trained seed; the run that notebook 02 opens."""
    root = tmp_path_factory.mktemp("toy")
    finished_run(root, (1,))
    return locate_run(RunRequest(str(root / "toy.toml"), runs_dir=root / "runs", cache_dir=root))


@pytest.fixture
def heads(run: Run) -> explore.Explorer:
    return opened(explore.heads(run, build_model(run.recipe.model, seed=0).eval()))


def test_recipe_weights_layer_and_head_each_redraw_the_map(heads: explore.Explorer) -> None:
    assert list(heads.controls) == ["recipe", "weights", "layer", "head"] and is_shown(heads)
    assert heads.said.value.startswith("this recipe, at the start: ") and "layer 0, head 0" in heads.said.value
    assert change(heads, head=1) and "layer 0, head 1" in heads.said.value
    assert change(heads, layer=1) and "layer 1, head 1" in heads.said.value
    assert change(heads, weights="queries = keys") and change(heads, weights="seed 1, trained")
    assert change(heads, recipe="pr332") and heads.said.value.startswith("pr332, at the start: ")


def test_the_controls_reach_as_far_as_the_recipe_goes(heads: explore.Explorer) -> None:
    assert (heads.controls["layer"].max, heads.controls["head"].max) == (1, 1)
    heads.controls["recipe"].value = "pr332"
    assert (heads.controls["layer"].max, heads.controls["head"].max) == (11, 7)
    assert list(heads.controls["weights"].options) == ["at the start", "queries = keys"]
    heads.controls["layer"].value = 11
    heads.controls["recipe"].value = "this recipe"
    assert heads.controls["layer"].value == 1 and "layer 1, head 0" in heads.said.value and is_shown(heads)
    assert heads.controls["weights"].options[-1] == "seed 1, trained"


def test_the_map_is_that_of_the_network_with_those_weights(run: Run) -> None:
    model = build_model(run.recipe.model, seed=0).eval()
    heads = explore_figures.Heads(run, model)
    ids = torch.from_numpy(stages.validation_tokens(run)[:256].astype(np.int64))[None]
    weights = load_tensors(run.folder / "seed1" / "weights-averaged.safetensors")[0]
    trained = network_with(run.recipe.model, weights).eval()
    matched = analysis_model.matched(model)
    for label, network in (("at the start", model), ("queries = keys", matched), ("seed 1, trained", trained)):
        expected = analysis_model.attention_maps(network, ids, 1)[0, 1]
        image = heads.draw("this recipe", label, 1, 1).figure.axes[0].images[0].get_array()
        np.testing.assert_array_equal(np.ma.filled(image, np.nan), expected[:32, :32].numpy())


def test_an_untrained_full_size_map_needs_neither_the_mlp_nor_the_other_layers(run: Run) -> None:
    """What is left out when a start is drawn for its map alone cannot reach it."""
    heads = explore_figures.Heads(run, build_model(run.recipe.model, seed=0))
    drawn = heads._maps("local-pr315", "at the start", 2)
    whole = build_model(load_recipe("local-pr315").model, seed=5).eval()
    short = heads._network("local-pr315", "at the start")
    with torch.no_grad():
        for name in ("tok_emb.weight", "blocks.2.attn.c_q.weight", "blocks.2.attn.c_k.weight"):
            whole.get_parameter(name).copy_(short.get_parameter(name))
    torch.testing.assert_close(analysis_model.attention_maps(whole, heads._ids, 2)[0], drawn, equal_nan=True)
    q = short.get_parameter("blocks.2.attn.c_q.weight")
    torch.testing.assert_close(q @ q.T, torch.eye(len(q)), atol=1e-5, rtol=0)


def test_a_head_that_is_not_there_and_another_vocabulary_are_refused_in_words(run: Run, tmp_path: Path) -> None:
    heads = explore_figures.Heads(run, build_model(run.recipe.model, seed=0))
    with pytest.raises(UserError, match="layer 2 is not in this recipe: it has layers 0 to 1"):
        heads.draw("this recipe", "at the start", 2, 0)
    with pytest.raises(UserError, match="head 8 is not in pr332: it has heads 0 to 7"):
        heads.draw("pr332", "at the start", 0, 8)
    with pytest.raises(UserError, match="pr332 has no weights 'seed 7, trained'"):
        heads.draw("pr332", "seed 7, trained", 0, 0)
    other = tmp_path / "other.toml"
    other.write_text('extends = "local-smoke"\nmodel = {vocab_size = 2048}\n')
    with pytest.raises(UserError, match=r"2,?048"):
        heads.draw(str(other), "at the start", 0, 0)


def test_weights_of_a_seed_trained_on_other_data_are_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / run.recipe.track / "toy"
    shutil.copytree(run.folder, folder)
    recorded = json.loads((folder / "seed1" / "recipe.json").read_text())
    recorded["data"]["dataset"] = "another-sp1024"
    (folder / "seed1" / "recipe.json").write_text(json.dumps(recorded))
    moved = dataclasses.replace(run, folder=folder, recipe_folder=folder)
    heads = explore_figures.Heads(moved, build_model(run.recipe.model, seed=0))
    with pytest.raises(UserError, match="on other data than this run"):
        heads.draw("this recipe", "seed 1, trained", 0, 0)


def test_the_mean_by_distance_is_the_mean_of_what_lies_so_far_back() -> None:
    maps = torch.rand(16, 16).tril()
    table = explore_figures._by_distance(maps)
    assert table["first"].iloc[0] == 0 and table["last"].iloc[-1] == 8
    assert (table["first"].iloc[1:].to_numpy() == table["last"].iloc[:-1] + 1).all()
    for row in table.itertuples():
        inside = [float(maps[q, q - d]) for q in range(8, 16) for d in range(row.first, row.last + 1)]
        assert row.weight == pytest.approx(np.mean(inside))


# ---------------------------------------------------------------------- 05

MATRICES = {
    "tok_emb.weight": torch.randn(64, 16, generator=torch.Generator().manual_seed(0)),
    "blocks.0.mlp.fc.weight": 0.02 * torch.randn(40, 30, generator=torch.Generator().manual_seed(1)),
    "blocks.10.mlp.fc.weight": 0.3 * torch.randn(40, 30, generator=torch.Generator().manual_seed(2)),
    "blocks.0.attn_scale": torch.ones(16),
}
GRIDS = {name: "int6_row" if w.dim() == 2 else "fp16" for name, w in MATRICES.items()}


def test_matrix_rule_bits_and_step_each_redraw_the_rounding() -> None:
    made = opened(explore.rounding(MATRICES, GRIDS))
    assert list(made.controls) == ["tensor", "rule", "bits", "step"] and is_shown(made)
    assert made.said.value.startswith("blocks.0.mlp.fc.weight, 40 × 30: ") and made.controls["bits"].value == 6
    assert change(made, bits=8) and change(made, rule="bits, no floor")
    assert made.controls["step"].disabled and not made.controls["bits"].disabled
    assert change(made, rule="one step") and made.controls["bits"].disabled and not made.controls["step"].disabled
    assert change(made, step=1 / 256) and change(made, tensor="blocks.10.mlp.fc.weight")
    assert list(made.controls["tensor"].options) == [
        "tok_emb.weight", "blocks.0.mlp.fc.weight", "blocks.10.mlp.fc.weight"
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
def test_the_numbers_at_some_bits_are_those_of_the_packers_own_grid(bits: int) -> None:
    name = "blocks.10.mlp.fc.weight"
    floor = analysis_packing.floor_effect({name: MATRICES[name]}, {name: f"int{bits}_row_clip"}).iloc[0]
    table = explore_figures.Rounding(MATRICES, GRIDS).draw(name, "bits, floor 1/M", bits, 1.0).table
    rms = float(MATRICES[name].double().square().mean().sqrt())
    for rule, suffix in (("bits, floor 1/M", ""), ("bits, no floor", "_without")):
        row = table[(table["rule"] == rule) & (table["setting"] == bits)].iloc[0]
        assert row["bits"] == pytest.approx(floor["bits" + suffix])
        assert row["error"] == pytest.approx(floor["rms" + suffix] / rms)


def test_one_step_rounds_to_its_multiples() -> None:
    w = MATRICES["tok_emb.weight"]
    drawn = explore_figures.Rounding(MATRICES, GRIDS).draw("tok_emb.weight", "one step", 6, 0.25)
    codes = (w.numpy() / 0.25).round()
    row = drawn.table[(drawn.table["rule"] == "one step") & (drawn.table["setting"] == 0.25)].iloc[0]
    assert row["used"] == len(np.unique(codes)) and f"{row['used']} codes in use" in drawn.said
    assert row["error"] == pytest.approx(np.sqrt(((codes * 0.25 - w.numpy()) ** 2).sum() / (w.numpy() ** 2).sum()))


def test_rows_at_the_floor_are_counted_as_the_notebook_counts_them() -> None:
    made = explore_figures.Rounding(MATRICES, GRIDS)
    for name in made.tensors:
        expected = analysis_packing.floor_effect({name: MATRICES[name]}, {name: "int6_row_clip"}).iloc[0]
        said = made.draw(name, "bits, floor 1/M", 6, 1.0).said
        assert f"{expected['rows_at_floor']:.0%} of the rows lie at the floor" in said


def test_a_matrix_or_a_rule_that_is_not_there_is_refused_in_words() -> None:
    made = explore_figures.Rounding(MATRICES, GRIDS)
    with pytest.raises(UserError, match=r"no matrix 'blocks\.0\.attn_scale'"):
        made.draw("blocks.0.attn_scale", "one step", 6, 0.25)
    with pytest.raises(UserError, match="4 to 8 bits"):
        made.draw("tok_emb.weight", "bits, floor 1/M", 3, 0.25)
    with pytest.raises(UserError, match="a step > 0"):
        made.draw("tok_emb.weight", "one step", 6, 0.0)


def test_a_network_without_any_matrix_on_a_grid_still_has_matrices_to_round() -> None:
    made = explore_figures.Rounding(MATRICES, dict.fromkeys(MATRICES, "fp16"))
    assert made.tensors == explore_figures.Rounding(MATRICES, GRIDS).tensors and made.bits == 6


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
from pgolf_core.network.score import Score
from pgolf_core.lab import explore
by_context = pd.DataFrame({MEASURED.to_dict("list")})
explore.windows(by_context, Score(1.7, 2.0, 1.0, 1000, 1000, 9, 32, 8, 2.0, None)).show(Path("."))
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.slow
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

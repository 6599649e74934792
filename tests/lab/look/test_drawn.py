"""What the controls of notebooks 02, 05 and 06 draw, against the core and against counting one by one."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from refused import refused
from toy_run import RECIPE, toy_corpus

from pgolf_core.base.files import write_json
from pgolf_core.lab.look import controls, drawn, n02_network, n05_packing, n06_scoring
from pgolf_core.lab.record import stages
from pgolf_core.lab.record.folder import Run, open_run
from pgolf_core.lab.shared.plots import Chart
from pgolf_core.network.model import build_model, network_with
from pgolf_core.network.score import Score, plan_windows
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Quant, to_dict


@pytest.fixture
def plan() -> drawn.Windows:
    return windows_over(1000)


def windows_over(targets: int) -> drawn.Windows:
    """Windows of 32 and a stride of 8 over so many targets."""
    measured = pd.DataFrame({"middle": [1.0, 2.0, 3.5], "bpb": [2.0, 1.8, 1.7]})
    return drawn.Windows(measured, Score(1.7, 2.0, 1.0, targets, targets, 9, 32, 8, 2.0, np.zeros(targets, np.float32)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A toy recipe with one trained seed; the run that notebook 02 opens."""
    root = tmp_path_factory.mktemp("toy")
    toy_corpus(root)
    (root / "toy.toml").write_text(RECIPE)
    options = {"runs_dir": str(root / "runs"), "cache_dir": str(root)}
    stages.train_seed(open_run(str(root / "toy.toml"), seed=1, **options), progress=False)
    return open_run(str(root / "toy.toml"), seed=None, **options)


@pytest.fixture(scope="module")
def heads(run: Run) -> drawn.Heads:
    return drawn.Heads(run, build_model(run.recipe.model, seed=0).eval())


def test_each_value_of_a_head_draws_another_map_and_says_which(heads: drawn.Heads) -> None:
    assert list(heads.options) == list(heads.default) == ["recipe", "weights", "layer", "head"]
    seen = [heads.draw(**heads.default)]
    assert seen[0].said.startswith("this recipe, at the start: ") and "layer 0, head 0 spreads" in seen[0].said
    changes = {"head": 1, "layer": 1, "weights": "queries = keys", "recipe": "pr332"}
    seen += [heads.draw(**heads.default | {name: value}) for name, value in changes.items()]
    assert len({one.table["weight"].to_numpy().tobytes() for one in seen}) == len(seen)
    assert "layer 0, head 1 " in seen[1].said and "layer 1, head 0 " in seen[2].said
    assert seen[4].said.startswith("pr332, at the start: ")


def test_the_controls_reach_as_far_as_the_recipe_goes(heads: drawn.Heads, run: Run) -> None:
    made = controls.Explorer(drawn.Heads(run, heads._own))
    made.drawing.draw = lambda **values: drawn.Drawn(Chart(figsize=(1, 1)), pd.DataFrame(), str(values))
    made.panel()
    recipe, weights, layer, head = made.controls.values()
    assert (layer.max, head.max, weights.options[-1]) == (1, 1, "seed 1, trained")
    weights.value, recipe.value = "seed 1, trained", "pr332"
    assert (layer.max, head.max, weights.options) == (11, 7, ("at the start", "queries = keys"))
    assert weights.value == "at the start" and "pr332" in made.said.value
    layer.value = 11
    recipe.value = "this recipe"
    assert layer.value == 1 and weights.options[-1] == "seed 1, trained" and "pr332" not in made.said.value


def test_the_map_is_that_of_the_network_with_those_weights(heads: drawn.Heads, run: Run) -> None:
    ids = torch.from_numpy(stages.validation_tokens(run)[:256].astype(np.int64))[None]
    seed = dataclasses.replace(run, folder=run.folder / "seed1")
    trained = network_with(run.recipe.model, stages.load_weights(seed, "averaged")).eval()
    matched = n02_network.matched(heads._own)
    for label, network in (("at the start", heads._own), ("queries = keys", matched), ("seed 1, trained", trained)):
        expected = n02_network.attention_maps(network, ids, 1)[0, 1]
        image = heads.draw("this recipe", label, 1, 1).figure.axes[0].images[0].get_array()
        np.testing.assert_array_equal(np.ma.filled(image, np.nan), expected[:32, :32].numpy())


def test_an_untrained_full_size_map_needs_neither_the_mlp_nor_the_other_layers(heads: drawn.Heads) -> None:
    """What is left out when a start is drawn for its map alone cannot reach it."""
    maps = heads._maps("local-pr315", "at the start", 2)
    whole = build_model(load_recipe("local-pr315").model, seed=5).eval()
    short = heads._network("local-pr315", "at the start")
    with torch.no_grad():
        for name in ("tok_emb.weight", "blocks.2.attn.c_q.weight", "blocks.2.attn.c_k.weight"):
            whole.get_parameter(name).copy_(short.get_parameter(name))
    torch.testing.assert_close(n02_network.attention_maps(whole, heads._ids, 2)[0], maps, equal_nan=True)
    q = short.get_parameter("blocks.2.attn.c_q.weight")
    torch.testing.assert_close(q @ q.T, torch.eye(len(q)), atol=1e-5, rtol=0)


REFUSED = [
    ("heads", ("this recipe", "at the start", 2, 0), "layer 2 is not in this recipe: it has layers 0 to 1"),
    ("heads", ("pr332", "at the start", 0, 8), "head 8 is not in pr332: it has heads 0 to 7"),
    ("heads", ("pr332", "seed 7, trained", 0, 0), "pr332 has no weights 'seed 7, trained'"),
    ("heads", ("other.toml", "at the start", 0, 0), r"2,?048"),
    ("rounding", ("blocks.0.attn_scale", "one step", 6, 0.25), r"no matrix 'blocks\.0\.attn_scale'"),
    ("rounding", ("tok_emb.weight", "bits, floor 1/M", 3, 0.25), "4 to 8 bits"),
    ("rounding", ("tok_emb.weight", "one step", 6, 0.0), "a step > 0"),
    ("plan", (32, 64), r"stride 64 is larger than window 32.*at most 32"),
]


@pytest.mark.parametrize(("which", "values", "words"), REFUSED)
def test_what_is_not_there_and_what_cannot_be_are_refused_in_words(
    which: str,
    values: tuple,
    words: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.toml").write_text('extends = "local-smoke"\nmodel = {vocab_size = 2048}\n')
    with refused(words):
        request.getfixturevalue(which).draw(*values)


def test_weights_of_a_seed_trained_on_other_data_are_refused(run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "runs" / run.recipe.track / "toy")
    other = dataclasses.replace(run.recipe, data=dataclasses.replace(run.recipe.data, dataset="x"))
    write_json(folder / "seed1" / "recipe.json", to_dict(other) | {"fingerprint": other.fingerprint})
    heads = drawn.Heads(dataclasses.replace(run, folder=folder, recipe_folder=folder), build_model(run.recipe.model, 0))
    with refused("on other data than this run"):
        heads.draw("this recipe", "seed 1, trained", 0, 0)


def test_the_mean_by_distance_is_the_mean_of_what_lies_so_far_back() -> None:
    maps = torch.rand(16, 16).tril()
    table = drawn._by_distance(maps)
    assert table["first"].iloc[0] == 0 and table["last"].iloc[-1] == 8
    assert (table["first"].iloc[1:].to_numpy() == table["last"].iloc[:-1] + 1).all()
    for row in table.itertuples():
        inside = [float(maps[q, q - d]) for q in range(8, 16) for d in range(row.first, row.last + 1)]
        assert row.weight == pytest.approx(np.mean(inside))
    even = drawn._by_distance(torch.ones(16, 16).tril() / torch.arange(1, 17)[:, None])
    assert even["of_even"].tolist() == pytest.approx([1.0] * len(even))


SIZES = {"tok_emb": (64, 16, 1.0), "blocks.0.mlp.fc": (40, 30, 0.02), "blocks.10.mlp.fc": (40, 30, 0.3)}
MATRICES = {
    f"{name}.weight": scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))
    for name, (rows, columns, scale) in SIZES.items()
} | {"blocks.0.attn_scale": torch.ones(16)}
GRIDS = {name: "int6_row" if w.dim() == 2 else "fp16" for name, w in MATRICES.items()}


@pytest.fixture(scope="module")
def rounding() -> drawn.Rounding:
    return drawn.Rounding(MATRICES, GRIDS)


def test_each_value_draws_another_rounding_and_only_what_counts_is_free(rounding: drawn.Rounding) -> None:
    assert rounding.options["tensor"] == [f"{name}.weight" for name in SIZES]
    first = rounding.draw(**rounding.default)
    assert first.said.startswith("blocks.0.mlp.fc.weight, 40 × 30: ") and rounding.default["bits"] == 6
    changes = [{"bits": 8}, {"rule": "bits, no floor"}, {"rule": "one step"}, {"rule": "one step", "step": 1 / 256},
               {"tensor": "blocks.10.mlp.fc.weight"}]  # fmt: skip
    assert len({rounding.draw(**rounding.default | change).said for change in changes} | {first.said}) == 6
    assert list(rounding.fitting(rule="one step")) == ["tensor", "rule", "step"]
    assert list(rounding.fitting(rule="bits, no floor")) == ["tensor", "rule", "bits"]


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
def test_the_numbers_at_some_bits_are_those_of_the_packers_own_grid(bits: int, rounding: drawn.Rounding) -> None:
    name = "blocks.10.mlp.fc.weight"
    floor = n05_packing.floor_effect({name: MATRICES[name]}, {name: f"int{bits}_row_clip"}, Quant()).iloc[0]
    drawing = rounding.draw(name, "bits, floor 1/M", bits, 1.0)
    assert f"{floor['rows_at_floor']:.0%} of the rows lie at the floor" in drawing.said
    table = drawing.table.set_index(["rule", "setting"])
    rms = float(MATRICES[name].double().square().mean().sqrt())
    for rule, suffix in (("bits, floor 1/M", ""), ("bits, no floor", "_without")):
        expected = [floor["bits" + suffix], floor["rms" + suffix] / rms]
        assert table.loc[(rule, bits), ["bits", "error"]].tolist() == pytest.approx(expected)


def test_one_step_rounds_to_its_multiples(rounding: drawn.Rounding) -> None:
    w = MATRICES["tok_emb.weight"].numpy()
    made = rounding.draw("tok_emb.weight", "one step", 6, 0.25)
    codes = (w / 0.25).round()
    row = made.table.set_index(["rule", "setting"]).loc[("one step", 0.25)]
    assert row["used"] == len(np.unique(codes)) and f"{row['used']:.0f} codes in use" in made.said
    assert row["error"] == pytest.approx(np.sqrt(((codes * 0.25 - w) ** 2).sum() / (w**2).sum()))


def test_a_network_without_any_matrix_on_a_grid_still_has_matrices_to_round(rounding: drawn.Rounding) -> None:
    made = drawn.Rounding(MATRICES, dict.fromkeys(MATRICES, "fp16"))
    assert made.options == rounding.options and made.default["bits"] == 6


def test_a_plan_says_its_cost(plan: drawn.Windows) -> None:
    said = plan.draw(**plan.default).said
    assert said.startswith(f"{len(plan_windows(1000, 32, 8))} windows") and "about 2.0 s" in said
    apart = plan.draw(32, 32).said
    assert apart.startswith("32 windows") and "1.00 a target" in apart and "1 to 32 tokens" in apart
    assert "33 to 64 tokens" in plan.draw(64, 32).said


def test_a_stride_that_makes_too_many_windows_is_refused_with_one_that_does_not(plan: drawn.Windows) -> None:
    plan.targets = 62_000_000
    with refused(r"62,000,000 windows.*at least 31"):
        plan.draw(32, 1)
    assert plan.targets // 31 <= plan.MOST_WINDOWS


@pytest.mark.parametrize(("targets", "window", "stride"), [(1000, 32, 8), (1000, 32, 32), (20, 32, 8), (997, 16, 1)])
def test_the_shares_by_context_are_those_of_the_targets_counted_one_by_one(
    targets: int, window: int, stride: int
) -> None:
    windows = plan_windows(targets, window, stride)
    lengths = n06_scoring.context_lengths(windows, targets)
    table = windows_over(targets).draw(window, stride).table
    inside = [((row.first <= lengths) & (lengths <= row.last)).mean() for row in table.itertuples()]
    assert table["share"].tolist() == pytest.approx(inside) and sum(inside) == pytest.approx(1)


def test_only_what_a_window_scores_is_bright(plan: drawn.Windows) -> None:
    dark, bright = plan.draw(32, 8).figure.axes[0].containers
    start, first, end = plan_windows(1000, 32, 8)[: len(bright)].T
    assert [bar.get_x() for bar in bright] == first.tolist()
    assert [bar.get_width() for bar in bright] == (end - first).tolist()
    assert [bar.get_width() for bar in dark] == (first - start).tolist()

"""What the notebooks set beside a run: techniques, settings, curves and figures of the published records."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pgolf_core.lab.compare.records import RECORDS, Curve, PublishedSeed, load_published
from pgolf_core.lab.look import beside_records as analysis
from pgolf_core.network.model import num_parameters
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import available_recipes, load_recipe

ROOT = Path(__file__).resolve().parents[3]
RECORD_RECIPES = {name: load_recipe(name) for name in RECORDS}
TINY = str(ROOT / "tests" / "helpers" / "tiny.toml")
PUBLISHED = {name: load_published(name) for name in RECORDS}
OLD, NEW = "194 315 332 531 534", "1493 1855 2135"
LACKING = {
    "smear gate": "1493", "bigram hash": f"194 534 {NEW}", "partial rotary": "194 531", "LN scale": "194 531",
    "exclusive self-attention": "194", "value embedding": f"194 315 332 531 {NEW}", "orthogonal start": "534",
    "EMA": "194 534", "SWA": f"315 332 531 {NEW}", "quantisation-aware training": f"315 332 {NEW}",
    "clip search": f"194 315 332 {NEW}", "clip by standard deviations": OLD,
    "bits by gradient": f"194 315 531 534 {NEW}",
    "steps by sensitivity": f"{OLD} {NEW}", "rounding in turn": OLD, "low-rank correction": f"{OLD} 1493",
    "gates as rows": f"{OLD} 1493 2135", "grouping by similarity": f"{OLD} 1493", "zstd on whole bytes": NEW,
    "byte shuffle and brotli": OLD, "gated heads": f"{OLD} 1493", "two lanes": f"{OLD} 1493",
    "attention inside documents": f"{OLD} 1493",
}  # fmt: skip
"""{technique: the records whose documents do not have it}."""
LOCAL = [name for name in RECORDS if f"local-{name}" in available_recipes()]
"""Records with a recipe for two cores."""


@pytest.mark.parametrize("name", LOCAL)
def test_a_records_column_has_the_published_number_of_parameters(name: str):
    record = analysis.record_behind(f"local-{name}")
    assert (record.name, record.title) == (name, f"PR {name[2:]}")
    assert num_parameters(record.recipe.model) == record.published.parameters
    assert list(analysis.beside(load_recipe(f"local-{name}"), record)) == [analysis.OWN, name]


def test_a_recipe_of_no_record_stands_alone():
    assert analysis.record_behind(TINY) is None
    assert list(analysis.beside(load_recipe(TINY), None)) == [analysis.OWN]
    assert list(analysis.beside_all(load_recipe(TINY))) == [analysis.OWN, *RECORDS]


def test_the_technique_table_says_what_each_record_lacks_and_nothing_else():
    table = analysis.technique_table(RECORD_RECIPES)
    is_off = (table[[*RECORDS]] == "off").rename(columns=lambda name: name.removeprefix("pr"))
    assert {name: " ".join(row.index[row]) for name, row in is_off.iterrows() if row.any()} == LACKING
    new = analysis.technique_states(load_recipe("pr1855", ["eval.document_mask=true"]))
    assert new["smear gate"] == ("window-gates", "by 12 channels, before the norm")
    assert new["two lanes"][1] == "from layer 8 on" and "scored" in new["attention inside documents"][1]
    for name, settings in RECORD_RECIPES.items():
        assert analysis.techniques_on(settings) == table.index[table[name] != "off"].tolist()


def test_values_in_the_technique_table_are_the_recipes():
    table = analysis.technique_table({**RECORD_RECIPES, "run": load_recipe("pr534-as-run")})
    assert table.loc["smear gate", ["pr194", "pr315"]].tolist() == ["before the norm", "after the norm"]
    assert table.loc["partial rotary", ["pr315", "pr534"]].tolist() == ["16 of 64 dims, base × 2.21", "16 of 64 dims"]
    assert table.loc["exclusive self-attention", "pr332"] == "layers 8 to 11"
    assert table.loc["value embedding", "pr534"] == "width 128, layers 9, 10"
    assert table.loc["value embedding", "run"] == "width 128, layers 9, 10, frozen"
    assert table.loc["floor under the scales", "pr531"] == "attention, other tables"  # its int5 MLP has none
    assert table.loc["quantisation-aware training", "pr534"] == "below m = 0.1, the packed grid, lr × 0.5"
    assert table.loc["sliding evaluation", "run"] == "off"
    grids = ["floor under the scales", "clip by standard deviations", "zstd on whole bytes"]
    for name in ("local", "frontier"):  # on steps no matrix is on a grid, whatever the recipe names
        found = analysis.technique_table({name: load_recipe(name)})[name]
        assert (found[grids] == "off").all() and found["steps by sensitivity"] == "every matrix"


def test_every_recipe_on_disk_has_a_state_and_a_note_for_every_technique_and_a_rule_for_every_part():
    recipes = {name: load_recipe(name) for name in available_recipes()}
    states = analysis.technique_table(recipes)
    assert (states.map(len) > 0).all(axis=None) and (analysis.rule_table(recipes).map(len) > 0).all(axis=None)
    assert all((ROOT / analysis.NOTES / note).is_file() for note in states.iloc[:, -1])


def test_a_network_without_extras_has_them_all_off():
    model = recipe.Model(num_layers=1, smear="off", num_kv_heads=8)
    table = analysis.technique_table({"plain": recipe.Recipe(model=model)})["plain"]
    of_the_network = table[: table.index.get_loc("grouped queries") + 1]
    assert len(of_the_network) == 8 and (of_the_network == "off").all()
    assert (table[["soft cap on tied logits", "orthogonal start", "Muon"]] != "off").all()


def test_the_formula_table_says_what_is_off_and_what_remains():
    terms = ["bigram hash", "smear gate", "LN scale", "exclusive self-attention"]
    on = analysis.formula_table(load_recipe("pr315").model, 2048).set_index("term")
    off = analysis.formula_table(recipe.Model(smear="off"), 2048).set_index("term")
    assert on.loc[terms, "on"].all() and not off.loc[terms, "on"].any()
    assert off.loc["LN scale", "here"] == "off: 1 in every layer"
    assert on.loc["exclusive self-attention", "here"] == "layers 7 to 10"
    assert on.loc["partial rotary", "here"] == "R = 16 of D = 64 dims turn, base 22,082, stretched from 10,000"
    full = analysis.formula_table(load_recipe("pr531").model, 2048).set_index("term").loc["partial rotary"]
    assert not full["on"] and full["here"] == "off: the whole head turns (R = D = 64), base 10,000, not stretched"
    values = analysis.formula_table(load_recipe("pr534").model, 2048).set_index("term").loc["value embedding"]
    assert values["on"] and values["here"] == "width 128, added in layers 9, 10"


def test_differences_are_the_settings_on_which_recipes_disagree():
    record = analysis.record_behind("pr534")
    table = analysis.differences({"as described": record.recipe, "as run": record.as_run})
    of_qat = ["qat.kind", "qat.lr_factor"]
    assert table.index.tolist() == ["optim.adam_wd", "optim.ve_frozen", *of_qat, "eval.stride"]
    assert table.loc["eval.stride"].tolist() == ["64", "2,048"]
    assert analysis.differences({"a": record.recipe, "b": record.as_run}, ["qat"]).index.tolist() == of_qat
    same = analysis.record_behind("pr315")
    assert analysis.differences({"a": same.recipe, "b": same.as_run}).empty


STEPS = pd.DataFrame({"step": range(1, 101), "loss": np.linspace(7, 3, 100)})
VALIDATION = pd.DataFrame({"step": [0, 50, 100], "bpb": [4.0, 2.5, 2.0]})


@pytest.mark.parametrize("name", RECORDS)
def test_every_records_curve_comes_with_the_runs_own_of_the_same_kind_on_the_share_of_the_steps(name: str):
    panels = analysis.curve_panels(PUBLISHED[name], STEPS, VALIDATION)
    assert panels and len(panels) % 2 == 0
    for label, lines in panels.items():
        assert label.startswith((f"{name}: ", "this run: ")) and label.endswith(("per token)", "per byte)"))
        for share, values in lines.values():
            assert len(share) == len(values) > 1 and (share > 0.1).all() and (share <= 1).all()
    kinds = [label.split(": ")[1] for label in panels]
    assert kinds[::2] == kinds[1::2]


def test_a_curve_of_the_first_steps_alone_is_no_panel_and_a_curve_of_no_seed_is_measured_by_the_longest_run():
    published = PUBLISHED["pr194"]
    assert not any("training loss" in label for label in analysis.curve_panels(published, STEPS, VALIDATION))
    curve = Curve("mean", "val bpb", "bits per byte", None, (4026, 8052), (1.3, 1.2))
    panels = analysis.curve_panels(dataclasses.replace(published, curves=(curve,)), STEPS, VALIDATION)
    assert panels["pr194: validation (bits per byte)"]["mean"][0].tolist() == [0.5, 1.0]
    assert panels["this run: validation (bits per byte)"]["this run"][1].tolist() == [2.5, 2.0]


def test_a_long_log_is_thinned_to_its_last_step_and_an_empty_one_stays_empty():
    long = pd.DataFrame({"step": range(1, 5001), "loss": np.linspace(7, 3, 5000)})
    panels = analysis.curve_panels(PUBLISHED["pr315"], long, VALIDATION)
    share, values = panels["this run: training loss (nats per token)"]["this run"]
    assert len(share) == analysis.MOST_POINTS and share[-1] == 1 and values[-1] == 3 and (np.diff(share) > 0).all()
    none = analysis.curve_panels(PUBLISHED["pr194"], STEPS, VALIDATION[:1])
    assert len(none["this run: validation (bits per byte)"]["this run"][0]) == 0


def test_first_losses_are_the_logged_ones_and_a_step_that_is_not_published_is_a_gap():
    table = analysis.first_losses(PUBLISHED["pr332"], STEPS)
    assert table.loc["this run", "step 1"] == 7 and len(table) == 2
    theirs = table.drop(index="this run").iloc[0]
    assert math.isnan(theirs["step 1"]) and theirs["step 2"] == 8.6859


def test_the_steps_table_has_the_run_and_every_seed():
    own = {"steps": 100, "seconds": 5.0, "tokens": 204_800, "parameters": 1000, "raw_bpb": 2.0}
    table = analysis.steps_table("mine", own, PUBLISHED["pr315"])
    assert table.loc["mine", ["ms a step", "tokens a step"]].tolist() == [50, 2048]
    assert table.loc["pr315, seed 2025", ["tokens", "raw, at the end (bpb)"]].tolist() == [7051 * 786_432, 1.1418]
    assert len(analysis.steps_table("mine", own, None)) == 1


def test_a_records_packing_rule_is_its_local_recipes_and_nobody_elses_and_shows_gradients_and_exceptions():
    found = {name: analysis.records_with_rule(load_recipe(f"local-{name}").quant) for name in LOCAL}
    alike = ["pr1855", "pr2135"]
    assert found == {name: alike if name in alike else [name] for name in LOCAL} and list(RECORDS) == LOCAL
    table = analysis.rule_table(RECORD_RECIPES)
    assert table.loc["MLP", ["pr332", "pr531"]].tolist() == ["int5, int6 or int7_row_clip", "int5_row_nofloor"]
    assert table.loc["by name (patterns)", ["pr315", "pr531", "pr534"]].tolist() == ["0", "1", "2"]


def test_bytes_count_against_the_cap_of_each_and_bits_are_of_the_model_alone():
    own = {"model": 500_000, "code": 100_000, "total": 600_000, "cap": 1_000_000, "parameters": 1_000_000}
    table = analysis.bytes_table("mine", own, PUBLISHED["pr194"], 16_000_000)
    assert table.loc["mine", ["share of the cap", "bits per parameter"]].tolist() == [0.6, 4.0]
    over = table.loc["pr194, seed 1337"]
    assert over["total"] == over["model"] + over["code"] == 16_076_737 and over["share of the cap"] > 1
    assert over["bits per parameter"] == pytest.approx(8 * 15_992_249 / 26_502_232)
    for published in PUBLISHED.values():  # one seed of PR 1493 had a script of its own
        files = analysis.bytes_table("mine", own, published, 16_000_000).dropna(subset=["model", "total"])
        assert (files["model"] + files["code"] == files["total"]).all(), published.name


def test_a_published_loss_of_packing_is_there_only_where_both_its_numbers_are():
    own = {"raw": 2.0, "averaged": 1.9, "packed": 1.95}
    table = analysis.loss_table("mine", own, PUBLISHED["pr315"])
    assert table.loc["mine", "packed - averaged"] == pytest.approx(0.05)
    assert table.loc["pr315, seed 2025", "packed - raw"] == pytest.approx(1.14845684 - 1.1418)
    assert table.loc["pr315, seed 2025", ["averaged", "packed - averaged"]].isna().all()
    assert analysis.loss_table("mine", own, PUBLISHED["pr194"])["packed - raw"].notna().sum() == 1
    bare = dataclasses.replace(PUBLISHED["pr315"], seeds=(PublishedSeed(1, 10),))
    assert analysis.loss_table("mine", own, bare).loc["pr315, seed 1"].isna().all()

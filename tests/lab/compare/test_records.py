"""The published figures of the records: read strictly, consistent with one another and with the recipes."""

import math
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.lab.compare.records import RECORD_DIR, RECORDS, UNITS, load_published, record_of, seeds_table
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.model import num_parameters, parameter_shapes
from pgolf_core.recipes.reading import available_recipes, load_recipe

STANDARD = 62_021_632 / 151_080_363
"""Validation targets per byte (papers/records/README.md)."""
SLIDING = 62_023_616 / 151_084_796
"""The same in the published sliding form, its tail counted 32 times (the same page)."""
CAP_BYTES = 16_000_000
AS_TEXT = {name: tomllib.loads((RECORD_DIR / f"{name}.toml").read_text(), parse_float=Decimal) for name in RECORDS}
"""The files with their numbers as written: how many digits were published says how exactly they must agree."""
KINDS = ("raw", "averaged", "standard", "sliding", "adapted")
PAIRS = [
    (name, seed["seed"], kind, seed[f"{kind}_loss"], seed[f"{kind}_bpb"])
    for name in RECORDS
    for seed in AS_TEXT[name]["seeds"]
    for kind in KINDS
    if f"{kind}_loss" in seed
]
PUBLISHED = {name: load_published(name) for name in RECORDS}
records = pytest.mark.parametrize("record", PUBLISHED.values(), ids=RECORDS)
RUNS = [(record, seed) for record in PUBLISHED.values() for seed in record.seeds]
seeds = pytest.mark.parametrize(("record", "seed"), RUNS, ids=lambda one: getattr(one, "name", "seed"))


def half_unit(figure: Decimal) -> float:
    """Half a unit of the last published digit."""
    return 0.5 * 10.0 ** figure.as_tuple().exponent


# ---------------------------------------------------------------------- the figures among themselves


def leaves(value):
    """Every single value of a file."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if items is None else [leaf for item in items for leaf in leaves(item)]


@records
def test_no_figure_is_empty_below_zero_or_given_twice(record):
    text = AS_TEXT[record.name]
    assert not [leaf for leaf in leaves(text) if (not leaf.strip() if isinstance(leaf, str) else leaf < 0)]
    assert record.status in ("merged", "open", "closed") and "name" not in text, "the file's own name is the record's"
    assert len({seed.seed for seed in record.seeds}) == len(record.seeds)


def test_every_loss_and_score_that_were_published_together_are_found():
    kinds = {kind: sum(pair[2] == kind for pair in PAIRS) for kind in KINDS}
    assert kinds == {"raw": 8, "averaged": 9, "standard": 16, "sliding": 14, "adapted": 9}


@pytest.mark.parametrize(("name", "seed", "kind", "loss", "bpb"), PAIRS)
def test_a_score_is_its_loss_in_bits_times_the_targets_per_byte(name, seed, kind, loss, bpb):
    targets, num_bytes = PUBLISHED[name].covered(kind)
    per_byte = targets / num_bytes  # PR 1493 scores every target once, in every way
    tail = kind == "sliding" and per_byte == STANDARD
    ratio = (SLIDING if tail else per_byte) / math.log(2)
    tolerance = half_unit(loss) * ratio + half_unit(bpb)
    assert abs(float(loss) * ratio - float(bpb)) <= tolerance
    other = (STANDARD if tail or per_byte != STANDARD else SLIDING) / math.log(2)
    if kind != "raw":  # four digits do not tell the two totals apart, eight do
        assert abs(float(loss) * other - float(bpb)) > 100 * tolerance


@seeds
def test_the_total_is_the_weight_file_and_the_script(record, seed):
    assert seed.total_bytes == seed.model_bytes + (seed.script_bytes or record.script_bytes)


@records
def test_the_claimed_score_is_that_of_its_seed_or_the_mean(record):
    text = AS_TEXT[record.name]
    kind = {"sliding 64": "sliding_bpb", "standard": "standard_bpb", "adapted": "adapted_bpb"}[record.scored_with]
    scores = {f"seed {seed.seed}": getattr(seed, kind) for seed in record.seeds}
    mean = sum(scores.values()) / len(scores)
    scores["mean"] = mean
    assert abs(scores[record.claimed_of] - record.claimed_bpb) <= half_unit(text["claimed_bpb"]) + 1e-12
    if record.mean_bpb is not None:
        assert abs(mean - record.mean_bpb) <= half_unit(text["mean_bpb"]) + 1e-12
    if record.std_bpb is not None:
        squares = sum((getattr(seed, kind) - mean) ** 2 for seed in record.seeds)
        std = math.sqrt(squares / (len(record.seeds) - 1))
        assert abs(std - record.std_bpb) <= half_unit(text["std_bpb"])


def test_files_over_the_cap_runs_over_the_time_and_claimed_tokens_are_those_of_the_notes():
    over = {(record.name, seed.seed) for record, seed in RUNS if seed.total_bytes > CAP_BYTES}
    wrapped = {(record.name, seed.seed) for record, seed in RUNS if record.name in ("pr1855", "pr2135")}
    assert over == {("pr194", 1337), ("pr531", 1337), ("pr531", 42)} | wrapped
    for name, code_bytes in {"pr1855": 31_999, "pr2135": 37_155}.items():
        largest = max(seed.model_bytes for seed in PUBLISHED[name].seeds)
        assert PUBLISHED[name].claims[0]["value"] == largest + code_bytes < CAP_BYTES
    assert {record.name for record, seed in RUNS if (seed.train_seconds or 0) > 600} == {"pr534"}
    record = PUBLISHED["pr315"]
    claimed = next(claim["value"] for claim in record.claims if claim["what"] == "training tokens")
    assert abs(record.seeds[0].steps * record.batch_tokens - claimed) <= 0.0005e9


@seeds
def test_steps_times_their_time_fill_the_clock(record, seed):
    clock = record.budget_seconds if seed.train_seconds is None else seed.train_seconds
    if record.ms_by_loop:
        plain, looped = (ms / 1000 for ms in record.ms_by_loop)
        reserve = load_recipe(record.name).schedule.reserve_seconds
        assert seed.steps * seed.ms_per_step / 1000 == pytest.approx(clock, rel=1e-4)
        assert seed.loop_step * plain + (seed.steps - seed.loop_step) * looped == pytest.approx(clock, rel=2e-3)
        assert seed.loop_step * plain == pytest.approx(0.35 * (record.budget_seconds - reserve), rel=2e-3)
    elif seed.train_seconds is None:
        ms, tolerance = (seed.ms_per_step, 1e-3) if seed.ms_per_step else (record.ms_per_step, 2e-3)
        assert ms or (record.name, seed.seed) == ("pr2135", 0), "its digits were not published"
        assert not ms or seed.steps * ms / 1000 == pytest.approx(clock, rel=tolerance)
    elif record.ms_per_step is None:  # PR 1855
        assert seed.steps * seed.ms_per_step / 1000 == pytest.approx(clock, rel=1e-3)
        reserve = load_recipe(record.name).schedule.reserve_seconds
        assert clock == pytest.approx(record.budget_seconds - reserve, rel=2e-4)
        assert 0.9 * 0.35 < seed.loop_step / seed.steps / 1.25 < 1.1 * 0.35  # steps before the loop are shorter
    else:  # PR 534: what the steps left of the clock is its recompilation, about 55 s
        assert 50 < clock - seed.steps * record.ms_per_step / 1000 < 60


@seeds
def test_snapshots_are_those_of_every_fiftieth_step_from_the_first(record, seed):
    if seed.first_snapshot_step is None:
        assert not seed.snapshots
    else:
        assert seed.snapshots == len(range(seed.first_snapshot_step, seed.steps, 50))


@records
def test_curves_begin_untrained_and_belong_to_one_run(record):
    ends = {seed.seed: (seed.steps, seed.raw_bpb) for seed in record.seeds}
    assert {curve.what for curve in record.curves} >= {"train loss"}
    for curve in record.curves:
        steps, raw_bpb = ends[curve.seed]
        assert list(curve.steps) == sorted(set(curve.steps)) and len(curve.steps) == len(curve.values)
        assert curve.steps[-1] <= steps and curve.unit == UNITS[curve.what]
        if curve.what == "train loss" and curve.steps[0] == 1:
            assert abs(curve.values[0] - math.log(record.vocab_size)) < 0.005
        if curve.what == "val bpb":
            assert list(curve.values) == sorted(curve.values, reverse=True) and curve.values[-1] > raw_bpb


# ---------------------------------------------------------------------- the figures and the recipes


@records
def test_the_recipe_has_the_published_parameters_batch_and_window(record):
    recipe = load_recipe(record.name)
    assert num_parameters(recipe.model) == record.parameters
    assert recipe.model.vocab_size == record.vocab_size
    assert re.search(rf"-sp{record.vocab_size}(-lossless-caps-caseops-v1-reserved)?$", recipe.data.dataset)
    assert (recipe.data.bytes == "sidecar") == ("caseops" in recipe.data.dataset)
    assert (recipe.data.batch_tokens, recipe.data.seq_len) == (record.batch_tokens, record.window_tokens)
    as_run = load_recipe(f"{record.name}-as-run").eval
    assert as_run.stride == (as_run.seq_len if record.scored_with == "standard" else 64)


def is_control(tensor: str) -> bool:
    return ("blocks" in tensor and not tensor.endswith("weight")) or tensor == "skip_weights"


@records
def test_the_published_payload_and_state_are_the_recipes_tensors_on_its_grids(record):
    name, recipe = record.name, load_recipe(record.name)
    shapes = parameter_shapes(recipe.model)
    grids = grid_names_for(shapes, recipe.quant, {})
    float32 = {"pr194": (), "pr332": ("smear.gate", "bigram.scale"), "pr534": ()}  # others keep all controls in fp16
    payload = state = 0
    for tensor, shape in shapes.items():
        elements = math.prod(shape)
        kept = name in float32 and (is_control(tensor) or tensor in float32[name])
        payload += elements + 2 * shape[0] if grids[tensor] != "fp16" else elements * (4 if kept else 2)
        in_bfloat16 = tensor.endswith("emb.weight") or tensor.endswith("embed.weight")
        in_bfloat16 |= name == "pr534" and tensor == "smear.gate"
        state += elements * (2 if in_bfloat16 else 4)
    assert state == record.artifact["state_bytes"]
    assert payload == record.artifact.get("payload_bytes", payload)
    scales = recipe.model.num_layers - 1 if recipe.model.ve_dim else 0  # one tensor here, a list of them there
    assert len(shapes) + scales == record.artifact["state_tensors"]


def test_every_recipe_on_disk_has_the_record_that_it_descends_from():
    found = {name: record_of(name) for name in available_recipes()}
    for name in RECORDS:
        family = {recipe for recipe in found if name in recipe.split("-")}
        assert {name, f"{name}-as-run"} <= family
        assert {found[recipe] for recipe in family} == {name}
    assert found["local-smoke"] == "pr315"
    without = {name for name, record in found.items() if record is None and "pr" in name}
    assert without == {
        name for name in found if re.search(r"pr\d+", name) and re.findall(r"pr\d+", name)[0] not in RECORDS
    }


def test_a_recipe_of_ones_own_has_the_record_that_it_extends(tmp_path: Path):
    for name, parent in {"mine": '"between"', "between": '"pr332-as-run"', "broken": ""}.items():
        (tmp_path / f"{name}.toml").write_text(f"extends = {parent}\n")
    (tmp_path / "alone.toml").write_text('title = "no parent"\n')
    assert record_of(str(tmp_path / "mine.toml")) == "pr332"
    assert record_of(str(tmp_path / "alone.toml")) is None
    assert record_of("nosuch") is None and record_of("nosuch-pr531-wide") == "pr531"
    with refused(r"^broken.toml: not valid TOML"):
        record_of(str(tmp_path / "broken.toml"))


# ---------------------------------------------------------------------- tables


def test_the_table_has_a_row_for_each_seed_and_gaps_for_what_was_never_published():
    table = seeds_table(PUBLISHED["pr194"])
    assert list(table["seed"]) == [1337, 7, 42] and table["standard_bpb"].isna().all()
    assert table.loc[0, "total_bytes"] == 16_076_737 and set(table.dtypes) == {table["steps"].dtype}
    assert seeds_table(PUBLISHED["pr315"])["ms_per_step"].tolist() == 3 * [PUBLISHED["pr315"].ms_per_step]


# ---------------------------------------------------------------------- malformed files


@pytest.mark.parametrize("old, new, message", [
    ("parameters = 26_829_913\n", "", "key 'parameters' is missing"),
    ("raw_loss = ", "raw_los = ", "unknown key 'seeds.raw_los'; allowed: seed, steps"),
    ("steps = 7051", "steps = 7051.5", "seeds.steps must be of type int, not 7051.5"),
    ("status = ", "status == ", "not valid TOML"),
])  # fmt: skip
def test_a_malformed_file_is_one_line_that_names_file_and_key(tmp_path: Path, old: str, new: str, message: str):
    text = (RECORD_DIR / "pr315.toml").read_text()
    (tmp_path / "pr315.toml").write_text(text.replace(old, new, 1))
    with refused(f"^pr315.toml: .*({message})"):
        load_published("pr315", tmp_path)


def test_unknown_records_and_absent_files_are_named(tmp_path: Path):
    with refused("unknown record 'pr316'; known: pr194, pr315"):
        load_published("pr316")
    with refused(r"cannot read .*pr315\.toml: No such file"):
        load_published("pr315", tmp_path)

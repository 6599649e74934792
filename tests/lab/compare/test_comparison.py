"""What is tested against what, in which unit, and what is not compared. Run folders are made here."""

import math

import pytest
from refused import refused
from run_folder import BYTES, TARGETS, write_run

from pgolf_core.lab.compare.comparison import COLUMNS, arms_table, compare_arms, seeds_long
from pgolf_core.lab.compare.records import load_published
from pgolf_core.lab.compare.text import comparison_text
from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TARGETS


def compare(which, **options):
    """The table of a comparison."""
    return arms_table(compare_arms(which, **options))


def words_of(compared):
    """What is printed, whatever its line ends."""
    return " ".join(comparison_text(compared).split())


def write_fineweb(folder, scores, **changes):
    """A run on the record track whose validation text is FineWeb's."""
    how = {"targets": FINEWEB_TARGETS + 214, "text_bytes": FINEWEB_BYTES + 512} | changes
    overrides = ['track="10min_16mb"', 'data.dataset="fineweb10B-sp1024"', "eval.seq_len=2048", "eval.stride=64"]
    return write_run(folder, scores, [*overrides, *how.pop("overrides", ())], **how)


def row_of(table, name):
    """One arm's row."""
    (row,) = table[table["run"] == name].to_dict("records")
    return row


# ---------------------------------------------------------------------- the table


def test_every_run_is_tested_against_the_first_with_bytes_and_seconds(tmp_path):
    first = write_run(tmp_path / "first", {1: 2.0, 2: 3.0, 3: 4.0})
    second = write_run(tmp_path / "second", {1: 1.5, 2: 1.5, 3: 3.0})
    third = write_run(tmp_path / "third", {11: 1.0, 12: 3.0})
    table = compare([first, second, third])
    assert list(table.columns) == list(COLUMNS) and list(table["run"]) == ["first", "second", "third"]
    assert table["mean"].tolist() == [3.0, 2.0, 2.0] and table["std"][0] == pytest.approx(1.0)
    assert table["test"].tolist() == ["", "paired t", "Welch t"] and math.isnan(table["difference"][0])
    assert table["difference"][1] == pytest.approx(-1.0)  # -0.5, -1.5, -1.0: std 0.5
    assert table["difference_low"][1] == pytest.approx(-1.0 - 4.3026527 * 0.5 / math.sqrt(3), abs=1e-6)
    nats_per_bpb = math.log(2) * BYTES / TARGETS
    assert table["nats_difference"][1] == pytest.approx(-nats_per_bpb) and table["nats_unit"][1] == "token"
    assert table["nats_high"][1] == pytest.approx(table["difference_high"][1] * nats_per_bpb)
    assert table["total_bytes"][0] == 900_002 and table["total_bytes_max"][0] == 900_003
    assert table["train_seconds"][0] == 102.0 and table["seconds"][0] == 122.0
    seeds = seeds_long(compare_arms([first, write_run(tmp_path / "b", {2: 2.5, 4: 2.0})]))
    assert seeds["seed"].tolist() == [1, 2, 3, 2, 4] and seeds["nats_per_byte"][0] == pytest.approx(2.0 * math.log(2))
    assert seeds["difference"].tolist() == pytest.approx([*3 * [math.nan], -0.5, math.nan], nan_ok=True)


def test_the_baseline_can_be_chosen_among_the_runs_or_beside_them(tmp_path):
    runs = [write_run(tmp_path / name, {1: 2.0 + i, 2: 2.5 + i}) for i, name in enumerate("abc")]
    assert compare(runs, against=runs[2])["run"].tolist() == ["c", "a", "b"]
    assert compare(runs[:2], against=runs[2])["difference"].tolist()[1:] == pytest.approx([-2.0, -1.0])


def test_folders_of_one_name_get_as_much_of_their_paths_as_tells_them_apart(tmp_path):
    runs = [write_run(tmp_path / place / "same", {1: 2.0}) for place in ("x", "y")]
    assert compare(runs)["run"].tolist() == ["x/same", "y/same"]


# ---------------------------------------------------------------------- the rule between folders


@pytest.mark.parametrize("improvement, passes", [(0.0089, False), (0.0091, True)])
def test_the_rule_is_applied_in_nats_a_token_at_its_border(tmp_path, improvement, passes):
    # paired, std of the improvements 0.001 nats: the border is 0.009021 nats a token
    bpb_per_nat = TARGETS / (math.log(2) * BYTES)
    base = write_run(tmp_path / "base", {seed: 2.0 for seed in (1, 2, 3)})
    better = {seed: 2.0 - (improvement + 0.001 * (seed - 2)) * bpb_per_nat for seed in (1, 2, 3)}
    compared = compare_arms([base, write_run(tmp_path / "better", better)])
    (one,) = compared.against
    assert one.rule.passes is passes and one.rule.improvement == pytest.approx(improvement)
    assert one.rule.margin == 0.005 and one.unit == "token"
    assert row_of(arms_table(compared), "better")["rule_margin_bpb"] == pytest.approx(0.005 * bpb_per_nat)
    verdict, text = "is met" if passes else "is not met", words_of(compared)
    margin = f"0.005 nats per token, here {0.005 * bpb_per_nat:.4f} bpb"
    assert f"(better by more than {margin}, p < 0.01) {verdict}: one-sided p = " in text
    assert f"better by {improvement:.4f} nats per token ({improvement * bpb_per_nat:.4f} bpb)" in text


def test_equal_scores_are_no_difference_and_not_better_by_nothing(tmp_path):
    a, b = (write_run(tmp_path / name, {1: 2.0, 2: 2.1}) for name in "ab")
    assert " no difference at all " in words_of(compare_arms([a, b]))


def test_one_seed_gives_a_difference_and_no_p_value_anywhere(tmp_path):
    runs = [write_run(tmp_path / "a", {1: 2.0, 2: 2.1}), write_run(tmp_path / "b", {1: 1.0})]
    compared = compare_arms(runs)
    row = row_of(arms_table(compared), "b")
    assert row["difference"] == pytest.approx(-1.05) and row["test"] == "none" and row["rule_passes"] is None
    assert all(math.isnan(row[name]) for name in ("std", "low", "p_value", "rule_p_value", "detectable"))
    assert "cannot be tested: no p-value" in words_of(compared) and "one seed has no spread" in row["note"]


# ---------------------------------------------------------------------- tokenizers and texts


def test_different_tokenizers_are_compared_in_nats_per_byte_and_it_is_said(tmp_path):
    base = write_run(tmp_path / "base", {seed: 2.0 for seed in (1, 2, 3)})
    # half the tokens: more nats a token, though fewer a byte
    other = {seed: 1.99 + 0.001 * seed for seed in (1, 2, 3)}
    how = {"targets": TARGETS // 2, "data_sha256": "e" * 64}
    coarse = write_run(tmp_path / "coarse", other, ["model.vocab_size=4096"], **how)
    compared = compare_arms([base, coarse])
    (one,) = compared.against
    assert one.unit == "byte" and one.nats.difference == pytest.approx(-0.008 * math.log(2))
    assert one.rule.margin == pytest.approx(0.005 * TARGETS / BYTES), "0.005 nats of a token of the baseline's"
    assert one.margin_bpb == pytest.approx(0.005 * TARGETS / (math.log(2) * BYTES)), "the same in bits per byte"
    assert one.rule.passes is True  # 0.005545 - 0.001667 nats a byte, over 0.000693 / sqrt(3): t = 9.69 > 6.96
    text = words_of(compared)
    assert "DIFFERENT TOKENIZERS" in text and "nats per byte, not per token" in text
    assert "0.00167 nats per byte, which is 0.005 nats per token of base's tokenizer" in text
    reverse = compare_arms([coarse, base]).against[0]
    assert reverse.rule.margin == pytest.approx(0.005 * TARGETS / 2 / BYTES)


def test_another_dataset_of_the_same_text_and_tokens_is_compared_and_said_loudly(tmp_path):
    runs = [write_run(tmp_path / "a", {1: 2.0, 2: 2.1}), write_run(tmp_path / "b", {1: 1.0, 2: 1.2}, data_sha256="e")]
    row = row_of(compare(runs), "b")
    assert row["nats_unit"] == "token" and "OTHER DATA" in row["note"] and "because of its size" in row["note"]
    assert row["differs"].startswith("data: sotu-sp1024 dddddddddddd -> sotu-sp1024 e")


@pytest.mark.parametrize("changes", [{"text_bytes": BYTES + 1}, {"overrides": ['track="10min_16mb"']}])
def test_scores_on_another_text_get_their_own_row_and_no_difference(tmp_path, changes):
    runs = [write_run(tmp_path / "a", {1: 2.0, 2: 2.1})]
    runs.append(write_run(tmp_path / "b", {1: 1.0, 2: 1.2}, data_sha256="e", **changes))
    compared = compare_arms(runs)
    row = row_of(arms_table(compared), "b")
    assert row["mean"] == pytest.approx(1.1) and row["std"] > 0 and row["test"] == "none"
    assert all(math.isnan(row[name]) for name in ("difference", "p_value", "nats_difference", "rule_improvement"))
    assert row["note"].startswith("NOT COMPARABLE, other text") and row["rule_passes"] is None
    assert "NOT COMPARABLE, other text" in words_of(compared) and "rule (" not in words_of(compared)
    assert seeds_long(compared)["difference"].isna().all()


def test_raw_scores_are_compared_on_the_same_targets_alone_and_get_no_verdict(tmp_path):
    parts = {"a": ({1: 2.0, 2: 2.1}, 1000), "b": ({1: 2.0, 2: 2.1}, 2000), "c": ({1: 1.0, 2: 1.5}, 1000)}
    runs = [write_run(tmp_path / name, scores, raw_targets=n) for name, (scores, n) in parts.items()]
    raw = compare(runs, score="raw")
    assert row_of(raw, "b")["note"].startswith("NOT COMPARABLE, other targets")
    assert row_of(raw, "c")["test"] == "paired t" and row_of(raw, "c")["rule_passes"] is None
    assert row_of(compare(runs), "b")["note"] == "no p-value: no spread over the seeds to test against"


def test_another_stride_is_compared_and_said(tmp_path):
    runs = [write_run(tmp_path / name, {1: 2.0, 2: 2.1}, [f"eval.stride={n}"]) for name, n in (("a", 64), ("b", 256))]
    assert "NOT LIKE FOR LIKE: stride 256 against 64" in row_of(compare(runs), "b")["note"]
    assert "NOT LIKE" not in row_of(compare(runs, score="roundtrip"), "b")["note"]


# ---------------------------------------------------------------------- what was changed


def test_what_was_changed_is_named_key_by_key(tmp_path):
    base = write_run(tmp_path / "base", {1: 2.0, 2: 2.1})
    overrides = ["model.num_layers=5", "average.ema_decay=0.9"]
    changed = write_run(tmp_path / "base+0123", {1: 2.0, 2: 2.2}, overrides, core_sha256="9" * 64, device="H100")
    again = write_run(tmp_path / "again", {1: 2.0, 2: 2.2})
    compared = compare_arms([base, changed, again])
    assert compared.against[0].differs == [
        ("core", "c" * 12, "9" * 12),
        ("device", "cpu", "H100"),
        ("model.num_layers", 4, 5),
        ("average.ema_decay", 0.98, 0.9),
    ]
    assert compared.against[1].differs == []
    (again / "recipe.json").unlink()
    assert "no recipe.json: its settings were not compared" in row_of(compare([base, again]), "again")["note"]


# ---------------------------------------------------------------------- published records


@pytest.mark.parametrize("first", [True, False])
def test_a_published_record_is_the_baseline_wherever_it_is_named(tmp_path, first):
    seeds = {7: 1.1150, 8: 1.1152, 9: 1.1154}
    run = write_fineweb(tmp_path / "mine", seeds)
    compared = compare_arms([run, "pr315"] if first else ["pr315", run])
    (one,) = compared.against
    assert one.baseline.name == "pr315" and one.arm.name == "mine" and one.bpb.method == "Welch t"
    published = [seed.sliding_loss for seed in load_published("pr315").seeds]
    mean = sum(published) / 3
    own = [bpb * math.log(2) * (FINEWEB_BYTES + 512) / (FINEWEB_TARGETS + 214) for bpb in seeds.values()]
    assert one.unit == "token" and one.rule.improvement == pytest.approx(mean - sum(own) / 3)
    # about 0.0166 nats: 0.0116 above the margin, some 40 standard errors of 0.0003
    assert one.rule.passes is True
    assert ("model.num_layers", 11, 4) in one.differs
    table = compare([run, "pr315", "pr194"])
    assert row_of(table, "pr315")["total_bytes_max"] == 15_639_340
    assert "seed 1337 is 76,737 bytes over the cap" in row_of(table, "pr194")["note"]
    shared = write_fineweb(tmp_path / "shared", {1337: 1.13, 1338: 1.131, 1339: 1.132})
    (one,) = compare_arms([shared, "pr332"]).against
    assert one.bpb.method == "paired t" and one.bpb.n_a == 3 and one.rule.passes is False


def test_another_tokenizer_on_fineweb_is_compared_with_a_record_in_nats_per_byte(tmp_path):
    how = {"targets": 50_000_000, "text_bytes": FINEWEB_BYTES + 9_000, "overrides": ["model.vocab_size=4096"]}
    (one,) = compare_arms([write_fineweb(tmp_path / "mine", {1: 1.10, 2: 1.101}, **how), "pr315"]).against
    assert one.unit == "byte" and one.rule.margin == pytest.approx(0.005 * FINEWEB_TARGETS / FINEWEB_BYTES)


def test_a_record_scored_without_sliding_is_compared_by_its_round_trip_score(tmp_path):
    run = write_fineweb(tmp_path / "mine", {1: 1.17, 2: 1.171})
    compared = compare_arms([run, "pr534", "pr315"])
    assert compared.score == "roundtrip" and "not every record here has a sliding one" in compared.notes[0]
    with refused("share no score of their packed files"):
        compare_arms(["pr194", "pr534"])


# ---------------------------------------------------------------------- what is refused, in one line


def test_no_arm_and_a_record_given_twice_are_refused():
    with refused("name at least one"):
        compare([])
    with refused("pr315 is named twice"):
        compare(["pr315", "pr315"])

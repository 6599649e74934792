"""The forms that published submission.json have: what their keys mean, and honest files of each form, which hold, and
in which no changed number is overlooked. Every file is invented."""

import functools
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import claim, foreign, late_log, table
from reviewing import Case, cases, got, judged, places_of, replaced, shown, shows, with_verdict

from pgolf_core.base.files import read_json, write_json
from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TOKENS
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.folder import Submission
from pgolf_core.lab.verify.reading.keys import claimed, claims_of, meaning, rows_of, seeds_elsewhere, unfilled

JSON, HEADLINE = "submission.json says what logs and file say", "the headline is the seeds' score"
README = "README.md says what logs and file say"
WHOLE, NOT_MISSING = "submission.json is whole", "no seed and no log is missing"
IMPLIED, SECONDS, CAP = (
    "each score implies the split's bytes", "seconds are within the budgets", "file and code fit under the cap"
)  # fmt: skip


@pytest.mark.parametrize(
    ("names", "name", "statistic"),
    [
        (("val_bpb", "bpb", "val_bpb_exact", "final_val_bpb", "val BPB", "val_bpp", "bits per byte"), "bpb", ""),
        (("mean_val_bpb", "val_bpb_3seed_mean", "bpb_mean", "average bpb"), "bpb", "mean"),
        (("val_bpb_std", "std_bpb", "val_bpb_3seed_std"), "bpb", "std"),
        (("pre_quant_val_bpb", "prequant_bpb", "post_ema_val_bpb", "val_bpb_prequant_stop", "Post-EMA BPB"),
         "averaged_bpb", ""),
        (("int6_zstd_val_bpb", "roundtrip_val_bpb", "quantized_val_bpb", "val_bpb_post_quant", "Post-int8 BPB"),
         "roundtrip_bpb", ""),
        (("sliding_val_bpb", "sliding_window_bpb", "pre_ttt_sliding_bpb", "Sliding BPP"), "sliding_bpb", ""),
        (("legal_ttt_bpb", "ppm_mixer_val_bpb", "Post-TTT BPB"), "adapted_bpb", ""),
        (("val_bpb (fixed)",), "other_bpb", ""), (("frozen_val_bpb",), "frozen_bpb", ""),
        (("val_loss", "val_loss_exact", "val_loss (nats)"), "loss", ""), (("val_loss_mean",), "loss", "mean"),
        (("bytes_total", "total_bytes", "total_submission_bytes", "counted_bytes", "Total submission size"),
         "total_bytes", ""),
        (("bytes_total_max",), "total_bytes", "max"), (("artifact_bytes_mean",), "model_bytes", "mean"),
        (("bytes_model_int8_zlib", "model_size_bytes", "artifact_size_bytes", "compressed_artifact_bytes",
          "Artifact (bytes)", "Serialized model int8+zlib bytes"), "model_bytes", ""),
        (("bytes_code", "code_size_bytes"), "code_bytes", ""),
        (("steps", "step_stop", "stop_step", "train_steps", "Steps", "Stopped step"), "steps", ""),
        (("train_time_ms", "wallclock_seconds", "train_wallclock_ms", "wallclock_train_s", "training_time_seconds"),
         "train_seconds", ""),
        (("eval_time_s", "eval_time_ms", "eval_time_seconds"), "eval_seconds", ""),
        (("delta_vs_base_bpb", "baseline_val_bpb", "significance_mean_bpb", "best_single_seed_bpb", "ΔBPB",
          "val_loss_nats_per_byte", "ttt_recovery_bpb", "bytes_over_limit", "Artifact (MB)", "val_bpb_note",
          "slot_steps", "ms/step", "bytes_code_compressed", "ttt_time_ms", "elapsed_seconds", "train_loss",
          "vocab_size"), "", None),
    ],
)  # fmt: skip
def test_a_name_means_what_its_words_say(names: tuple[str, ...], name: str, statistic: str | None):
    for text in names:
        found = meaning(text)
        assert found.name == name and statistic in (None, found.statistic), (text, found)


def test_of_several_names_the_headline_is_the_barest_and_is_taken_with_its_digits():
    values = {"val_bpb": 1.08, "val_bpb_exact": "1.08049", "legal_ttt_bpb": 1.07, "sliding_bpb": 1.09, "bpb_std": 2e-05}
    assert claimed(values, "bpb") == "1.08049" and claimed(values, "bpb", "std") == "0.00002"
    assert claimed({"sliding_bpb": 1.09, "ppm_bpb": 0.94, "pre_quant_bpb": 1.2}, "bpb") == "0.94"
    assert claimed({"pre_quant_bpb": 1.2}, "bpb") is None, "no submission's score"
    assert claimed({"artifact_bytes": 20, "bytes_model": 10}, "model_bytes") == "10"
    texts = {one.key: one.text for one in claims_of({"train_time_ms": 599612, "wallclock_seconds": "~598.5 s"})}
    assert texts == {"train_time_ms": "599.612", "wallclock_seconds": "598.5"}


SCORES = {3: "1.08010000", 14: "1.08130000", 159: "1.08160000"}
MEAN, SPREAD = 1.081, 0.0007937
BPB = {str(seed): float(text) for seed, text in SCORES.items()}
STEPS, SIZES = {"3": 4501, "14": 4502, "159": 4503}, {"3": 15_900_001, "14": 15_900_002, "159": 15_900_003}
EARLY = {seed: f"{float(text) + 0.01:.8f}" for seed, text in SCORES.items()}
LOGS = {
    f"train_seed{seed}.log": late_log(
        seed, {"pre-quantization post-ema": ("2.8", EARLY[seed]), "quantized_ttt": (f"{float(bpb) * 2.5831:.8f}", bpb)},
        steps=STEPS[str(seed)], model=SIZES[str(seed)] - 100)
    for seed, bpb in SCORES.items()
}  # fmt: skip
ALL = {"val_bpb": MEAN, "val_bpb_std": SPREAD, "seeds": list(SCORES)}


def rows(key: str, **more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {seed: {key: bpb} | {name: values[seed] for name, values in more.items()} for seed, bpb in BPB.items()}


FORMS: dict[str, dict[str, Any]] = {
    "rows by seed": ALL | {"seed_results": rows("val_bpb", steps=STEPS, artifact_bytes=SIZES)},
    "rows of another name": {"val_bpb_3seed_mean": MEAN, "val_bpb_3seed_std": SPREAD, "seeds": list(SCORES),
                             "per_seed_results": rows("ttt_mixer_val_bpb", stop_step=STEPS, counted_bytes=SIZES)},
    "an object for a seed": {"val_bpb": MEAN, **{f"seed_{seed}": row for seed, row in rows("val_bpb").items()},
                             "bytes_total": 15_900_003},
    "columns by seed": {"val_bpb": MEAN, "val_bpb_std": SPREAD, "val_bpb_by_seed": BPB, "bytes_total_by_seed": SIZES,
                        "bytes_total_max": 15_900_003, "train_time_ms_by_seed": dict.fromkeys(BPB, 588_050)},
    "lists beside the seeds": {"val_bpb": 1.081, "val_bpb_exact": "1.08100000", "val_bpb_std": SPREAD,
                               "seeds": list(SCORES), "per_seed_val_bpb": list(SCORES.values()),
                               "per_seed_artifact_bytes": list(SIZES.values()), "artifact_bytes_mean": 15_900_002},
    "seeds with their scores": {"val_bpb": MEAN, "std_bpb": SPREAD, "seeds": BPB, "seed_bytes": SIZES},
    "what each stage scored": ALL | {"seed_results": rows("val_bpb", post_ema_val_bpb={
        str(seed): float(text) for seed, text in EARLY.items()})},
    "statistics of all": ALL | {"seed_results": rows("val_bpb", steps=STEPS, artifact_bytes=SIZES),
                                "artifact_bytes_max": 15_900_003, "train_steps_mean": 4502,
                                "training_time_seconds": 600},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_honest_file_of_each_form_holds_against_its_logs(place: Path, form: str):
    folder = foreign(place, LOGS, FORMS[form])
    found = judged(folder, place.parent)
    assert with_verdict(found, FAILS) == set(), {row.check: row.evidence for row in found.values()}
    assert {JSON, HEADLINE, NOT_MISSING, WHOLE} <= with_verdict(found, HOLDS)
    assert list(Submission(folder, How()).seed_claims) == list(SCORES)


@pytest.mark.parametrize("form", FORMS)
def test_no_changed_number_of_any_form_is_overlooked(place: Path, form: str):
    """Each is off by five in a hundred, downwards: a largest one that is larger contradicts nothing."""
    folder = foreign(place, LOGS, FORMS[form])
    before, values = judged(folder, place.parent), read_json(folder / "submission.json")
    for at in places_of(values):
        if at[0] in ("name", "author", "date") or (at[0] == "seeds" and isinstance(values["seeds"], list)):
            continue
        old = got(values, at)
        less = round(float(old) * 0.95) if float(old).is_integer() else float(old) * 0.95
        write_json(folder / "submission.json", replaced(values, at, type(old)(less)))
        now = judged(folder, place.parent)
        is_told = "before packing, and no log has" in now[JSON].evidence
        assert is_told or any(now[name].verdict != row.verdict for name, row in before.items()), at


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"seed_results": {"7": {"a": 1}}, "seed_results_old": {"7": {"a": 2}}}, {7: {"a": 1}}),
        ({"seeds": [7, 8], "per_seed_val_bpb": ["1.1", 1.2], "extended_seeds": [1, 2]},
         {7: {"val_bpb": "1.1"}, 8: {"val_bpb": 1.2}}),
        ({"seed_7": {"val_bpb": 1.1}, "seed_bytes": {"7": 9}, "seed_note": "x"}, {7: {"bytes": 9, "val_bpb": 1.1}}),
        ({"val_bpb_by_seed": {"7": 1.1, "mean": 1.2}}, {}), ({"seeds": None, "seed_results": {}}, {}),
        ({"per_seed_val_bpb": [1.1, 1.2], "seeds": [7]}, {}), ({"config_by_seed": {"7": 1}}, {}),
    ],
)  # fmt: skip
def test_what_each_seed_has_is_read_from_rows_objects_columns_and_lists(claims: dict, found: dict):
    assert rows_of(claims) == found


def test_further_seeds_are_no_strangers_and_their_statistics_no_contradiction(place: Path):
    more = {"train_seed7.log": late_log(7, {"quantized_ttt": ("2.8", "1.09000000")}, model=15_990_000)}
    claims = FORMS["statistics of all"] | {"artifact_bytes_max": 15_990_100}
    folder = foreign(place, LOGS | more, claims | {"additional_seed_results": {"7": {"val_bpb": 1.09}}})
    assert with_verdict(judged(folder, place.parent), FAILS) == set()
    claim(additional_seed_results=None)(folder)
    shows(judged(folder, place.parent)[NOT_MISSING], FAILS, "logs of seeds [7], which submission.json does not name")
    elsewhere = {"extended_seeds": [1, 2], "confirmation_results": {"seeds": {"5": {}}, "x": 1}}
    assert seeds_elsewhere(elsewhere) == {1, 2, 5}


VALUES = {"artifact_bytes": SIZES, "val_loss": {"3": 2.701, "14": 2.702, "159": 2.703}, "steps": STEPS,
          "step_avg_ms": {"3": 120.0, "14": 121.0, "159": 122.0}}  # fmt: skip
UNFILLED = {"val_loss": None, "bytes_total": 0, "bytes_code": None}
ALONE = ALL | {"seed_results": rows("val_bpb", **VALUES)}


@pytest.mark.parametrize(
    ("claims", "row", "why"),
    [(UNFILLED | said, WHOLE, why) for said, why in (
        ({"val_bpb": "pending"}, "no number: val_bpb ('pending')"), ({"val_bpb": None}, "it names no bpb of its own"),
        ({"val_bpb": None, "baseline_val_bpb": 1.2}, "no bpb of its own (there is baseline_val_bpb)"),
        ({"val_bpb": None, "val_loss": 1.9}, "(there is val_loss)"),
        ({"val_bpb": 0.0, "val_loss": 0.0}, "val_bpb 0.0 is no score"),
        ({"val_bpb": 1.1, "bytes_total": "TBD"}, "no number: bytes_total ('TBD')"),
        ({"val_bpb": 1.1, "seed_3": {"steps": "NOT RUN"}}, "no number: seed 3 steps ('NOT RUN')"),
    )] + [(ALONE | wrong, row, why) for wrong, row, why in (
        ({"val_bpb": 1.0825}, HEADLINE, "neither the mean of the seeds' scores, 1.081000"),
        ({"val_bpb_std": 0.0009}, HEADLINE, "a standard deviation of 0.0009 is claimed"),
        ({"val_loss": 2.8123}, JSON, "val_loss 2.8123 is neither the mean of its seeds', 2.702000, nor one of them"),
        ({"val_loss_mean": 2.8123}, JSON, "val_loss_mean 2.8123 is not the mean of its seeds', 2.702000"),
        ({"val_loss_std": 0.5}, JSON, "val_loss_std 0.5 is none of the standard deviations of its seeds'"),
        ({"artifact_bytes_max": 15_900_002}, JSON, "artifact_bytes_max 15900002 is claimed, and a seed has 15900003"),
        ({"step_avg_ms_mean": 119.0}, JSON, "step_avg_ms_mean 119 is not the mean of its seeds', 121.000000"),
        ({"bytes_total": 15_900_000, "bytes_model": 15_899_950, "bytes_code": 100}, JSON, "code have 15,900,050"),
        ({"eval_time_ms": 601_000}, SECONDS, "evaluation took longer than 600 s: submission.json 601.0 s"),
        ({"train_wallclock_ms": 603_000}, SECONDS, "training took longer than 600 s: submission.json 603.0 s"),
        ({"total_submission_bytes": 16_000_001}, CAP, "total_submission_bytes 16,000,001"),
    )],
)  # fmt: skip
def test_an_unfinished_file_or_one_that_contradicts_itself_fails_one_row_without_any_log(
    place: Path, claims: dict, row: str, why: str
):
    found = judged(foreign(place, {}, claims), place.parent)
    shows(found[row], FAILS, why)
    assert with_verdict(found, FAILS) - {NOT_MISSING} == {row}


def test_a_note_a_key_of_null_and_a_column_by_seed_are_not_unfilled():
    assert unfilled({"val_bpb_note": "text", "eval_time_s": "~110s", "steps": None, "val_bpb_by_seed": {"3": 1}}) == []
    began = time.perf_counter()
    assert len(unfilled({"val_bpb": " " * 30_000 + "x", "artifact_size": "~15.9 MB", "steps": "15.9 MB"})) == 2
    assert time.perf_counter() - began < 1, "a long text takes the square of its length"


INNER = {"artifact_size": "15.9 MB", "metrics": {"val_bpb": 1.2, "layers": 9}, "val_bpb_by_seed": BPB}


def loss_of(bpb: float, tokens: int) -> float:
    return bpb * math.log(2) * FINEWEB_BYTES / tokens


def claiming(claims: dict, readme: str = "# A record\n", logs: dict | None = None) -> Callable[[Path], Path]:
    return functools.partial(foreign, logs=logs or {}, claims=claims, readme=readme)


OF_8192 = {"val_bpb": 1.08, "val_loss": loss_of(1.08, FINEWEB_TOKENS["SP8192"])}
TWO = {"7": OF_8192, "8": {"val_bpb": 1.09, "val_loss": loss_of(1.09, FINEWEB_TOKENS["SP8192"])}}
CELLS = [(seed, EARLY[seed][:6], text[:6], f"{SIZES[str(seed)]:,}") for seed, text in SCORES.items()]
BY_SEED = ALL | {"seed_results": rows("val_bpb")}
NO_SIZES = {name: re.sub(r".*\bbytes\n", "", text) for name, text in LOGS.items()}


@cases(
    what_only_the_whole_claims_is_a_seeds_or_their_mean=[  # and a larger size may count what no log does
        (JSON, claiming(BY_SEED | said, logs=LOGS), [], expected) for said, expected in (
            ({"bytes_total": 15_900_002, "step_stop": 4502}, (HOLDS, "5 numbers of 3 seeds")),
            ({"bytes_total": 15_899_000},
             (FAILS, "bytes_total 15899000 in submission.json is neither a seed's nor their")),
            ({"step_stop": 4600}, (FAILS, "step_stop 4600 in submission.json is neither a seed's nor their mean")),
            ({"bytes_total": 15_950_000}, (UNKNOWN, "nothing here confirms bytes_total; 3 other numbers agree")))],
    what_no_log_names_is_said_to_be_unchecked=[
        (JSON, claiming(BY_SEED | {"bytes_total": 15_900_003, "best_bpb": 1.0}, logs=NO_SIZES), [],
         (HOLDS, "not checked: bytes_total, best_bpb")),
        (JSON, claiming(BY_SEED | INNER, logs=LOGS), [], (HOLDS, "not checked: artifact_size, metrics.val_bpb"))],
    pairs_under_any_name_imply_the_bytes_and_most_of_them_tell_the_tokenizer=[
        (IMPLIED, claiming(claims), [], expected) for claims, expected in (
            (OF_8192, (HOLDS, "(as of SP8192, which no file names)")),
            (OF_8192 | {f"post_ema_{key}": value for key, value in OF_8192.items()}, (HOLDS, "2 pairs")),
            ({"val_bpb": 1.08, "val_loss": 2.8123, "seed_results": TWO}, (FAILS, "val_bpb: 40,540,160 x 2.8123 /")),
            ({"val_bpb": 1.08, "val_loss": 2.9}, (UNKNOWN, "as of SP8192, the nearest that is known")),
            ({"val_bpb": 1.08, "val_loss": loss_of(1.08, 42_000_000), "seed_7": {"tokens_scored": 42_000_000}},
             (HOLDS, "over 42,000,000 predictions (tokens_scored)")),
            ({"val_bpb": 1.08, "val_loss": 1.08 * math.log(2)}, (UNKNOWN, "every loss is in nats per byte")))],
    a_claimed_time_may_pass_the_clock_by_its_last_step=[
        (SECONDS, claiming({"val_bpb": 1.1, **said}), [], verdict) for said, verdict in (
            ({"wallclock_seconds": 600.06, "step_stop": 7526}, UNKNOWN), ({"train_time_ms": 600_400}, UNKNOWN),
            ({"train_wallclock_s": 602.06, "steps": 8011}, FAILS))],
    a_column_of_another_stage_is_not_held_against_the_claimed_score=[  # by submission.json, which names none of that
        (README, claiming({"val_bpb": MEAN, "seed_results": rows("val_bpb", artifact_bytes=SIZES)},
                          table(header, *(row.format(*cells) for cells in CELLS))), [], expected)
        for header, row, *expected in (
            ("| Seed | Post-EMA BPB | **TTT BPB** | Artifact |", "| {0} | {1} | **{2}** | {3} |", UNKNOWN,
             "6 cells as in"),
            ("| Seed | sliding | TTT BPB | Artifact (MB) |", "| {0} | {1} | {2} | 15.9 |", UNKNOWN, "3 cells as in"),
            ("| Run ID | Seed | Exact val_bpb | Total bytes |", "| run-{0} | {0} | {2} | {3} |", UNKNOWN,
             "3 cells as in"),
            ("| Seed | val_bpb (fixed) | val_bpb | Size |", "| {0} | {1} | {2} | {3} B |", UNKNOWN, "6 cells as in"),
            ("| Seed | Total submission size | val_bpb |", "| {0} | {3} B | {1} |", FAILS,
             "3: bpb 1.0901, 1.0801 in"))],
)  # fmt: skip
def test_numbers_of_any_name_are_held_against_what_they_are(place: Path, case: Case) -> None:
    shown(case, place)

"""The verifier on submission folders: this project's own, and folders of the published form that it did not write."""

import dataclasses
import functools
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from published import PR194, PR315, PR531, Lie, edit, edit_logs, foreign, late_log, number, published, table
from reviewing import Bomb, Case, cases, failing, holding, judged, shown, shows, unknown, with_verdict

from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.export import write_script
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN
from pgolf_core.lab.verify.submission import FINEWEB_TOKENS

CAP, CODE = "file and code fit under the cap", "the code has the claimed bytes"
OWN, RAN = "its own script scores the file alike", "the script is the one that ran"
JSON, README = "submission.json says what logs and file say", "README.md says what logs and file say"
SECONDS, NOT_MISSING = "seconds are within the budgets", "no seed and no log is missing"
SLIDING, ROUNDTRIP = "sliding score from the file alone", "round-trip score from the file alone"
ALIKE, PROSE = "one recipe over all seeds", "scores in README.md's prose are the folder's"
HEADLINE, IMPLIED = "the headline is the seeds' score", "each score implies the split's bytes"
ITS = "the artifact is a seed's"
OPEN = {RAN, OWN, SECONDS, JSON, HEADLINE, README}
"""What a folder of two seeds with one artifact cannot show for the other seed."""


# ---------------------------------------------------------------------- this project's own


def test_an_honest_submission_holds_wherever_it_can_be_checked(written: Path, alone: Path, cache: Path):
    found = judged(written, cache)
    assert {name for name, row in found.items() if row.verdict != HOLDS} == unknown(written, cache) <= OPEN
    assert found[SLIDING].verdict == HOLDS
    assert not failing(alone, cache) and {JSON, HEADLINE} <= holding(alone, cache)


def more_code(folder: Path) -> None:
    for path in folder.rglob("*.py"):
        path.write_text(path.read_text() + "# more\n")


LIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a better score": (number("val_bpb", 0.99), SLIDING),
    "a better loss": (number("val_loss", 0.99), SLIDING),
    "a better round trip": (number("int6_zstd_val_bpb", 0.9), ROUNDTRIP),
    "fewer bytes": (number("bytes_total", 0.9), CAP),
    "a smaller file": (number("bytes_model_int6_zstd", 0.9), CAP),
    "less code": (number("bytes_code", 0.9), CODE),
    "more targets": (number("val_targets", 1.01), IMPLIED),
    "more steps": (number("steps", 2), JSON),
    "a shorter training": (number("train_seconds", 1000), JSON),
    "another seed": (edit("submission.json", r'"seeds": \[\s*1\s*\]', '"seeds": [1, 9]'), NOT_MISSING),
    "another hash": (edit("submission.json", '_sha256": "', '_sha256": "0'), ITS),
    "another score in the table": (edit("README.md", r"(\| 1 \|(?: [^|]+\|){4} )\d\.\d{4}", r"\g<1>4.2880"), README),
    "other bytes in the table": (edit("README.md", r"(\| 1 \|(?: [^|]+\|){5} )[\d,]+", r"\g<1>13,107"), README),
    "other steps in the table": (edit("README.md", r"\| 1 \| 8 \|", "| 1 | 9 |"), README),
    "another step in the log": (edit("train_seed1.log", r"step:8/8 val", "step:9/9 val"), JSON),
    "a long training in the log": (
        edit("train_seed1.log", r"train_time:\d+ms(?= step_avg:\S+\s*\nSerialized)", "train_time:900000ms"), SECONDS),
    "no log": (lambda folder: (folder / "train_seed1.log").unlink(), NOT_MISSING),
    "no write-up": (lambda folder: (folder / "README.md").unlink(), NOT_MISSING),
    "more code": (more_code, CODE),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_false_claim_of_a_submission_fails_its_check(submission: Path, cache: Path, name: str):
    lie, expected = LIES[name]
    lie(submission)
    assert expected in failing(submission, cache)


def test_a_score_that_the_prose_names_and_nothing_confirms_is_not_held(submission: Path, cache: Path):
    edit("README.md", r"\*\*4\.\d{4} bits per byte", "**4.1880 bits per byte")(submission)
    shows(judged(submission, cache)[PROSE], UNKNOWN, "4.1880")


def test_the_missing_log_of_a_claimed_seed_and_seeds_of_two_recipes_are_found(
    written: Path, cache: Path, tmp_path: Path
):
    folder = shutil.copytree(written, tmp_path / "s")
    edit("train_seed2.log", "matrix_lr:0.025", "matrix_lr:0.03")(folder)
    assert "one recipe over all seeds" in failing(folder, cache)
    (folder / "train_seed2.log").unlink()
    shows(judged(folder, cache)[NOT_MISSING], FAILS, "seeds 2")


def test_an_artifact_of_another_seed_in_the_folder_is_scored_as_that_seed(
    written: Path, honest: Path, cache: Path, tmp_path: Path
):
    folder = shutil.copytree(written, tmp_path / "s")
    shutil.copy(honest / "seed2" / "model.pgolf", folder / "model.pgolf")
    assert "scores.npz has the hash" in judged(folder, cache)[ITS].evidence, "still seed 1's"
    shutil.copy(honest / "seed2" / "scores.npz", folder / "scores.npz")
    found = judged(folder, cache)
    assert found[ITS].verdict == found[SLIDING].verdict == HOLDS and "seed 2" in found[ITS].evidence


def test_without_the_dataset_a_submission_is_checked_as_far_as_its_files_go(alone: Path, cache: Path, tmp_path: Path):
    assert not failing(alone, tmp_path) and {CODE, CAP} <= holding(alone, tmp_path)
    assert SLIDING in unknown(alone, tmp_path)


# ---------------------------------------------------------------------- its own code, only when asked

SCRIPT = '''"""A stand-in for the one script."""
import dataclasses, pathlib
from pgolf_core.text.shards import load_tokens
from pgolf_core.packing.unpack import score_artifact
from pgolf_core.text.tokenizer import Tokenizer
pathlib.Path(__file__).with_name("ran").touch()

RECIPE = {"eval": {"seq_len": 32, "stride": 8}, "schedule": {"autocast": "off"}}
'''


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("", "", HOLDS),
        ("from pgolf_core.packing.unpack import score_artifact", "score_artifact = None", UNKNOWN),
        ("from pgolf_core.text.tokenizer", "raise SystemExit\nfrom pgolf_core.text.tokenizer", UNKNOWN),
        ("pathlib.Path(", "whole = score_artifact\ndef score_artifact(*a, **k):\n"
         "    return dataclasses.replace(whole(*a, **k), bpb=1.0)\npathlib.Path(", FAILS),
    ],
)  # fmt: skip
def test_the_folders_own_script_is_run_only_when_asked_and_holds_only_if_it_scores_alike(
    submission: Path, cache: Path, old: str, new: str, verdict: str
):
    (submission / "train_gpt.py").write_text(SCRIPT.replace(old, new, 1))
    found = judged(submission, cache)
    assert found[OWN].verdict == UNKNOWN and not (submission / "ran").exists() and found[SLIDING].verdict == HOLDS
    assert judged(submission, cache, run_code=True)[OWN].verdict == verdict
    assert verdict == UNKNOWN or (submission / "ran").exists()


@pytest.mark.parametrize("form", ["readable", "packed"])
def test_the_script_that_a_submission_ships_scores_its_artifact_alike_when_it_is_run(
    submission: Path, honest: Path, cache: Path, form: str
):
    (submission / "train_gpt.py").unlink()
    write_script(dataclasses.replace(recorded_recipe(honest), script=form), submission)
    (submission / "README.md").unlink()  # which names window and stride too; the script itself does
    row = judged(submission, cache, run_code=True)[OWN]
    assert row.verdict == HOLDS, row.evidence


def test_nothing_of_a_submission_is_run_or_unpickled(
    submission: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mark = tmp_path / "exploded"
    program = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in ("torch", "json", "conftest", "sitecustomize", "setup", "train_gpt", "__init__"):
        (submission / f"{name}.py").write_text(program)
    for name in ("final_model.pt", "final_model.int6.ptz", "weights.pkl", "model.npz", "tokenizer.model", "two.pgolf"):
        (submission / name).write_bytes(pickle.dumps(Bomb(mark)))
    monkeypatch.chdir(submission)
    assert "two.pgolf: artifact opens and is whole" in failing(Path("."), cache)
    assert not mark.exists()


# ---------------------------------------------------------------------- folders of the published form


def test_a_merged_record_holds_where_its_files_show_it_and_says_why_elsewhere(place: Path):
    found = judged(published(place, PR315), place.parent)
    assert {name for name, row in found.items() if row.verdict == HOLDS} == {
        "submission.json is whole", "one recipe over all seeds", RAN, CODE, IMPLIED, SECONDS, JSON, HEADLINE, README,
        CAP, PROSE, "the whole split is scored", "what is learned from was scored before",
    }  # fmt: skip
    others = [row for row in found.values() if row.verdict != HOLDS]
    assert all(row.verdict == UNKNOWN and row.evidence.startswith("because ") for row in others)
    assert "is not in the folder" in found["artifact opens and is whole"].evidence
    assert "151,080,363" in found[IMPLIED].evidence


ONE = {1337: (4071, "1.99308832", "1.18041917", 15_896_909, 15_949_473)}


def test_false_claims_are_found_in_the_published_folders(place: Path):
    """194 and 531 over the cap, 531's wrong steps and another script than the logged, 543 too slow."""
    assert failing(published(place / "194", PR194), place) == {CAP}
    folder = published(place / "531", PR531)
    edit("README.md", "6,824", "5,722")(folder)
    more_code(folder)
    assert failing(folder, place) == {CAP, RAN, CODE, README}
    assert failing(published(place / "543", ONE, train_ms=615_394), place) == {SECONDS}


def of_track(track: str, key: str | None) -> Callable[[Path], Path]:
    """A folder of a track by its place and by what it says."""
    return lambda place: published(place.parents[1] / track / "one", ONE, train_ms=1_211_130, claims={"track": key})


def weights(*files: tuple[str, int]) -> list[Lie]:
    """Files that with the code have so many bytes more than the cap."""

    def weigh(folder: Path) -> None:
        for index, (ending, more) in enumerate(files):
            with open(folder / f"model{index}{ending}", "wb") as file:
                file.truncate(16_000_000 - (folder / "train_gpt.py").stat().st_size + more)

    return [weigh]


def times_bpb(factor: float) -> dict[int, tuple]:
    return {seed: (*row[:2], f"{float(row[2]) * factor:.8f}", *row[3:]) for seed, row in PR315.items()}


def with_vocabulary(vocab: int, bpb: float = 1.1) -> dict[int, tuple]:
    loss = bpb * math.log(2) * 151_080_363 / FINEWEB_TOKENS[f"SP{vocab}"]
    return {1: (7000, f"{loss:.8f}", f"{bpb:.8f}", 15_000_000, 15_060_000)}


def renamed(vocab: int) -> dict[str, str]:
    return {"fineweb_1024_bpe": f"fineweb_{vocab}_bpe"}


def one_late_log(track: str, *more: str, loss: str = "2.80") -> Callable[[Path], Path]:
    """A folder of a track with one log of the later kind, and these lines in it."""
    log = late_log(1, {"quantized": (loss, "1.0836")}, more=more)
    return lambda place: foreign(place.parents[1] / track / "one", {"a.log": log}, {"val_bpb": 1.0836})


RECORDS, LAST = "track_10min_16mb", "val_loss:1.9279 val_bpb:1.1418"
UNNAMED, WHOLE = {"fineweb_1024_bpe": "own"}, {LAST: "val_loss:1.8992 val_bpb:1.1248"}


@cases(
    ten_minutes_are_held_against_folders_of_their_track_alone=[
        (SECONDS, of_track(track, key), [], expected) for track, key, *expected in (
            ("track_10min_16mb", None, FAILS, "training took longer than 600 s: train_seed1337.log 1211.1 s"),
            ("track_non_record_16mb", "10min_16mb", HOLDS, "has no clock; training 1211.1"),
            ("track_non_record_16mb", None, HOLDS,
             "the track non_record_16mb has no clock; training 1211.1 to 1211.1 s"),
            ("track_10min_16mb", "non-record-unlimited-compute-16mb", HOLDS, "has no clock; training 1211.1"),
            ("some", None, UNKNOWN,
             "no file says on which track it is; training 1211.1 to 1211.1 s, evaluation 72.7"))],
    weights_that_lie_in_the_folder_are_weighed_whatever_is_claimed_and_the_cap_itself_fits=[
        (CAP, functools.partial(published, seeds=ONE), weights(*files), expected) for files, expected in (
            ([(".ptz", 0)], (HOLDS, "= 15,949,473; cap 16,000,000, by 1 packed size")),
            ([(".ptz", 1)], (FAILS, "over the cap of 16,000,000: model0.ptz and code 16,000,001")),
            ([(".ptz", 0), (".pt", 1)], (UNKNOWN, "over the cap of 16,000,000: model1.pt and code")),  # packed yet?
            ([(".pgolf", 0), (".pgolf", 1)], (FAILS, "over the cap of 16,000,000: model1.pgolf and code")))],
    pairs_of_loss_and_bpb_imply_the_bytes_of_the_known_text_whatever_the_tokenizer=[
        (IMPLIED, functools.partial(published, seeds=seeds, claims=claims, say_tokens="fineweb_1024_bpe" not in edits),
         [edit_logs(old, new) for old, new in edits.items()], expected)
        for seeds, claims, edits, *expected in (
            (PR315, {}, WHOLE, HOLDS, "151,080,363 bytes over 62,021,632"),
            (times_bpb(0.998), {}, WHOLE, FAILS, "the split has 151,080,363"),
            (times_bpb(1.002), {}, WHOLE, FAILS, "the split has 151,080,363"),
            *((PR315, {"val_bpb": bad}, WHOLE, FAILS, "are no score") for bad in (0, -1, 1e9)),
            *((PR315, {"val_bpb": bad}, WHOLE, HOLDS, "6 pairs of loss and bpb") for bad in ("x", True)),
            (PR315, {}, UNNAMED | WHOLE, HOLDS, "as of SP1024"),
            (times_bpb(1.3), {}, UNNAMED, UNKNOWN, "how many tokens"),
            (with_vocabulary(4096), {}, renamed(4096), UNKNOWN, "not by 1 validation"),
            *((with_vocabulary(vocab), {},
               renamed(vocab) | {LAST: f"val_loss:{float(with_vocabulary(vocab)[1][1]):.4f} val_bpb:1.1000"}, HOLDS,
               f"(SP{vocab}), by 3 pairs of loss and bpb; and by 1 validation") for vocab in (4096, 8192)))],
    seconds_are_a_logs_own_total_and_work_on_the_weights_counts=[
        (SECONDS, one_late_log(track, *more), [], expected) for track, more, *expected in (
            (RECORDS, (), HOLDS, "training 588.0 to 588.0 s, evaluation 121.0 to 121.0 s"),
            (RECORDS, ("GPTQ:collected 67 Hessians in 11.3s",), HOLDS, "599.3 s with collected 67 Hessians"),
            (RECORDS, ("GPTQ:collected 67 Hessians in 13.3s",), FAILS, "training took longer than 600 s"),
            (RECORDS, ("prequant_ttt:done total_time=88.4s",), FAILS, "676.4 s with prequant_ttt"),
            (RECORDS, ("total_eval_time:688.0s",), FAILS, "evaluation took longer than 600 s: a.log 688.0 s"),
            (RECORDS, ("ttt_sliding:done val_bpb=1.0812 elapsed=640.2s",), FAILS, "640.2 s"),
            (RECORDS, tuple(f"eval_{i}:done elapsed=400.0s" for i in range(3)), HOLDS, "evaluation 400.0 to"),
            ("track_non_record_16mb", ("total_eval_time:3600.2s",), HOLDS, "has no clock"))],
    a_loss_in_nats_per_byte_binds_no_bytes=[
        (IMPLIED, one_late_log(RECORDS, loss=f"{1.0836 * math.log(2):.8f}"), [], (UNKNOWN, "nats per byte"))],
)  # fmt: skip
def test_what_a_folder_shows_by_its_logs_and_files_alone(place: Path, case: Case) -> None:
    shown(case, place)


# ---------------------------------------------------------------------- folders of later forms

HESSIANS = ("GPTQ:collected 67 Hessians in 12.7s",)
PR1493 = {  # seed: (early, sliding, adapted as (loss, bpb), code, model, training ms)
    seed: tuple(zip(figures[:3], figures[3:6], strict=True)) + figures[6:] for seed, figures in {
        42: ("2.80873254", "2.79714850", "2.79180191", "1.08734790", "1.08286335", "1.08079352", 16_630, 15_975_300,
             588_047),
        314: ("2.80977929", "2.79676256", "2.79241542", "1.08775313", "1.08271394", "1.08103103", 16_594, 15_976_325,
              588_120),
        999: ("2.81014279", "2.79659675", "2.79281076", "1.08789385", "1.08264975", "1.08118408", 16_594, 15_976_638,
              588_010)}.items()
}  # fmt: skip
CLAIMS = {
    "track": "10min_16mb", "val_bpb": 1.081, "val_bpb_std": 0.0002, "seeds": list(PR1493),
    "seed_results": {"42": {"val_bpb": 1.08079, "artifact_bytes": 15_991_930},
                     "314": {"val_bpb": 1.08103, "artifact_bytes": 15_992_919},
                     "999": {"val_bpb": 1.08118, "artifact_bytes": 15_992_919}},  # which is seed 314's
}  # fmt: skip
WRITE_UP = table(
    "| Seed | Sliding BPP | TTT BPP | Steps | Artifact |",
    "| 42 | 1.0829 | **1.0808** | 4550 | 15,991,930 |",
    "| 314 | 1.0827 | **1.0810** | 4550 | 15,992,919 |",
    "| 999 | — | **1.0812** | 4550 | 15,992,919 |",
    "| **Mean** | | **1.0810** | | |",
)


def later(folder: Path, readme: str = WRITE_UP, **changes: object) -> Path:
    """The form and the figures of #1493."""
    logs = {
        f"train_seed{seed}.log": late_log(
            seed, {"pre-quantization post-ema": early, "quantized_sliding_window": sliding, "quantized_ttt": ttt},
            train_ms=ms, code=code, model=model, more=HESSIANS)
        for seed, (early, sliding, ttt, code, model, ms) in PR1493.items()
    }  # fmt: skip
    return foreign(folder, logs, CLAIMS | changes, readme, code=16_594)


def test_of_a_merged_record_of_the_later_kind_nothing_fails_but_what_is_wrong(place: Path):
    found = judged(later(place), place.parent)
    assert with_verdict(found, FAILS) == {CODE, ALIKE}, "seed 42's log is of another script"
    assert {JSON, HEADLINE, README, IMPLIED, NOT_MISSING} <= with_verdict(found, HOLDS)
    assert "as quantized_ttt" in found[HEADLINE].evidence and "is seed 314's" in found[JSON].evidence
    assert found[SECONDS].verdict == UNKNOWN and "by two clocks: train_seed314.log 600.8 s" in found[SECONDS].evidence


@pytest.mark.parametrize(
    ("readme", "claims", "fails"),
    [
        (WRITE_UP.replace("| 4550 | 15,991,930", "| 4551 | 15,991,930"), {}, {README}),
        (WRITE_UP.replace("1.0829", "1.0819"), {}, {README}), (WRITE_UP, {"val_bpb": 1.0827}, set()),
        (WRITE_UP, {"val_bpb": 1.0878}, {HEADLINE}), (WRITE_UP, {"date": None, "author": None}, set()),
        (WRITE_UP, {"val_bpb_std": 0.0001607}, set()), (WRITE_UP, {"val_bpb_std": 0.0001968}, set()),
        (WRITE_UP, {"val_bpb_std": 0.0005}, {HEADLINE}),
    ],
)  # fmt: skip
def test_a_false_claim_of_such_a_record_fails_its_row_alone(place: Path, readme: str, claims: dict, fails: set[str]):
    assert failing(later(place, readme, **claims), place.parent) == {CODE, ALIKE, *fails}


def test_dated_lines_are_read(place: Path):
    text = late_log(1, {"quantized": ("2.79910000", "1.08360000")}, more=("artifact_bytes: 16,144,107",))
    dated = "".join(f"2026-03-22 10:11:12,345 INFO {line}\n" for line in text.splitlines())
    folder = foreign(place, {"a.log": dated}, {"val_bpb": 1.0836, "artifact_bytes": 16_144_107})
    assert {JSON, HEADLINE, NOT_MISSING} <= holding(folder, place.parent)


def test_nothing_fails_in_a_sound_record_and_wrong_steps_of_a_write_up_are_its_only_fault(place: Path, monkeypatch):
    """As #1204 is sound, and as #414 and #1285 name steps that no log has."""
    monkeypatch.setitem(PR1493, 42, (*PR1493[42][:3], 16_594, *PR1493[42][4:]))  # the others' code
    results = CLAIMS["seed_results"] | {"42": {"val_bpb": 1.08079, "artifact_bytes": 15_991_894}}
    sound = later(place, WRITE_UP.replace("15,991,930", "15,991,894"), seed_results=results)
    assert failing(sound, place.parent) == set()
    folder = published(place.parent / "2026-03-21_steps", PR315)
    edit("README.md", "7,051", "7,510")(folder)
    assert failing(folder, place.parent) == {README}

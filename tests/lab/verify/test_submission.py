"""The verifier on submission folders: this project's own, and folders of the published form that it did not write.

pytest tests/lab/verify/test_submission.py (trains two seeds of a few thousand weights, once). The published folders are
made here from the figures of SEEDS.md 4.6 to 8.7; nothing of theirs is copied.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_run import ask_here, cache_of, change, finished_run, the_toy_is_the_track, verdicts

from pgolf_core.base.files import read_json, write_json
from pgolf_core.lab.export import write_script
from pgolf_core.lab.record.folder import recorded_recipe
from pgolf_core.lab.submission.folder import write_submission
from pgolf_core.lab.verify import verify
from pgolf_core.lab.verify.evidence import score as verify_score

OPEN = {
    "the script is the one that ran", "its own script scores the file alike", "seconds are within the budgets",
    "submission.json says what logs and file say", "the headline is the seeds' score",
    "README.md says what logs and file say", "scores before packing are the logs'",
}  # fmt: skip
"""What a folder of two seeds with one artifact, whose logs name no final score, cannot show for the other seed."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def written(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both seeds' submission."""
    out = tmp_path_factory.mktemp("submissions") / "two"
    return write_submission(honest, "A toy", "Ann", "ann", out)


@pytest.fixture(scope="module")
def alone(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The submission of a run of one seed, whose artifact confirms every number."""
    run = shutil.copytree(honest, tmp_path_factory.mktemp("one") / "runs" / honest.name)
    shutil.rmtree(run / "seed2")
    (run / "summary.json").unlink()  # as if the other seed had never been reported
    return write_submission(run, "A toy", "Ann", "ann", tmp_path_factory.mktemp("submissions") / "one")


@pytest.fixture(autouse=True)
def _scored_here(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_score, "ask", ask_here)
    the_toy_is_the_track(monkeypatch, cache_of(honest))


@pytest.fixture
def copied(alone: Path, tmp_path: Path) -> Path:
    return shutil.copytree(alone, tmp_path / "submission")


def judged(folder: Path, honest: Path | None = None, **how) -> dict[str, str]:
    return verdicts(verify.verify(folder, cache_dir=cache_of(honest) if honest else folder.parent, **how))


def failed(found: dict[str, str]) -> set[str]:
    return {name for name, verdict in found.items() if verdict == verify.FAILS}


def evidence(folder: Path, check: str, honest: Path | None = None) -> str:
    table = verify.verify(folder, cache_dir=cache_of(honest) if honest else folder.parent)
    return table.set_index("check").loc[check, "evidence"]


# ---------------------------------------------------------------------- this project's own


def test_an_honest_submission_holds_wherever_it_can_be_checked(written: Path, alone: Path, honest: Path):
    found = judged(written, honest)
    assert not failed(found)
    assert {name for name, verdict in found.items() if verdict == verify.UNKNOWN} <= OPEN
    assert found["sliding score from the file alone"] == verify.HOLDS
    found = judged(alone, honest)
    assert not failed(found)
    assert found["submission.json says what logs and file say"] == verify.HOLDS
    assert found["the headline is the seeds' score"] == verify.HOLDS


def number(key: str, factor: float) -> Callable[[Path], None]:
    """Multiply a number of submission.json, wherever it stands."""

    def lie(folder: Path) -> None:
        values = read_json(folder / "submission.json")
        for place in (values, *values["seed_results"].values()):
            if key in place:
                place[key] = type(place[key])(place[key] * factor)
        write_json(folder / "submission.json", values)

    return lie


def edit(file: str, pattern: str, to: str) -> Callable[[Path], None]:
    def lie(folder: Path) -> None:
        text, count = re.subn(pattern, to, (folder / file).read_text(), count=1)
        assert count == 1
        (folder / file).write_text(text)

    return lie


def more_code(folder: Path) -> None:
    for path in folder.rglob("*.py"):
        path.write_text(path.read_text() + "# more\n")


LIES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "a better score": (number("val_bpb", 0.99), {"sliding score from the file alone"}),
    "a better loss": (number("val_loss", 0.99), {"sliding score from the file alone"}),
    "a better round trip": (number("int6_zstd_val_bpb", 0.9), {"round-trip score from the file alone"}),
    "fewer bytes": (number("bytes_total", 0.9), {"file and code fit under the cap"}),
    "a smaller file": (number("bytes_model_int6_zstd", 0.9), {"file and code fit under the cap"}),
    "less code": (number("bytes_code", 0.9), {"the code has the claimed bytes"}),
    "more targets": (number("val_targets", 1.01), {"each score implies the split's bytes"}),
    "more steps": (number("steps", 2), {"submission.json says what logs and file say"}),
    "a shorter training": (number("train_seconds", 1000), {"submission.json says what logs and file say"}),
    "another seed": (
        edit("submission.json", r'"seeds": \[\s*1\s*\]', '"seeds": [1, 9]'), {"no seed and no log is missing"}
    ),
    "another hash": (edit("submission.json", '_sha256": "', '_sha256": "0'), {"the artifact is a seed's"}),
    "another score in the table": (
        edit("README.md", r"(\| 1 \|(?: [^|]+\|){4} )\d\.\d{4}", r"\g<1>4.2880"),
        {"README.md says what logs and file say"},
    ),
    "other bytes in the table": (
        edit("README.md", r"(\| 1 \|(?: [^|]+\|){5} )[\d,]+", r"\g<1>13,107"), {"README.md says what logs and file say"}
    ),
    "other steps in the table": (
        edit("README.md", r"\| 1 \| 8 \|", "| 1 | 9 |"), {"README.md says what logs and file say"}
    ),
    "another step in the log": (
        edit("train_seed1.log", r"step:8/8 val", "step:9/9 val"), {"submission.json says what logs and file say"}
    ),
    "a long training in the log": (
        edit("train_seed1.log", r"train_time:\d+ms(?= step_avg:\S+\s*\nSerialized)", "train_time:900000ms"),
        {"seconds are within the budgets"},
    ),
    "no log": (lambda folder: (folder / "train_seed1.log").unlink(), {"no seed and no log is missing"}),
    "no write-up": (lambda folder: (folder / "README.md").unlink(), {"no seed and no log is missing"}),
    "more code": (more_code, {"the code has the claimed bytes"}),
}  # fmt: skip


HONEST: dict[Path, dict[str, str]] = {}
"""Verdicts on a folder as it was written, taken once."""


@pytest.mark.parametrize("name", LIES)
def test_a_false_claim_of_a_submission_fails_or_keeps_its_check_from_holding(
    alone: Path, copied: Path, honest: Path, name: str
):
    lie, expected = LIES[name]
    if alone not in HONEST:
        HONEST[alone] = judged(alone, honest)
    before, _ = HONEST[alone], lie(copied)
    found = judged(copied, honest)
    assert expected <= failed(found)
    assert expected or [check for check in before if before[check] == verify.HOLDS != found.get(check)]


def test_a_score_that_the_prose_names_and_nothing_confirms_is_not_held(copied: Path, honest: Path):
    edit("README.md", r"\*\*4\.\d{4} bits per byte", "**4.1880 bits per byte")(copied)
    assert judged(copied, honest)["README.md says what logs and file say"] == verify.UNKNOWN
    assert "4.1880" in evidence(copied, "README.md says what logs and file say", honest)


def test_the_missing_log_of_a_claimed_seed_is_named(written: Path, honest: Path, tmp_path: Path):
    folder = shutil.copytree(written, tmp_path / "s")
    (folder / "train_seed2.log").unlink()
    assert "no seed and no log is missing" in failed(judged(folder, honest))
    assert "seeds 2" in evidence(folder, "no seed and no log is missing", honest)


def test_seeds_of_two_recipes_fail(written: Path, honest: Path, tmp_path: Path):
    folder = shutil.copytree(written, tmp_path / "s")
    edit("train_seed2.log", "matrix_lr:0.025", "matrix_lr:0.03")(folder)
    assert "one recipe over all seeds" in failed(judged(folder, honest))


def test_an_artifact_of_another_seed_in_the_folder_is_scored_as_that_seed(written: Path, honest: Path, tmp_path: Path):
    folder = shutil.copytree(written, tmp_path / "s")
    shutil.copy(honest / "seed2" / "model.pgolf", folder / "model.pgolf")
    found = judged(folder, honest)
    assert found["the artifact is a seed's"] == found["sliding score from the file alone"] == verify.HOLDS
    assert "seed 2" in evidence(folder, "the artifact is a seed's", honest)


def test_without_the_dataset_a_submission_is_checked_as_far_as_its_files_go(alone: Path, tmp_path: Path):
    found = verdicts(verify.verify(alone, cache_dir=tmp_path))
    assert not failed(found)
    assert found["the code has the claimed bytes"] == found["file and code fit under the cap"] == verify.HOLDS
    assert found["sliding score from the file alone"] == verify.UNKNOWN


# ---------------------------------------------------------------------- its own code, only when asked

SCRIPT = '''"""A stand-in for the one script."""
import dataclasses, pathlib
from pgolf_core.text.shards import load_tokens
from pgolf_core.network.score import score_artifact
from pgolf_core.text.tokenizer import Tokenizer
pathlib.Path(__file__).with_name("ran").touch()

@dataclasses.dataclass
class Eval:
    seq_len: int = 32
    stride: int = 8

@dataclasses.dataclass
class Schedule:
    autocast: str = "off"
'''


def test_the_folders_own_script_is_run_only_when_asked(copied: Path, honest: Path):
    (copied / "train_gpt.py").write_text(SCRIPT)
    found = judged(copied, honest)
    assert found["its own script scores the file alike"] == verify.UNKNOWN and not (copied / "ran").exists()
    assert found["sliding score from the file alone"] == verify.HOLDS
    found = judged(copied, honest, run_code=True)
    assert found["its own script scores the file alike"] == verify.HOLDS and (copied / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("from pgolf_core.network.score import score_artifact", "score_artifact = None", verify.UNKNOWN),
        ("from pgolf_core.text.tokenizer", "raise SystemExit\nfrom pgolf_core.text.tokenizer", verify.UNKNOWN),
        ("pathlib.Path(", "whole = score_artifact\ndef score_artifact(*a, **k):\n"
         "    return dataclasses.replace(whole(*a, **k), bpb=1.0)\npathlib.Path(", verify.FAILS),
    ],
)  # fmt: skip
def test_a_script_that_cannot_score_or_scores_otherwise_does_not_hold(
    copied: Path, honest: Path, old: str, new: str, verdict: str
):
    (copied / "train_gpt.py").write_text(SCRIPT.replace(old, new, 1))
    assert judged(copied, honest, run_code=True)["its own script scores the file alike"] == verdict


@pytest.mark.parametrize("minify", [False, True])
def test_the_script_that_a_submission_ships_scores_its_artifact_alike_when_it_is_run(
    copied: Path, honest: Path, minify: bool
):
    if minify:
        pytest.importorskip("python_minifier")
    (copied / "train_gpt.py").unlink()
    write_script(recorded_recipe(honest), copied, minify)
    assert judged(copied, honest, run_code=True)["its own script scores the file alike"] == verify.HOLDS


# ---------------------------------------------------------------------- folders of the published form

PR315 = {  # seed: (steps, loss, bpb, model bytes, total bytes)
    2025: (7051, "1.89924867", "1.12484502", 15_544_691, 15_612_308),
    42: (7061, "1.89948149", "1.12498291", 15_461_049, 15_528_666),
    1337: (7063, "1.89996173", "1.12526734", 15_571_723, 15_639_340),
}
PR531 = {1337: (5722, "1.91652743", "1.13507850", 17_442_081, 17_498_720),
         42: (6824, "1.90756996", "1.12977337", 16_924_417, 16_981_056)}  # fmt: skip
PR194 = {1337: (8052, "1.93386993", "1.14534973", 15_992_249, 16_076_737),
         7: (8040, "1.93996931", "1.14896214", 15_776_980, 15_861_468)}  # fmt: skip
ARITHMETIC = {"implied": "each score implies the split's bytes", "seeds": "no seed and no log is missing"}


def published(
    folder: Path, seeds: dict[int, tuple], train_ms: int = 600_000, claims: dict | None = None,
    say_tokens: bool = True,
) -> Path:  # fmt: skip
    """A folder of the published form with these figures: script, logs that begin with it, submission.json, README."""
    folder.mkdir(parents=True)
    code = next(iter(seeds.values()))[4] - next(iter(seeds.values()))[3]
    script = "import os\n" + "# " + "x" * (code - len("import os\n") - 3) + "\n"
    (folder / "train_gpt.py").write_text(script)
    for seed, (steps, loss, bpb, model, total) in seeds.items():
        lines = [
            script.rstrip("\n"), "=" * 100, "Running Python 3.12",
            "val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./data/tokenizers/fineweb_1024_bpe.model",
            *(["val_loader:shards pattern=./data/fineweb_val_*.bin tokens:62021632"] if say_tokens else []),
            "model_params:26829913", "world_size:8 grad_accum_steps:1", f"seed:{seed}",
            "step:0/9000 train_loss:6.9287 train_time:85ms step_avg:85.00ms",
            f"step:{steps}/9000 val_loss:1.9279 val_bpb:1.1418 train_time:{train_ms}ms step_avg:85.1ms",
            "Serialized model: 105792597 bytes", f"Code size: {code} bytes",
            f"Serialized model int6+zstd: {model} bytes", f"Total submission size int6+zstd: {total} bytes",
            f"final_int6_sliding_window val_loss:{loss[:6]} val_bpb:{bpb[:6]} stride:64 eval_time:72700ms",
            f"final_int6_sliding_window_exact val_loss:{loss} val_bpb:{bpb}",
        ]  # fmt: skip
        (folder / f"train_seed{seed}.log").write_text("\n".join(lines) + "\n")
    first = next(iter(seeds.values()))
    values = {"author": "a", "github_id": "a", "name": "A record", "blurb": "b", "date": "2026-03-20"}
    values |= {"val_loss": float(first[1]), "val_bpb": float(first[2]), "bytes_total": first[4], "bytes_code": code}
    write_json(folder / "submission.json", values | (claims or {}))
    rows = [f"| {seed} | {row[0]:,} | {row[1][:6]} | **{row[2][:6]}** |" for seed, row in seeds.items()]
    (folder / "README.md").write_text(
        f"# A record: {first[2][:6]} BPB\n\n| Seed | Steps | val_loss | Sliding BPB |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "records" / "track_10min_16mb" / "2026-03-20_A_record"


def test_a_merged_record_holds_where_its_files_show_it_and_says_why_elsewhere(place: Path):
    found = judged(published(place, PR315))
    held = {name for name, verdict in found.items() if verdict == verify.HOLDS}
    assert not failed(found)
    assert held == {
        "submission.json is whole", "one recipe over all seeds", "the script is the one that ran",
        "the code has the claimed bytes", "each score implies the split's bytes", "seconds are within the budgets",
        "submission.json says what logs and file say", "the headline is the seeds' score",
        "README.md says what logs and file say",
    }  # fmt: skip
    table = verify.verify(place).set_index("check")
    unknown = table[table["verdict"] == verify.UNKNOWN]
    assert unknown["evidence"].str.startswith("because ").all()
    assert "is not in the folder" in table.loc["artifact opens and is whole", "evidence"]
    assert "151,080,363" in table.loc["each score implies the split's bytes", "evidence"]


def test_the_ledger_of_false_claims_is_found_in_the_published_folders(place: Path, tmp_path: Path):
    """SEEDS.md 12: 194 and 531 over the cap, 531's wrong steps and another script than the logged, 543 too slow."""
    assert failed(judged(published(place / "194", PR194))) == {"file and code fit under the cap"}
    folder = published(place / "531", PR531)
    edit("README.md", "6,824", "5,722")(folder)
    (folder / "train_gpt.py").write_text((folder / "train_gpt.py").read_text() + "# fixed mistakes\n")
    assert failed(judged(folder)) == {
        "file and code fit under the cap", "the script is the one that ran", "the code has the claimed bytes",
        "README.md says what logs and file say",
    }  # fmt: skip
    one = {1337: (4071, "1.99308832", "1.18041917", 15_896_909, 15_949_473)}
    assert failed(judged(published(place / "543", one, train_ms=615_394))) == {"seconds are within the budgets"}


def test_a_denominator_that_grew_shows_in_the_implied_bytes(place: Path):
    better = {seed: (*row[:2], f"{float(row[2]) * 0.998:.8f}", *row[3:]) for seed, row in PR315.items()}
    assert failed(judged(published(place, better))) == {ARITHMETIC["implied"]}


def test_without_a_token_count_only_a_published_tokenizer_that_fits_is_believed(place: Path):
    folder = published(place, PR315, say_tokens=False)
    for log in folder.glob("*.log"):
        log.write_text(log.read_text().replace("fineweb_1024_bpe", "own"))
    assert judged(folder)[ARITHMETIC["implied"]] == verify.HOLDS
    assert "as of SP1024" in evidence(folder, ARITHMETIC["implied"])
    unlike = {seed: (*row[:2], f"{float(row[2]) * 1.3:.8f}", *row[3:]) for seed, row in PR315.items()}
    other = published(place.parent / "other", unlike, say_tokens=False)
    for log in other.glob("*.log"):
        log.write_text(log.read_text().replace("fineweb_1024_bpe", "own"))
    assert judged(other)[ARITHMETIC["implied"]] == verify.UNKNOWN


@pytest.mark.parametrize("vocab", [4096, 8192])
def test_the_bytes_are_the_same_whatever_the_tokenizer(place: Path, vocab: int):
    tokens = {4096: 45_508_608, 8192: 40_540_160}[vocab]
    bpb = 1.1
    loss = bpb * math.log(2) * 151_080_363 / tokens
    folder = published(place, {1: (7000, f"{loss:.8f}", f"{bpb:.8f}", 15_000_000, 15_060_000)}, say_tokens=False)
    for log in folder.glob("*.log"):
        text = log.read_text().replace("fineweb_1024_bpe", f"fineweb_{vocab}_bpe")
        log.write_text(re.sub(r"val_loss:1\.9279 val_bpb:1\.1418", f"val_loss:{loss:.4f} val_bpb:{bpb:.4f}", text))
    assert judged(folder)[ARITHMETIC["implied"]] == verify.HOLDS


def test_seed_tables_of_every_published_kind_are_read(place: Path):
    rows = {seed: {"val_loss": float(row[1]), "val_bpb": float(row[2]), "steps": row[0]} for seed, row in PR315.items()}
    mean = sum(row["val_bpb"] for row in rows.values()) / 3
    kinds = {
        "object": {"seed_results": rows, "val_bpb": mean},
        "list": {"seed_results": [{"seed": seed} | row for seed, row in rows.items()], "mean_val_bpb": mean},
        "names": {"seed_results": {f"seed_{seed}": row for seed, row in rows.items()}, "seeds": list(rows)},
    }
    for name, claims in kinds.items():
        found = judged(published(place / name, PR315, claims=json.loads(json.dumps(claims))))
        assert not failed(found), name
        assert found[ARITHMETIC["seeds"]] == found["submission.json says what logs and file say"] == verify.HOLDS
    rows[42]["val_bpb"] = 1.1001
    wrong = judged(published(place / "wrong", PR315, claims={"seed_results": rows}))
    assert "submission.json says what logs and file say" in failed(wrong)


def test_weights_of_another_format_are_weighed_and_not_opened(place: Path):
    folder = published(place, PR315)
    (folder / "final_model.int6.ptz").write_bytes(b"\x80\x04cos\nsystem\n")
    assert "final_model.int6.ptz (13 bytes) is not in this project's format" in evidence(
        folder, "artifact opens and is whole"
    )


def test_a_module_that_the_script_imports_from_the_folder_counts_as_code(place: Path):
    folder = published(place, PR315)
    (folder / "helper.py").write_text("x = 1\n")
    assert judged(folder)["the code has the claimed bytes"] == verify.HOLDS, "nothing imports it"
    text = (folder / "train_gpt.py").read_text()
    (folder / "train_gpt.py").write_text(text.replace("import os\n", "import helper\n"))
    assert "the code has the claimed bytes" in failed(judged(folder))


def test_later_logs_of_the_other_line_format_are_read(place: Path):
    folder = published(place, {42: (5000, "1.80000000", "1.06600000", 15_000_000, 15_060_000)})
    (folder / "train_seed42.log").write_text(
        "====\nHyperparameters:\n  seed: 42\n  vocab_size: 1024\n" + "val_tokens: 62021632\n"
        "5000/20000 val_loss: 1.8100 val_bpb: 1.0719 train_time: 9.8m\n"
        "quantized_sliding_window val_loss:1.80000000 val_bpb:1.06606000 eval_time:90000ms\n"
        "Total submission size quantized+brotli: 15060000 bytes\n"
    )
    change(folder / "submission.json", val_bpb=1.06606)
    found = judged(folder)
    assert found[ARITHMETIC["implied"]] == found["seconds are within the budgets"] == verify.HOLDS
    assert found["submission.json says what logs and file say"] == verify.HOLDS

"""One recipe over all seeds, by settings, code sizes and the shipped script."""

from pathlib import Path

import pytest
from published import PR315, edit, published
from record_forms import SETTINGS, add_lines, block, pr1493, sized_script
from reviewing import failing, judged

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS

ONE, CODE = "one recipe over all seeds", "the code has the claimed bytes"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "track_10min_16mb" / "one"


def with_blocks(place: Path, change: dict) -> Path:
    """Three seeds whose logs name settings, one of them others."""
    folder = published(place, PR315)
    code = sized_script((folder / "train_gpt.py").stat().st_size, *SETTINGS, "seed", "run_id", "logfile", "local_rank")
    for path in (folder / "train_gpt.py", *folder.glob("*.log")):
        start = path.read_text().find("=" * 100)
        path.write_text(code.rstrip("\n") + "\n" + (path.read_text()[start:] if start >= 0 else ""))
    own = {seed: SETTINGS | {"seed": str(seed), "run_id": f"run{seed}"} for seed in PR315}
    own[42] |= change
    add_lines(folder, {seed: block(settings) for seed, settings in own.items()}, "model_params")
    return folder


@pytest.mark.parametrize(
    ("change", "verdict", "why"),
    [
        ({}, HOLDS, "3 seeds, equal in 9 settings, code size, the scripts in the logs"),
        ({"logfile": "x.log", "local_rank": "3"}, HOLDS, "3 seeds, equal"),
        ({"matrix_lr": "0.03"}, FAILS, "matrix_lr differs: train_seed1337.log:"),
        ({"ttt_hash_buckets": "16384"}, FAILS, "has settings that the shipped code lacks: ttt_hash_buckets (line "),
        ({f"key_{at}": "1" for at in range(3)}, FAILS, "key_0 differs: "),
    ],
)
def test_settings_of_all_seeds_agree_but_for_those_of_one_run(place: Path, change: dict, verdict: str, why: str):
    folder = with_blocks(place, change)
    row = judged(folder, place)[ONE]
    assert row.verdict == verdict and why in row.evidence


def test_a_seed_that_ran_code_of_another_size_is_named(place: Path):
    folder = published(place, PR315)
    edit("train_seed42.log", r"Code size: \d+", "Code size: 67000")(folder)
    row = judged(folder, place)[ONE]
    assert row.verdict == FAILS and "code sizes differ: " in row.evidence and "train_seed42.log 67,000" in row.evidence


def test_the_seed_of_pr_1493_that_ran_another_script_is_named_and_nothing_else_fails(place: Path):
    folder = pr1493(place)
    assert failing(folder, place) == {ONE, CODE}
    evidence = judged(folder, place)[ONE].evidence
    for what in ("train_seed42.log 16,630", "train_seed314.log 16,594", "ttt_hash_buckets", "ttt_hash_embed"):
        assert what in evidence

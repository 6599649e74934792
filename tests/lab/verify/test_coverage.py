"""How much of the split a claimed score is of, in the wordings of logs and of submission.json."""

import math
from pathlib import Path

import pytest
from published import edit_logs
from record_forms import RULE, add_lines, claim, one_run
from reviewing import failing, judged

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN

BYTES = "a byte is counted once"
WHOLE, IMPLIED = "the whole split is scored", "each score implies the split's bytes"
BPB = "1.12526734"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "track_10min_16mb" / "one"


@pytest.mark.parametrize(
    ("lines", "verdict", "why"),
    [
        ([], HOLDS, "(62,021,632 tokens loaded)"),
        ([f"ppm mix_bpb={BPB} subset=8000000 tokens"], FAILS, "is of 8,000,000 tokens, the split has 62,021,632"),
        ([f"ppm: tokens=62021632 bytes=151078222 mix_bpb={BPB}"], HOLDS, "train_seed1337.log:"),
        ([f"cond_ppm tokens=62021632 bytes=164594398 mix_bpb={BPB}"], FAILS, "is of 164,594,398 bytes"),
        (["ppm: subset=8000000 tokens", f"mix_bpb={BPB}"], FAILS, "is of 8,000,000 tokens"),
        (["ppm: subset=8000000 tokens mix_bpb=0.99460000"], HOLDS, "no line with a claimed score names fewer"),
        (["ppm: subset=8000000 tokens", "a", "b", "c", "d", f"mix_bpb={BPB}"], HOLDS, "names fewer"),
        ([f"window tokens=2048 mix_bpb={BPB}"], HOLDS, "names fewer"),
        ([f"train_batch_tokens:524288 mix_bpb={BPB}"], HOLDS, "names fewer"),
    ],
)
def test_a_claimed_score_of_a_part_of_the_split_is_found_in_any_wording(place, lines, verdict, why):
    folder = one_run(place)
    add_lines(folder, {"all": lines}, "")
    row = judged(folder, place)[WHOLE]
    assert row.verdict == verdict and why in row.evidence


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"eval_token_count_per_seed": 62_021_632, "eval_canonical_byte_count_per_seed": 151_080_363}, HOLDS),
        ({"eval_token_count_per_seed": 9_662_464}, FAILS),
        ({"ttt_eval_chunk_tokens": 32_768}, HOLDS), ({"eval_byte_count": 164_594_398}, FAILS),
    ],
)  # fmt: skip
def test_counts_of_submission_json_are_held_against_the_split(place: Path, values: dict, verdict: str):
    folder = one_run(place)
    claim(folder, **values)
    assert judged(folder, place)[WHOLE].verdict == verdict


def test_a_split_that_was_cut_when_it_was_prepared_is_found(place: Path):
    """As PR 1854: 9,662,464 tokens of 10,000 documents, and no val_bpb in submission.json."""
    folder = one_run(place)
    bpb = 9_662_464 * 2.4 / (math.log(2) * 32_756_252)
    edit_logs(folder, r"tokens:62021632", "tokens:9662464")
    edit_logs(folder, r"fineweb_1024", "fineweb_8192")
    edit_logs(folder, r"(?<=window_exact ).*", f"val_loss:2.4 val_bpb:{bpb:.8f}")
    claim(folder, val_bpb=None, val_loss=None)
    row = judged(folder, place)[WHOLE]
    assert row.verdict == FAILS and "loads 9,662,464 validation tokens, the split has 40,540,160" in row.evidence


def test_bytes_that_a_wrong_table_adds_are_implied_by_loss_and_bpb(place: Path):
    """As PR 1865: 45,514,752 tokens x 2.5686 / (ln 2 x 0.8758) = 192.58 MB."""
    folder = one_run(place, row=(5000, "2.56860000", "0.87580000", 15_571_723, 15_639_340))
    edit_logs(folder, r"tokens:62021632", "tokens:45514752")
    edit_logs(folder, r"fineweb_1024", "fineweb_4096")
    assert IMPLIED in failing(folder, place)
    assert "192,58" in judged(folder, place)[IMPLIED].evidence


def test_a_space_counted_twice_is_found_in_the_table_and_in_the_bytes_that_the_scores_imply(place: Path):
    """As PR 1370: 177,827,958 bytes implied, and a log of `step N | val_loss x | val_bpb y`."""
    bpb = 62_021_632 * 2.0 / (math.log(2) * 177_827_958)
    folder = one_run(place, row=(5000, "2.00000000", f"{bpb:.8f}", 15_571_723, 15_639_340))
    edit_logs(folder, r"step:5000.*", f"step 5000 | val_loss 2.0000 | val_bpb {bpb:.4f}")
    rule = RULE.replace("        piece = piece[1:]\n", "").replace(
        "piece.encode", "piece.replace('\\u2581', ' ').encode"
    )
    (folder / "core.py").write_text(rule + "def score(t, p):\n    return base[t] + (space[t] & ~edge[p])\n")
    (folder / "train_gpt.py").write_text("exec(open('core.py').read())\n")
    found = judged(folder, place)
    assert found[IMPLIED].verdict == found[BYTES].verdict == FAILS
    assert "177,82" in found[IMPLIED].evidence and "core.py, line 1: a leading space counts 2" in found[BYTES].evidence


def test_where_nothing_says_how_much_was_scored_it_is_not_known(place: Path):
    folder = one_run(place)
    edit_logs(folder, r"val_loader.*\n", "")
    assert judged(folder, place)[WHOLE].verdict == UNKNOWN

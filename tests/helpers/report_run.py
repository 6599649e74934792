"""A run folder with all that a report reads, of three seeds that were never trained."""

import dataclasses
import json
from pathlib import Path

from run_folder import averaging_of, change, ledger_of, write_run

from pgolf_core.result import Result

RUN_SEEDS = [1337, 1338, 1339]
TARGETS, BYTES = 292_095, 854_885
DATA = {
    "dataset": "sotu-sp1024", "citation": "The addresses, <collected>.", "lossless": True, "train_documents": 230,
    "train_bytes": 11_330_866, "train_tokens": 3_871_003, "val_documents": 19, "val_bytes": BYTES,
    "val_tokens": TARGETS + 1,
}  # fmt: skip


def report_run(folder: Path) -> Path:
    """local-smoke's folder below `folder`, complete."""
    scores = {seed: 1.763 + 0.0031 * (seed - 1337) for seed in RUN_SEEDS}
    run = write_run(
        folder / "local-smoke", scores, ["eval.stride=64"], text_bytes=BYTES, targets=TARGETS, raw_targets=TARGETS
    )
    (run / "data.json").write_text(json.dumps(DATA))
    for seed in RUN_SEEDS:
        place = run / f"seed{seed}"
        parts = {"seconds": {"train": 100.0 + 0.0031 * (seed - 1337), "warmup": 20.0, "scoring": 30.5}}
        change(place / "result.json", **parts)
        change(place / "env.json", commit="0123abcd", hostname="secret", cwd="/home/me/secret")
        result = Result.read(place / "result.json")
        (place / "averaging.json").write_text(json.dumps(averaging_of(result)))
        (place / "ledger.json").write_text(json.dumps(dataclasses.asdict(ledger_of(result))))
        steps = [*range(0, 70, 10), result.steps]
        lines = [{"kind": kind, "step": s, "loss": 7 - i / 2} for i, s in enumerate(steps) for kind in ("train", "val")]
        lines[-1]["seconds"] = result.seconds["train"]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run

"""A run folder with all that a report reads, of three seeds that were never trained."""

import dataclasses
import json
from pathlib import Path

from run_folder import change, write_run

from pgolf_core.packing.ledger import Ledger
from pgolf_core.result import Result

RUN_SEEDS = [1337, 1338, 1339]
TARGETS, BYTES = 292_095, 854_885
DATA = {
    "dataset": "sotu-sp1024", "citation": "The addresses, <collected>.", "lossless": True, "train_documents": 230,
    "train_bytes": 11_330_866, "train_tokens": 3_871_003, "val_documents": 19, "val_bytes": BYTES,
    "val_tokens": TARGETS + 1,
}  # fmt: skip
TENSOR = {
    "name": "w", "grid": "int6_row", "shape": [100, 80], "elements": 8000, "raw_bytes": 8000, "scales_raw_bytes": 200,
    "compressed_bytes": 4100, "entropy_bytes": 4000,
}  # fmt: skip


def report_run(folder: Path) -> Path:
    """local-smoke's folder below `folder`, complete."""
    scores = {seed: 1.763 + 0.0031 * (seed - 1337) for seed in RUN_SEEDS}
    run = write_run(folder / "local-smoke", scores, text_bytes=BYTES, targets=TARGETS, raw_targets=TARGETS)
    (run / "data.json").write_text(json.dumps(DATA))
    for seed in RUN_SEEDS:
        place = run / f"seed{seed}"
        parts = {"seconds": {"train": 100.0 + 0.0031 * (seed - 1337), "warmup": 20.0, "scoring": 30.5}}
        change(place / "result.json", **parts)
        change(place / "env.json", commit="0123abcd", hostname="secret", cwd="/home/me/secret")
        result = Result.read(place / "result.json")
        spent = {"fp16_bytes": 0, "scales_bytes": 15_000, "header_bytes": 5_000, "file_bytes": result.artifact_bytes}
        ledger = Ledger(
            weights_bytes=result.artifact_bytes - 20_000, code_bytes=result.code_bytes, total_bytes=result.total_bytes,
            cap_bytes=result.cap_bytes, tensors=[TENSOR], **spent,
        )  # fmt: skip
        (place / "ledger.json").write_text(json.dumps(dataclasses.asdict(ledger)))
        lines = [{"kind": kind, "step": s, "loss": 7 - s / 20} for s in range(0, 80, 10) for kind in ("train", "val")]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (place / "model.pgolf").write_bytes(b"artifact")
    return run

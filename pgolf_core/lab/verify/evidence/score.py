"""Scores of `pgolf verify`: taken anew from the artifact alone, in a fresh process that is watched while it works.

One process for each artifact answers all that needs the model: its scores at the claimed strides, probabilities,
causality, and what it opened meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgolf_core.base.files import sha256_file
from pgolf_core.base.names import ADAPT_TRACE, SCORES
from pgolf_core.lab.shared.places import CORE_DIR, child_environment
from pgolf_core.lab.shared.progress import score_bar
from pgolf_core.lab.verify.evidence.checks import CannotCheck, OnlySampled, hold, once, require
from pgolf_core.lab.verify.evidence.process import Tell
from pgolf_core.lab.verify.evidence.text import Way
from pgolf_core.recipes.adapt import Adapt
from pgolf_core.recipes.recipe import Recipe, to_dict

if TYPE_CHECKING:
    from pgolf_core.lab.data.dataset import Dataset

TOLERANCE = 1e-6
"""Relative difference of a score taken twice on one kind of machine."""
OTHER_MACHINE = 1e-3
"""Within this, a machine that computes otherwise (device, dtype, kernel, threads) can neither confirm nor refute."""
SUM_TOLERANCE = 1e-8
"""Relative difference of a claimed score and the sum of its windows: half the last of eight digits."""
PROBABILITY_TOLERANCE = 1e-5
MAX_TOKENS_AT_ONCE = 2**20
"""Window x windows at once; a recipe.json that asks for more is not scored, since it could exhaust the memory."""

NOISE_TIMES, NOISE_ERRORS = 30, 10
"""What was kept of a window may lie so many times as far off as the worst of a few windows in this arithmetic is from
float64, and the mean of n windows so many times the worst / sqrt(n), besides twice the arithmetic's bias."""


@dataclasses.dataclass(frozen=True)
class How:
    """What whoever asks for a review may decide."""

    cache_dir: Path | str = ""
    """Where prepared datasets lie; empty: the user's."""
    budget_seconds: float | None = None
    """A score that would take longer becomes one of windows drawn at random."""
    progress: bool = False
    data: str = ""
    """Dataset of a submission, where it is not found by its size, or one to score an artifact on."""
    run_code: bool = False
    """Also run a submission's own script."""


@dataclasses.dataclass
class Scoring:
    """One artifact, one dataset, one way; `answer` starts the fresh process, once."""

    path: Path
    dataset: Dataset
    way: Way
    how: How
    script: Path | None = None
    scores: Path | None = None
    adapting: Recipe | None = None
    """Of a run that left a trace of adaptation beside the artifact."""

    @once
    def answer(self) -> dict[str, Any]:
        """What the process found; CannotCheck where the job is too large or the process did not live to answer."""
        import torch

        way, dataset = self.way, self.dataset
        is_way = 1 <= way.stride <= way.seq_len and way.batch_seqs > 0
        hold(is_way, f"a window of {way.seq_len} and a stride of {way.stride} are no way to score")
        adapt = self.adapting.adapt if self.adapting else Adapt()
        is_small = way.seq_len * max(way.batch_seqs, adapt.batch_seqs) <= MAX_TOKENS_AT_ONCE
        require(is_small, f"window x windows at once is more than {MAX_TOKENS_AT_ONCE:,} tokens")
        trace = self.path.parent / ADAPT_TRACE if self.adapting else None
        files = {"artifact": self.path, "tokenizer": dataset.tokenizer_path, "script": self.script,
                 "scores": self.scores, "trace": trace}  # fmt: skip
        named = {name: str(path.resolve()) if path else "" for name, path in files.items()}
        shards, sidecars, forbidden = (
            [str(path.resolve()) for path in paths]
            for paths in (dataset.val_paths, dataset.sidecar_paths, dataset.train_paths)
        )
        job = named | {
            "shards": shards,
            "forbidden": forbidden,
            "expected": [*filter(None, named.values()), *shards, *sidecars],
            "program": str(CORE_DIR),
            "recipe": to_dict(self.adapting) if self.adapting else {},
            "way": dataclasses.asdict(way),
            "budget_seconds": None if self.script else self.how.budget_seconds,
            "sample_seed": int(sha256_file(self.path)[:8], 16),
            "threads": torch.get_num_threads(),
        }
        shown = self.how.progress and not self.script
        with score_bar(f"{self.path.parent.name}/{self.path.name}", enabled=shown) as bar:
            found = ask(job, lambda part, done, total: bar(done, total))
        require("error" not in found, f"the fresh process could not score it: {found.get('error')}")
        return found

    def part(self, name: str) -> dict[str, Any]:
        """One part of the answer; CannotCheck with its error, Broken where a file of the run is no such file."""
        part = self.answer[name]
        hold("broken" not in part, part.get("broken", ""))
        require("error" not in part, part.get("error", ""))
        return part

    def score(self, kind: str) -> dict[str, Any]:
        """The `roundtrip` (stride = window) or `sliding` score, whole or sampled."""
        return self.part(f"stride {self.way.stride if kind == 'sliding' else self.way.seq_len}")


def ask(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Answer a job in a fresh process, in an empty folder of its own; it ends with us, whatever ends us."""
    command = [sys.executable, "-P", "-m", "pgolf_core.lab.verify.evidence.process"]
    with (
        tempfile.TemporaryDirectory(prefix="pgolf-verify-") as folder,
        tempfile.TemporaryFile() as question,
        tempfile.TemporaryFile() as errors,
    ):
        question.write(json.dumps(job).encode())
        question.seek(0)
        with subprocess.Popen(
            command, cwd=folder, env=child_environment(), stdin=question, stdout=subprocess.PIPE, stderr=errors
        ) as child:
            try:
                for line in child.stdout or ():
                    said = json.loads(line)
                    if "answer" in said:
                        return said["answer"]
                    tell(*said["progress"])
            finally:
                child.kill()
        errors.seek(0)
        last = errors.read()[-400:].decode("utf-8", errors="replace").strip().splitlines()[-1:]
    raise CannotCheck(f"the fresh process ended with status {child.returncode} ({''.join(last)})")


# ---------------------------------------------------------------------- verdicts on what was found


def judge_score(found: dict[str, Any], claims: dict[str, float], paths: tuple[str, ...] = ()) -> str:
    """Claimed bpb and loss (nats a token) against a score or a sample.

    `paths` are what computed here and there, where that is known: a small difference between unlike machines is
    neither confirmed nor refuted.
    """
    said = f"{claims['bpb']:.8f}" if "bpb" in claims else f"loss {claims['loss']:.8f}"
    if "n" in found:
        raise OnlySampled(_kept_windows(found, claims, paths) if "apart" in found else _sample(found, claims, said))
    difference = max(abs(found[key] - value) / abs(found[key]) for key, value in claims.items())
    evidence = (
        f"{found['bpb']:.8f} bpb here, {said} claimed; relative difference {difference:.1e} over "
        f"{found['tokens']:,} targets in {found['seconds']:.0f} s, in a fresh process"
    )
    if TOLERANCE < difference <= OTHER_MACHINE:
        _require_like_machines(evidence, paths)
    hold(difference <= TOLERANCE, evidence)
    return f"{evidence}; {_kept_windows(found, claims, paths)}" if "apart" in found else evidence


def _require_like_machines(evidence: str, paths: tuple[str, ...]) -> None:
    """CannotCheck unless both are known to compute alike: then a small difference refutes."""
    where = f"the run computed on [{paths[1]}], this machine on [{paths[0]}]" if paths else "no log says on what"
    require(bool(paths) and paths[0] == paths[1], f"{evidence}; {where}")


def _sample(found: dict[str, Any], claims: dict[str, float], text: str) -> str:
    evidence = (
        f"sampled: n = {found['n']:,} of {found['of']:,} windows (seed {found['sample_seed']}), "
        f"{found['bpb']:.6f} bpb, 95 % interval {found['low']:.6f} to {found['high']:.6f}; claimed {text}"
    )
    off = max(abs(value / found[key] - 1) for key, value in claims.items()) - TOLERANCE
    half, most = (found[end] / found["bpb"] - 1 for end in ("high", "highest"))  # in shares, which are the loss's too
    hold(off <= most, f"{evidence}, where one honest claim in a million lies")
    require(off <= half, f"{evidence}, outside it, as one honest claim in twenty: score more windows")
    return evidence


def kept_sums(found: dict[str, Any]) -> dict[str, float]:
    """The bpb and loss of all windows that the run kept; {} where it kept none."""
    from pgolf_core.network.score import bits_per_byte

    kept = found.get("kept_nats")
    return {"bpb": bits_per_byte(kept, found["bytes"]), "loss": kept / found["tokens"]} if kept else {}


def _kept_windows(found: dict[str, Any], claims: dict[str, float], paths: tuple[str, ...]) -> str:
    """Windows, each against the nats that the run kept of it; all that it kept sum to the claim, or it is false."""
    said = kept_sums(found)
    for key, value in claims.items():
        same = abs(said[key] - value) <= SUM_TOLERANCE * abs(value)
        hold(same, f"the windows in {SCORES} sum to {key} {said[key]:.8f}, and {value:.8f} is claimed")
    n, of, apart, allowed = found.get("n"), found["windows"], found["apart"], NOISE_TIMES * found["noise"]
    evidence = f"{n or of:,} of {of:,} windows, each within {apart:.1e} nats of {SCORES} ({allowed:.1e} allowed)"
    is_off = apart > allowed
    if n:  # of a whole score the sum is held to more digits already
        mean = NOISE_ERRORS * found["noise"] / math.sqrt(n) + 2 * found["bias"]
        is_off |= found["shift"] > mean
        evidence = (
            f"sampled: {evidence}, {found['shift']:.1e} on average ({mean:.1e}), drawn by seed {found['sample_seed']}; "
            f"were {1 - 0.05 ** (1 / n):.1%} of the windows false, 95 in 100 such samples would show it; all in "
            f"{SCORES} sum to the claimed {said['bpb']:.8f} bpb"
        )
    if is_off and apart <= OTHER_MACHINE * found["kept_nats"] / of:
        _require_like_machines(evidence, paths)
    return hold(not is_off, evidence)


def computing_path(mode: str, there: str) -> tuple[str, ...]:
    """What decides the last digits of a score, here and in the run: device, threads, dtype, attention kernel.

    () where nothing says it of the run.
    """
    if not there:
        return ()
    import torch

    from pgolf_core.base.device import autocast_dtype, describe, pick_device
    from pgolf_core.network.attention import kernel_name

    device = pick_device()
    here = describe(device, mode, "off", kernel_name(device.type, autocast_dtype(device, mode) is torch.bfloat16))
    return tuple(re.sub(r" \| graph: .*? \| ", " | ", line) for line in (here, there))


def probabilities(scoring: Scoring) -> str:
    """Sums of exp(-loss) over the vocabulary are one."""
    found = scoring.part("probabilities")
    worst = max(found["sums"], key=lambda total: abs(total - 1))
    return hold(
        abs(worst - 1) <= PROBABILITY_TOLERANCE,
        f"{worst:.8f} at worst, over {found['vocabulary']:,} tokens at {len(found['sums'])} places",
    )


def causality(scoring: Scoring) -> str:
    """No bit before a replaced token changes."""
    found = scoring.part("causality")
    evidence = (
        f"tokens from {found['places']} on replaced: {found['changed']} of {found['compared']:,} earlier positions "
        "change in any bit of a logit or score"
    )
    return hold(found["changed"] == 0, evidence)


def isolation(scoring: Scoring) -> str:
    """What the process opened and tried, as its audit hook saw it."""
    seen, shards = scoring.answer["seen"], len(scoring.dataset.train_paths)
    other = f"; also read: {', '.join(seen['other'])}" if seen["other"] else ""
    evidence = (
        f"audit hook of the fresh process: {len(seen['refused'])} attempts to reach a network or to open any of "
        f"{shards} training shards{''.join(f' ({what})' for what in seen['refused'])}; it read "
        f"{', '.join(seen['read'])} and programs{other}"
    )
    return hold(not seen["refused"] and not seen["other"] and len(seen["read"]) > 0, evidence)

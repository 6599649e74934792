"""Scores of `pgolf verify`: taken anew from the artifact alone, in a fresh process that is watched while it works.

One process for each artifact answers all that needs the model: its scores at the claimed strides, probabilities,
causality, and what it opened meanwhile.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgolf_core.base import device as machine
from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.lab.data.dataset import Dataset, open_dataset
from pgolf_core.lab.shared.places import CORE_DIR, child_environment
from pgolf_core.lab.shared.progress import score_bar
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, OnlySampled, hold, once
from pgolf_core.network.attention import kernel_name
from pgolf_core.text.shards import load_tokens
from pgolf_core.text.tokenizer import Tokenizer

TOLERANCE = 1e-6
"""Relative difference of a score taken twice on one kind of machine."""
OTHER_MACHINE = 1e-3
"""Within this, a machine that computes otherwise (device, dtype, kernel, threads) can neither confirm nor refute."""
PROBABILITY_TOLERANCE = 1e-5
MAX_TOKENS_AT_ONCE = 2**20
"""Window x windows at once; a recipe.json that asks for more is not scored, since it could exhaust the memory."""


@dataclass(frozen=True)
class Way:
    """How a score was taken."""

    seq_len: int
    stride: int
    """Of the sliding score; the round-trip score has stride = window."""
    batch_seqs: int = 32
    autocast: str = "auto"


class Scored:
    """What is reviewed and has an artifact to score: its dataset's tokenizer and validation tokens, read once.

    A kind of it says which `dataset` that is, and how its `scoring` is taken.
    """

    cache_dir: Path | str
    dataset: Dataset
    scoring: Scoring

    def opened(self, name: str) -> Dataset:
        """A prepared dataset; CannotCheck where it is not here or not whole."""
        try:
            return open_dataset(name, self.cache_dir or None)
        except UserError as error:
            raise CannotCheck(str(error)) from None

    @once
    def tokenizer(self) -> Tokenizer:
        return self.dataset.tokenizer()

    @once
    def tokens(self) -> np.ndarray:
        return load_tokens(self.dataset.val_paths, self.tokenizer.vocab_size)


class Scoring:
    """One artifact, one dataset, one way; `answer` starts the fresh process, once."""

    def __init__(
        self, path: Path, dataset: Dataset, way: Way, budget_seconds: float | None = None, progress: bool = False,
        script: Path | None = None,
    ):  # fmt: skip
        self.path, self.dataset, self.way = path, dataset, way
        self.budget_seconds, self.progress, self.script = budget_seconds, progress, script

    @once
    def answer(self) -> dict[str, Any]:
        """What the process found; CannotCheck where the job is too large or the process did not live to answer."""
        way = self.way
        if not 1 <= way.stride <= way.seq_len or way.batch_seqs < 1:
            raise Broken(f"a window of {way.seq_len} and a stride of {way.stride} are no way to score")
        if way.seq_len * way.batch_seqs > MAX_TOKENS_AT_ONCE:
            raise CannotCheck(f"window x windows at once is more than {MAX_TOKENS_AT_ONCE:,} tokens")
        dataset = self.dataset
        files = [self.path, dataset.tokenizer_path, *dataset.val_paths, *([self.script] if self.script else [])]
        job = {
            "artifact": str(self.path.resolve()),
            "shards": [str(path.resolve()) for path in dataset.val_paths],
            "tokenizer": str(dataset.tokenizer_path.resolve()),
            "forbidden": [str(path.resolve()) for path in dataset.train_paths],
            "expected": [str(path.resolve()) for path in files],
            "program": str(CORE_DIR),
            "script": str(self.script.resolve()) if self.script else "",
            "seq_len": way.seq_len,
            "strides": list(dict.fromkeys((way.seq_len, way.stride))),
            "batch_seqs": way.batch_seqs,
            "autocast": way.autocast,
            "budget_seconds": self.budget_seconds,
            "sample_seed": int(sha256_file(self.path)[:8], 16),
            "threads": torch.get_num_threads(),
        }
        with score_bar(f"{self.path.parent.name}/{self.path.name}", enabled=self.progress) as bar:
            found = ask(job, lambda done, total, part: bar(done, total))
        if "error" in found:
            raise CannotCheck(f"the fresh process could not score it: {found['error']}")
        return found

    def part(self, name: str) -> dict[str, Any]:
        """One part of the answer; CannotCheck with its error."""
        part = self.answer[name]
        if "error" in part:
            raise CannotCheck(part["error"].removeprefix("UserError: "))
        return part


def ask(job: dict[str, Any], tell: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Answer a job in a fresh process, in an empty folder of its own; it ends with us, whatever ends us."""
    command = [sys.executable, "-P", "-m", "pgolf_core.lab.verify.evidence.process"]
    with tempfile.TemporaryDirectory(prefix="pgolf-verify-") as folder, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, cwd=folder, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            child.stdin.write(json.dumps(job).encode())
            child.stdin.close()
            for line in child.stdout:
                said = json.loads(line)
                if "answer" in said:
                    return said["answer"]
                tell(*said["progress"])
        except BrokenPipeError:
            pass
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        errors.seek(0)
        last = errors.read()[-400:].decode("utf-8", errors="replace").strip().splitlines()[-1:]
    raise CannotCheck(f"the fresh process ended with status {child.returncode} ({''.join(last)})")


# ---------------------------------------------------------------------- verdicts on what was found


def judge_score(found: dict[str, Any], claims: dict[str, float], paths: tuple[str, str] | None = None) -> str:
    """Claimed bpb and loss (nats a token) against a score or a sample.

    `paths` are what computed here and there, where that is known: a small difference between unlike machines is
    neither confirmed nor refuted.
    """
    if "n" in found:
        return _judge_sample(found, claims)
    differences = {key: abs(found[key] - said) / abs(found[key]) for key, said in claims.items()}
    difference = max(differences.values())
    evidence = (
        f"{found['bpb']:.8f} bpb here, {_said(claims)} claimed; relative difference {difference:.1e} over "
        f"{found['tokens']:,} targets in {found['seconds']:.0f} s, in a fresh process"
    )
    if TOLERANCE < difference <= OTHER_MACHINE and (paths is None or paths[0] != paths[1]):
        where = f"the run computed on [{paths[1]}], this machine on [{paths[0]}]" if paths else "no log says on what"
        raise CannotCheck(f"{evidence}; {where}")
    return hold(difference <= TOLERANCE, evidence)


def _judge_sample(found: dict[str, Any], claims: dict[str, float]) -> str:
    loss = (found["loss"] - found["loss_half"], found["loss"] + found["loss_half"])
    outside = [key for key, low, high in (("bpb", found["low"], found["high"]), ("loss", *loss))
               if key in claims and not low * (1 - TOLERANCE) <= claims[key] <= high * (1 + TOLERANCE)]  # fmt: skip
    evidence = (
        f"sampled: n = {found['n']:,} of {found['of']:,} windows (seed {found['sample_seed']}), "
        f"{found['bpb']:.6f} bpb, 95 % interval {found['low']:.6f} to {found['high']:.6f}; claimed {_said(claims)}"
    )
    if outside:
        raise Broken(f"{evidence}, outside it")
    raise OnlySampled(evidence)


def _said(claims: dict[str, float]) -> str:
    return f"{claims['bpb']:.8f}" if "bpb" in claims else f"loss {claims['loss']:.8f}"


def judge_probabilities(found: dict[str, Any]) -> str:
    """Sums of exp(-loss) over the vocabulary."""
    sums = found["sums"]
    worst = max(sums, key=lambda total: abs(total - 1))
    return hold(
        abs(worst - 1) <= PROBABILITY_TOLERANCE,
        f"{worst:.8f} at worst, over {found['vocabulary']:,} tokens at {len(sums)} places",
    )


def judge_causality(found: dict[str, Any]) -> str:
    """No bit before a replaced token changes, and some after it does."""
    evidence = (
        f"tokens from {found['places']} on replaced: {found['changed']} of {found['compared']:,} earlier positions "
        "change in any bit of a logit or score"
    )
    return hold(found["changed"] == 0, evidence)


def probabilities(one: Scored) -> str:
    """The check of that name, of whatever has a scoring."""
    return judge_probabilities(one.scoring.part("probabilities"))


def causality(one: Scored) -> str:
    """The check of that name, of whatever has a scoring."""
    return judge_causality(one.scoring.part("causality"))


def judge_isolation(found: dict[str, Any], dataset: Dataset) -> str:
    """What the process opened and tried, as its audit hook saw it."""
    seen, shards = found["seen"], len(dataset.train_paths)
    other = f"; also read: {', '.join(seen['other'])}" if seen["other"] else ""
    evidence = (
        f"audit hook of the fresh process: {len(seen['refused'])} attempts to reach a network or to open any of "
        f"{shards} training shards{''.join(f' ({what})' for what in seen['refused'])}; it read "
        f"{', '.join(seen['read'])} and programs{other}"
    )
    return hold(not seen["refused"] and not seen["other"] and len(seen["read"]) > 0, evidence)


def computing_path(mode: str, there: str) -> tuple[str, str]:
    """What decides the last digits of a score, here and in the run: device, threads, dtype, attention kernel."""
    device = machine.pick_device()
    is_half = machine.autocast_dtype(device, mode) is torch.bfloat16
    here = machine.describe(device, mode, "off", kernel_name(device.type, is_half))
    return tuple(re.sub(r" \| graph: .*? \| ", " | ", line) for line in (here, there))

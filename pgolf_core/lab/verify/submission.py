"""Checks of `pgolf verify` on a submission folder: this project's, or any of the published form (SEEDS.md 15).

Each check holds, fails, or cannot be made with what the folder holds. A published folder has no weight file, so what
its scores rest on is its logs, whose numbers bind one another: tokens x nats / (ln 2 x bpb) must be the text's bytes.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgolf_core.base.files import sha256_bytes, sha256_file
from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.verify import run_bytes as verify_bytes
from pgolf_core.lab.verify.evidence import score as verify_score
from pgolf_core.lab.verify.evidence.checks import (
    Broken,
    CannotCheck,
    OnlySampled,
    Row,
    hold,
    is_number,
    json_object,
    judge,
    once,
    plain,
    quietly,
)
from pgolf_core.lab.verify.implied import implied_by_every_pair
from pgolf_core.lab.verify.reading import claims as verify_claims
from pgolf_core.lab.verify.reading.folder import Submission
from pgolf_core.lab.verify.run import BUDGET_SECONDS
from pgolf_core.lab.verify.run_bytes import artifact_rows
from pgolf_core.recipes.rules import TRACK_CAP_BYTES

SUSPICIOUS = ("socket", "urllib", "http", "requests", "ftplib", "httpx", "aiohttp", "huggingface_hub", "subprocess")


def submission_rows(folder: Path, **how: Any) -> list[Row]:
    """All checks of one folder."""
    checked = _Checked(folder, **how)
    rows = [judge(name, functools.partial(check, checked)) for name, check in BEFORE.items()]
    rows += _artifact_rows(checked)
    return rows + [judge(name, functools.partial(check, checked)) for name, check in AFTER.items()]


class _Checked(Submission):
    """A submission folder and what was found out about it."""

    @once
    def artifact_seed(self) -> int | None:
        """The seed whose artifact lies in the folder: by hash, by size; None where no file says."""
        verify_bytes.header_of(self.artifact)  # which refuses what is too large to be hashed
        digest, size = sha256_file(self.artifact), self.artifact.stat().st_size
        hashed = {seed: row["artifact_sha256"] for seed, row in self.seed_claims.items() if "artifact_sha256" in row}
        if hashed:
            return hold_one([seed for seed, said in hashed.items() if said == digest], "hash of the artifact")
        sized = [
            seed for seed, row in self.seed_claims.items()
            if any(row.get(key) == size for key in verify_claims.KEYS["model_bytes"])
        ]  # fmt: skip
        if sized:
            return hold_one(sized, f"size of the artifact, {size:,} bytes,")
        return self.seeds[0] if len(self.seeds) == 1 else None

    @once
    def known(self) -> dict[int, dict[str, verify_claims.Fact]]:
        """Numbers of every seed, taken anew where they could be, else logged."""
        anew: dict[int, dict[str, float]] = {}
        seed = quietly(lambda: self.artifact_seed)
        if seed is not None:
            sizes = {"model_bytes": self.artifact.stat().st_size}
            code = quietly(lambda: self.code_bytes)
            if code is not None:
                sizes |= {"code_bytes": code, "total_bytes": sizes["model_bytes"] + code}
            anew[seed] = sizes | self._decisive(quietly(lambda: self._scores) or {}, seed)
        return verify_claims.facts(self, anew)

    def _decisive(self, scores: dict[str, float], seed: int) -> dict[str, float]:
        """Scores that confirm or refute what is claimed: not those that another machine may find a little otherwise."""
        kept = {}
        for name, value in scores.items():
            said = quietly(lambda name=name: verify_claims.claimed(self.seed_claims.get(seed) or self.claims, name))
            off = abs(float(said) - value) / value if said else 0.0
            if off <= verify_score.TOLERANCE or off > verify_score.OTHER_MACHINE or verify_claims.is_score(said, value):
                kept[name] = value
        return kept

    @once
    def _scores(self) -> dict[str, float]:
        found = {}
        for prefix, stride in (("", self.way.stride), ("roundtrip_", self.way.seq_len)):
            part = self.scoring.part(f"stride {stride}")
            if "n" not in part:
                found |= {f"{prefix}bpb": part["bpb"], f"{prefix}loss": part["loss"]}
        return found

    @once
    def code_bytes(self) -> int:
        """Literal bytes of the code: the script and what it imports from the folder, else all of pgolf_core/."""
        package = [name for name in self.files if re.fullmatch(r"pgolf_core/\w+\.py", name)]
        names = quietly(lambda: self.code_files) or package
        if not names:
            raise CannotCheck("there is no script")
        return sum(self.files[name].stat().st_size for name in names)


def hold_one(seeds: list[int], what: str) -> int:
    """The one seed; Broken for none, CannotCheck for several."""
    if not seeds:
        raise Broken(f"the {what} is that of no seed in submission.json")
    if len(seeds) > 1:
        raise CannotCheck(f"the {what} is that of seeds {seeds}")
    return seeds[0]


# ---------------------------------------------------------------------- files, seeds, code


def _whole(folder: _Checked) -> str:
    if SUBMISSION_FILE not in folder.files:
        raise Broken("there is no submission.json")
    values = json_object(folder.files[SUBMISSION_FILE])
    missing = [key for key in ("name", "author", "date") if not isinstance(values.get(key), str)]
    hold(not missing, f"it names no {', '.join(missing)}")
    for name in ("bpb", "loss", "total_bytes"):
        verify_claims.claimed(values, name)
    score = verify_claims.claimed(values, "bpb") or next(
        (str(values[key]) for key in verify_claims.MEANS if is_number(values.get(key))), None
    )
    hold(score is not None and 0 < float(score) < 100, f"val_bpb {score} is no score")
    said = f"{float(score):.6f} bpb claimed"
    return f"{values['name']!s:.80}, by {values['author']!s:.60}, {values['date']!s:.10}: {said}"


def _nothing_missing(folder: _Checked) -> str:
    wanted = {"README.md": any(name.lower().startswith("readme") and "/" not in name for name in folder.files)}
    wanted |= {SUBMISSION_FILE: SUBMISSION_FILE in folder.files}
    wanted |= {"a script": any(name.endswith(".py") for name in folder.files)}
    wanted |= {"a log": any(name.endswith((".log", ".txt")) and name != "requirements.txt" for name in folder.files)}
    missing = [name for name, there in wanted.items() if not there]
    hold(not missing, f"missing: {', '.join(missing)}")
    logs = folder.logs
    hold(bool(logs), "no log holds a training step")
    seeds = sorted(seed for seed in folder.runs if seed is not None)
    without = [seed for seed in folder.seeds if seed not in seeds]
    evidence = f"{len(logs)} log(s), of seeds {', '.join(map(str, seeds)) or 'that none names'}"
    if without and None in folder.runs:
        raise CannotCheck(f"{evidence}; submission.json names {without}, and a log does not say of which seed it is")
    hold(not without, f"{evidence}; submission.json also names seeds {', '.join(map(str, without))}")
    unnamed = [seed for seed in seeds if folder.seeds and seed not in folder.seeds]
    hold(not unnamed, f"logs of seeds {unnamed}, which submission.json does not name: {folder.seeds}")
    if not folder.seeds:
        raise CannotCheck(f"submission.json names no seeds; {evidence}")
    return evidence


def _same_recipe(folder: _Checked) -> str:
    logs = list(folder.runs.values())
    settings = {key for log in logs for key in log.settings}
    for key in sorted(settings):
        found = {log.settings.get(key) for log in logs}
        hold(len(found) == 1, f"logs differ: {' / '.join(sorted(map(str, found)))}")
    scripts = {sha256_bytes(log.script.encode()) for log in logs if log.script}
    hold(len(scripts) < 2, "the logs begin with different scripts")
    if len(logs) < 2:
        raise CannotCheck(f"there is the log of one seed only ({len(settings)} settings in it)")
    hold(bool(settings), "no log names a setting")
    return f"{len(logs)} seeds, {len(settings)} settings equal{', and the scripts in the logs' if scripts else ''}"


def _logged_script(folder: _Checked) -> str:
    logs = [log for log in folder.logs if log.script]
    if not logs:
        raise CannotCheck("no log begins with its script")
    shipped = folder.script.strip()
    for log in logs:
        hold(log.script.strip() == shipped, f"{log.name} begins with another script than {folder.script_path.name}")
    return f"{len(logs)} log(s) begin with {folder.script_path.name}, character for character"


def _code(folder: _Checked) -> str:
    size = folder.code_bytes
    said = {key: folder.claims[key] for key in ("bytes_code", "code_bytes") if folder.claims.get(key) is not None}
    hold(all(map(is_number, said.values())), f"submission.json: {' and '.join(said)} must be numbers")
    for log in folder.logs:
        said |= {f"{log.name}'s code size": number for number in log.code_bytes}
    names = quietly(lambda: folder.code_files) or ["pgolf_core/*.py"]
    evidence = f"{', '.join(names[:4])}{' …' if len(names) > 4 else ''}: {size:,} bytes"
    if not said:
        raise CannotCheck(f"no file says how many bytes the code has; {evidence}")
    wrong = [f"{key} {value:,}" for key, value in said.items() if value != size]
    hold(not wrong, f"{evidence}; claimed: {', '.join(wrong[:4])}")
    return f"{evidence}, as claimed"


def _cap(folder: _Checked) -> str:
    """Literal bytes where they are here; where the weight file is not, every claimed and logged total."""
    cap = TRACK_CAP_BYTES[folder.track]
    totals = {f"{key} {folder.claims[key]:,}": folder.claims[key] for key in verify_claims.KEYS["total_bytes"]
              if is_number(folder.claims.get(key))}  # fmt: skip
    totals |= {f"seed {seed} {row[key]:,}": row[key] for seed, row in folder.seed_claims.items()
               for key in verify_claims.KEYS["total_bytes"] if is_number(row.get(key))}  # fmt: skip
    for log in quietly(lambda: folder.logs) or ():
        totals |= {f"{log.name} {total:,}": total for total in log.total_bytes[-1:]}
    over = [text for text, total in totals.items() if total > cap]
    hold(not over, f"over the cap of {cap:,}: {', '.join(over[:4])}")
    if not folder.artifacts:
        said = "; ".join(list(totals)[:4]) or "no total is named"
        raise CannotCheck(f"{folder.no_artifact}; below the cap of {cap:,} by its own words: {said}")
    code, size = folder.code_bytes, folder.artifact.stat().st_size
    evidence = hold(size + code <= cap, f"file {size:,} + code {code:,} = {size + code:,}; cap {cap:,}")
    own = folder.seed_claims.get(folder.artifact_seed, {}) if folder.artifact_seed is not None else {}
    for values, where in ((own, f"seed {folder.artifact_seed}"), (folder.claims, SUBMISSION_FILE)):
        for name, real in (("total_bytes", size + code), ("model_bytes", size)):
            said = verify_claims.claimed(values, name)
            hold(said is None or float(said) == real, f"{evidence}; {where} claims {name} {said}")
    log = (quietly(lambda: folder.runs) or {}).get(folder.artifact_seed)
    for logged, real in ((log.total_bytes, size + code), (log.model_bytes, size)) if log else ():
        hold(not logged or real in logged, f"{evidence}; {log.name} says {logged[-1]:,}" if logged else "")
    return evidence


def _artifact_rows(folder: _Checked) -> list[Row]:
    found = quietly(lambda: folder.artifacts)
    if not found:
        return [judge("artifact opens and is whole", lambda: str(folder.artifact))]
    names = {path: path.relative_to(folder.folder).as_posix() for path in found}
    return [(plain(f"{names[path]}: {name}"), *rest) for path in found for name, *rest in artifact_rows(path)]


def _hash(folder: _Checked) -> str:
    seed = folder.artifact_seed
    if seed is None:
        raise CannotCheck("no file says of which seed the artifact is")
    return f"it is seed {seed}'s"


# ---------------------------------------------------------------------- the scored text


def _once(folder: _Checked) -> str:
    hold(bool(folder.artifact), "")
    targets, said = len(folder.tokens) - 1, folder.claims.get("val_targets")
    hold(said is None or said == targets, f"{targets:,} targets, submission.json says {said}")
    once_each = verify_bytes.scored_once(folder.tokens, folder.way.seq_len, folder.way.stride)
    return f"{once_each}; {verify_bytes.all_documents(folder.dataset, folder.tokens, folder.tokenizer.bos_id)}"


def _text(folder: _Checked) -> str:
    counted, kind = verify_bytes.decoded_bytes(folder.dataset, folder.tokenizer, folder.tokens)
    return f"{folder.dataset.name}: text {counted:,} bytes{kind}, its tokens the same"


def _track_text(folder: _Checked) -> str:
    return verify_bytes.is_text_of_track(
        folder.track, folder.dataset, folder.tokenizer.bytes.total(folder.tokens)
    )  # fmt: skip


# ---------------------------------------------------------------------- what needs the model


def _score(folder: _Checked, kind: str) -> str:
    found = folder.scoring.part(f"stride {folder.way.stride if kind == 'sliding' else folder.way.seq_len}")
    seed = folder.artifact_seed
    if seed is None:
        raise CannotCheck(f"no file says of which seed the artifact is; it scores {found['bpb']:.8f} bpb")
    values = folder.seed_claims.get(seed) or (folder.claims if len(folder.seeds) < 2 else {})
    names = {"bpb": "bpb", "loss": "loss"} if kind == "sliding" else {"bpb": "roundtrip_bpb"}
    texts = {key: verify_claims.claimed(values, name) for key, name in names.items()}
    claims = {key: float(text) for key, text in texts.items() if text}
    if "bpb" not in claims:
        raise CannotCheck(f"submission.json names no such score of seed {seed}; it is {found['bpb']:.8f} bpb")
    if "n" not in found and all(verify_claims.is_score(texts[key], found[key]) for key in claims):
        return f"{found['bpb']:.8f} bpb here over {found['tokens']:,} targets; seed {seed} claims {texts['bpb']}"
    there = folder.computed_on
    paths = verify_score.computing_path(folder.way.autocast, there) if there else None
    return verify_score.judge_score(found, claims, paths)


def _isolation(folder: _Checked) -> str:
    if not folder.artifacts:
        named = sorted(set(re.findall(r"^\s*(?:import|from)\s+(\w+)", quietly(lambda: folder.script) or "", re.M)))
        found = [name for name in named if name in SUSPICIOUS]
        raise CannotCheck(f"{folder.no_artifact}, and the script is not run (it imports {', '.join(found) or 'none'} "
                          "of what reaches a network)")  # fmt: skip
    return verify_score.judge_isolation(folder.scoring.answer, folder.dataset)


def _own_script(folder: _Checked) -> str:
    if not folder.run_code:
        raise CannotCheck("nothing of a reviewed folder is run without --run-code")
    hold(bool(folder.artifact), "")
    run = verify_score.Scoring(folder.artifact, folder.dataset, folder.way, script=folder.script_path)
    found = run.part("script")
    if "missing" in found:
        raise CannotCheck(found["missing"])
    mine = folder.scoring.part(f"stride {folder.way.stride}")
    if "n" in mine:
        within = mine["low"] <= found["bpb"] <= mine["high"]
        evidence = f"its own code gives {found['bpb']:.8f} bpb, a sample {mine['low']:.6f} to {mine['high']:.6f}"
        raise OnlySampled(hold(within, evidence))
    verify_score.judge_isolation(run.answer, folder.dataset)
    same = math.isclose(found["bpb"], mine["bpb"], rel_tol=verify_score.TOLERANCE)
    return hold(same, f"its own code gives {found['bpb']:.8f} bpb, this program's {mine['bpb']:.8f}")


# ---------------------------------------------------------------------- time, data, claims


def _seconds(folder: _Checked) -> str:
    trained = {log.name: log.train_ms / 1000 for log in folder.logs if log.train_ms is not None}
    for seed, row in folder.seed_claims.items():
        said = verify_claims.claimed(row, "train_seconds")
        trained |= {f"seed {seed}": float(said)} if said else {}
    if not trained:
        raise CannotCheck("no log has a training time")
    steps = {log.name: log.train_ms / 1000 / max(log.steps, 1) for log in folder.logs if log.train_ms}
    late = [f"{name} {value:.1f} s" for name, value in trained.items()
            if value > BUDGET_SECONDS + 2 * max(steps.values(), default=0.0)]  # fmt: skip
    hold(not late, f"training took longer than {BUDGET_SECONDS} s: {', '.join(late[:4])}")
    scored = {log.name: sum(log.eval_ms) / 1000 for log in folder.logs if log.eval_ms}
    slow = [f"{name} {value:.1f} s" for name, value in scored.items() if value > BUDGET_SECONDS]
    hold(not slow, f"evaluation took longer than {BUDGET_SECONDS} s: {', '.join(slow[:4])}")
    evidence = f"training {min(trained.values()):.1f} to {max(trained.values()):.1f} s of {BUDGET_SECONDS}"
    if not scored:
        raise CannotCheck(f"no log has an evaluation time; {evidence}")
    return (
        f"{evidence}, evaluation {min(scored.values()):.1f} to {max(scored.values()):.1f} s; outside the timers, and "
        "in no log: start, warm-up, validation while training, packing"
    )


def _data(folder: _Checked) -> str:
    hold(bool(folder.artifact), "")
    return verify_bytes.whole_dataset(folder.dataset, folder.progress)


def _json_numbers(folder: _Checked) -> str:
    return verify_claims.json_against_facts(folder, folder.known)


def _before_packing(folder: _Checked) -> str:
    return verify_claims.before_packing(folder)


def _headline(folder: _Checked) -> str:
    return verify_claims.headline(folder, folder.known)


def _readme_numbers(folder: _Checked) -> str:
    return verify_claims.readme_against_facts(folder, folder.known)


BEFORE: dict[str, Callable[[_Checked], str]] = {
    "submission.json is whole": _whole,
    "no seed and no log is missing": _nothing_missing,
    "one recipe over all seeds": _same_recipe,
    "the script is the one that ran": _logged_script,
    "the code has the claimed bytes": _code,
    "file and code fit under the cap": _cap,
}
AFTER: dict[str, Callable[[_Checked], str]] = {
    "the artifact is a seed's": _hash,
    "the dataset is whole, its splits apart": _data,
    "the text is the track's": _track_text,
    "every target is scored once": _once,
    "bytes are those of the decoded text": _text,
    "each score implies the split's bytes": implied_by_every_pair,
    "probabilities sum to one": verify_score.probabilities,
    "no logit sees a later token": verify_score.causality,
    "round-trip score from the file alone": functools.partial(_score, kind="roundtrip"),
    "sliding score from the file alone": functools.partial(_score, kind="sliding"),
    "no network, no training data while scoring": _isolation,
    "its own script scores the file alike": _own_script,
    "seconds are within the budgets": _seconds,
    "submission.json says what logs and file say": _json_numbers,
    "scores before packing are the logs'": _before_packing,
    "the headline is the seeds' score": _headline,
    "README.md says what logs and file say": _readme_numbers,
}

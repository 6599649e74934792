"""Checks of `pgolf verify` on a submission folder: this project's, or any of the published form.

Each check holds, fails, or cannot be made with what the folder holds. A published folder has no weight file, so what
its scores rest on is its logs, whose numbers bind one another: tokens x nats / (ln 2 x bpb) must be the text's bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgolf_core.base.files import sha256_bytes
from pgolf_core.lab.shared.places import SUBMISSION_FILE
from pgolf_core.lab.verify.evidence.checks import (
    CannotCheck,
    OnlySampled,
    Row,
    hold,
    judge,
    judge_all,
    plain,
    quietly,
    require,
)
from pgolf_core.lab.verify.evidence.score import TOLERANCE, How, Scoring, computing_path, isolation, judge_score
from pgolf_core.lab.verify.implied import implied_by_every_pair
from pgolf_core.lab.verify.reading.claims import MEANS, Judged, before_packing, headline, json_numbers, readme_numbers
from pgolf_core.lab.verify.reading.folder import KEYS, LOG_ENDINGS, claimed, imports_of
from pgolf_core.lab.verify.reading.reviewed import MODEL_CHECKS, TEXT_CHECKS
from pgolf_core.lab.verify.reading.untrusted import is_number, is_score, json_object
from pgolf_core.lab.verify.run import BUDGET_SECONDS
from pgolf_core.lab.verify.run_bytes import artifact_rows
from pgolf_core.recipes.rules import TRACK_CAP_BYTES

TIMED = r"(?!.*non.?record).*10.?min"
"""Tracks with a clock; what is not for the record may take as long as it likes."""
UNTIMED = "start, warm-up, validation while training, packing"
SUSPICIOUS = ("socket", "urllib", "http", "requests", "ftplib", "httpx", "aiohttp", "huggingface_hub", "subprocess")


class Checked(Judged):
    """A submission folder whose scores are judged."""

    def judge_score(self, kind: str) -> str:
        found, seed = self.scoring.score(kind), self.artifact_seed
        about = f"{found['bpb']:.8f} bpb"
        if seed is None:
            raise CannotCheck(f"no file says of which seed the artifact is; it scores {about}")
        values = self.seed_claims.get(seed) or (self.claims if len(self.seeds) < 2 else {})
        names = {"bpb": "bpb", "loss": "loss"} if kind == "sliding" else {"bpb": "roundtrip_bpb"}
        said = {key: text for key, name in names.items() if (text := claimed(values, name))}
        require("bpb" in said, f"{SUBMISSION_FILE} names no such score of seed {seed}; it is {about}")
        if "n" not in found and all(is_score(text, found[key]) for key, text in said.items()):
            return f"{about} here over {found['tokens']:,} targets; seed {seed} claims {said['bpb']}"
        paths = computing_path(self.way.autocast, self.computed_on) if self.computed_on else ()
        return judge_score(found, {key: float(text) for key, text in said.items()}, paths)

    def judge_isolation(self) -> str:
        if not self.artifacts:
            named = sorted({name.partition(".")[0] for name in imports_of(self.source)} & set(SUSPICIOUS))
            imported = f"(it imports {', '.join(named) or 'none'} of what reaches a network)"
            raise CannotCheck(f"{self.no_artifact}, and the script is not run {imported}")
        return super().judge_isolation()


def submission_rows(folder: Path, how: How) -> list[Row]:
    """All checks of one folder."""
    one = Checked(folder, how)
    return judge_all(BEFORE, one) + _artifact_rows(one) + judge_all(AFTER, one)


def _artifact_rows(folder: Checked) -> list[Row]:
    found = quietly(lambda: folder.artifacts)
    if not found:
        return [judge("artifact opens and is whole", lambda: str(folder.artifact))]
    names = {path: plain(path.relative_to(folder.folder).as_posix()) for path in found}
    return [row._replace(check=f"{names[path]}: {row.check}") for path in found for row in artifact_rows(path)]


# ---------------------------------------------------------------------- files, seeds, code


def _whole(folder: Checked) -> str:
    hold(SUBMISSION_FILE in folder.files, f"there is no {SUBMISSION_FILE}")
    values = json_object(folder.files[SUBMISSION_FILE])
    missing = [key for key in ("name", "author", "date") if not isinstance(values.get(key), str)]
    hold(not missing, f"it names no {', '.join(missing)}")
    said = {name: claimed(values, name) for name in ("bpb", "loss", "total_bytes")}
    means = [values[key] for key in MEANS if is_number(values.get(key))]
    score = float(said["bpb"] or next(iter(means), 0))
    hold(0 < score < 100, f"val_bpb {said['bpb']} is no score")
    return f"{values['name']:.80}, by {values['author']:.60}, {values['date']:.10}: {score:.6f} bpb claimed"


def _nothing_missing(folder: Checked) -> str:
    there = {
        "README.md": [name for name in folder.files if name.lower().startswith("readme") and "/" not in name],
        SUBMISSION_FILE: [name for name in folder.files if name == SUBMISSION_FILE],
        "a script": [name for name in folder.files if name.endswith(".py")],
        "a log": [name for name in folder.files if name.endswith(LOG_ENDINGS) and name != "requirements.txt"],
    }
    missing = [name for name, found in there.items() if not found]
    hold(not missing, f"missing: {', '.join(missing)}")
    hold(bool(folder.logs), "no log holds a training step")
    logged, named = sorted(seed for seed in folder.runs if seed is not None), folder.seeds
    without = [seed for seed in named if seed not in logged]
    evidence = f"{len(folder.logs)} log(s), of seeds {', '.join(map(str, logged)) or 'that none names'}"
    is_unsaid = f"{evidence}; {SUBMISSION_FILE} names {without}, and a log does not say of which seed it is"
    require(not without or None not in folder.runs, is_unsaid)
    hold(not without, f"{evidence}; {SUBMISSION_FILE} also names seeds {', '.join(map(str, without))}")
    unnamed = [seed for seed in logged if named and seed not in named]
    hold(not unnamed, f"logs of seeds {unnamed}, which {SUBMISSION_FILE} does not name: {named}")
    require(bool(named), f"{SUBMISSION_FILE} names no seeds; {evidence}")
    return evidence


def _same_recipe(folder: Checked) -> str:
    logs = list(folder.runs.values())
    settings = {key for log in logs for key in log.settings}
    for key in sorted(settings):
        found = {log.settings.get(key) for log in logs}
        hold(len(found) == 1, f"logs differ: {' / '.join(sorted(map(str, found)))}")
    scripts = {sha256_bytes(log.script.encode()) for log in logs if log.script}
    hold(len(scripts) < 2, "the logs begin with different scripts")
    require(len(logs) > 1, f"there is the log of one seed only ({len(settings)} settings in it)")
    hold(bool(settings), "no log names a setting")
    return f"{len(logs)} seeds, {len(settings)} settings equal{', and the scripts in the logs' if scripts else ''}"


def _logged_script(folder: Checked) -> str:
    logs, name = [log for log in folder.logs if log.script], folder.script_path.name
    require(bool(logs), "no log begins with its script")
    for log in logs:
        hold(log.script.strip() == folder.script.strip(), f"{log.name} begins with another script than {name}")
    return f"{len(logs)} log(s) begin with {name}, character for character"


def _code(folder: Checked) -> str:
    size, names = folder.code_bytes, folder.code_files
    said = {key: folder.claims[key] for key in KEYS["code_bytes"] if folder.claims.get(key) is not None}
    hold(all(map(is_number, said.values())), f"{SUBMISSION_FILE}: {' and '.join(said)} must be numbers")
    said |= {f"{log.name}'s code size": number for log in folder.logs for number in log.code_bytes}
    evidence = f"{', '.join(names[:4])}{' …' if len(names) > 4 else ''}: {size:,} bytes"
    require(bool(said), f"no file says how many bytes the code has; {evidence}")
    wrong = [f"{key} {value:,}" for key, value in said.items() if value != size]
    hold(not wrong, f"{evidence}; claimed: {', '.join(wrong[:4])}")
    return f"{evidence}, as claimed"


def _cap(folder: Checked) -> str:
    """Literal bytes where they are here; where the weight file is not, every claimed and logged total."""
    cap, tables = TRACK_CAP_BYTES[folder.track], {"": folder.claims}
    tables |= {f"seed {seed} ": row for seed, row in folder.seed_claims.items()}
    totals = [(f"{where}{key}", row[key]) for where, row in tables.items() for key in KEYS["total_bytes"]
              if is_number(row.get(key))]  # fmt: skip
    totals += [(log.name, log.total_bytes[-1]) for log in quietly(lambda: folder.logs) or () if log.total_bytes]
    over = [f"{what} {total:,}" for what, total in totals if total > cap]
    hold(not over, f"over the cap of {cap:,}: {', '.join(over[:4])}")
    said = "; ".join(f"{what} {total:,}" for what, total in totals[:4]) or "no total is named"
    code, weights = quietly(lambda: folder.code_bytes) or 0, folder.weights
    heavy = [f"{name} and code {size + code:,}" for name, size in weights.items() if size + code > cap]
    weighed = f"over the cap of {cap:,}: {', '.join(heavy[:4])}"
    # of several files in another's format, one may be the weights before packing, which do not count
    hold(not heavy or (not folder.artifacts and len(heavy) < len(weights)), weighed)
    own_words = f"within the cap of {cap:,} by its own words: {said}"
    require(bool(folder.artifacts), f"{folder.no_artifact}; {weighed if heavy else own_words}")
    code, size, seed = folder.code_bytes, folder.artifact.stat().st_size, folder.artifact_seed
    real = {"total_bytes": size + code, "model_bytes": size}
    evidence = hold(size + code <= cap, f"file {size:,} + code {code:,} = {size + code:,}; cap {cap:,}")
    own = folder.seed_claims.get(seed, {}) if seed is not None else {}
    for where, values in ((f"seed {seed}", own), (SUBMISSION_FILE, folder.claims)):
        for name, value in real.items():
            text = claimed(values, name)
            hold(text is None or float(text) == value, f"{evidence}; {where} claims {name} {text}")
    log = (quietly(lambda: folder.runs) or {}).get(seed)
    for name, value in real.items() if log else ():
        logged = getattr(log, name)
        hold(not logged or value in logged, f"{evidence}; the log of seed {seed} says {logged[-1:]}")
    return evidence


def _hash(folder: Checked) -> str:
    require(folder.artifact_seed is not None, "no file says of which seed the artifact is")
    kept = f", and {folder.scores.name} is its windows" if folder.said("scores_sha256") is not None else ""
    return f"it is seed {folder.artifact_seed}'s{kept}"


def _own_script(folder: Checked) -> str:
    require(folder.how.run_code, "nothing of a reviewed folder is run without --run-code")
    run = Scoring(folder.artifact, folder.dataset, folder.way, folder.how, script=folder.script_path)
    found = run.part("script")
    require("missing" not in found, found.get("missing", ""))
    mine, evidence = folder.scoring.score("sliding"), f"its own code gives {found['bpb']:.8f} bpb"
    if "n" in mine:
        is_within = mine["low"] <= found["bpb"] <= mine["high"]
        raise OnlySampled(hold(is_within, f"{evidence}, a sample {mine['low']:.6f} to {mine['high']:.6f}"))
    isolation(run)
    is_same = math.isclose(found["bpb"], mine["bpb"], rel_tol=TOLERANCE)
    return hold(is_same, f"{evidence}, this program's {mine['bpb']:.8f}")


def _seconds(folder: Checked) -> str:
    trained = {log.name: log.train_ms / 1000 for log in folder.logs if log.train_ms is not None}
    step = max((log.train_ms / 1000 / max(log.steps or 0, 1) for log in folder.logs if log.train_ms), default=0.0)
    said = {f"seed {seed}": claimed(row, "train_seconds") for seed, row in folder.seed_claims.items()}
    trained |= {name: float(text) for name, text in said.items() if text}
    require(bool(trained), "no log has a training time")
    scored = {log.name: sum(log.eval_ms) / 1000 for log in folder.logs if log.eval_ms}
    both = {"training": (trained, 2 * step), "evaluation": (scored, 0.0)}
    spans = {what: f"{what} {min(found.values()):.1f} to {max(found.values()):.1f} s"
             for what, (found, _) in both.items() if found}  # fmt: skip
    evidence = f"{', '.join(spans.values())}; outside the timers, and in no log: {UNTIMED}"
    track = quietly(lambda: folder.track_said)
    require(track is not None, f"no file says on which track it is; {evidence}")
    if not re.match(TIMED, str(track), re.IGNORECASE):
        return f"the track {track:.60} has no clock; {evidence}"
    for what, (found, grace) in both.items():
        late = [f"{name} {value:.1f} s" for name, value in found.items() if value > BUDGET_SECONDS + grace]
        hold(not late, f"{what} took longer than {BUDGET_SECONDS} s: {', '.join(late[:4])}")
    require(bool(scored), f"no log has an evaluation time; {evidence}")
    return f"of {BUDGET_SECONDS} s each: {evidence}"


BEFORE: dict[str, Callable[[Any], str]] = {
    "submission.json is whole": _whole,
    "no seed and no log is missing": _nothing_missing,
    "one recipe over all seeds": _same_recipe,
    "the script is the one that ran": _logged_script,
    "the code has the claimed bytes": _code,
    "file and code fit under the cap": _cap,
}
AFTER: dict[str, Callable[[Any], str]] = {
    "the artifact is a seed's": _hash,
    "the dataset is whole, its splits apart": lambda folder: folder.text.whole,
    **TEXT_CHECKS,
    "each score implies the split's bytes": implied_by_every_pair,
    **MODEL_CHECKS,
    "its own script scores the file alike": _own_script,
    "seconds are within the budgets": _seconds,
    "submission.json says what logs and file say": json_numbers,
    "scores before packing are the logs'": before_packing,
    "the headline is the seeds' score": headline,
    "README.md says what logs and file say": readme_numbers,
}

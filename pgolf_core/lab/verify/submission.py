"""Checks of `pgolf verify` on a submission folder: this project's, or any of the published form.

Each check holds, fails, or cannot be made with what the folder holds. A published folder has no weight file, so what
its scores rest on is its logs, whose numbers bind one another: tokens x nats / (ln 2 x bpb) must be the text's bytes.
FineWeb's validation text is 151,080,363 bytes whatever the tokenizer (papers/machinery.md, "Score and windows").
"""

import math
import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pgolf_core.base.files import UserError
from pgolf_core.lab.shared.places import RECIPE_FILE, SUBMISSION_FILE
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.shared.tables import so_many, some
from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TOKENS, FINEWEB_TRACK, SAME_BYTES, fineweb_tokens
from pgolf_core.lab.verify.code.bytetable import judge_tables
from pgolf_core.lab.verify.code.literal import cap, code_bytes
from pgolf_core.lab.verify.evidence.checks import CannotCheck, OnlySampled, Row, hold, judge_all, quietly, require
from pgolf_core.lab.verify.evidence.score import TOLERANCE, How, Scoring, isolation
from pgolf_core.lab.verify.evidence.text import TEXT_OF_TRACK, implied_bytes
from pgolf_core.lab.verify.logged import counted_in, same_recipe, score_first, whole_split
from pgolf_core.lab.verify.reading.claims import Judged, headline, json_numbers
from pgolf_core.lab.verify.reading.folder import LOG_ENDINGS
from pgolf_core.lab.verify.reading.keys import claimed, every_claim, meaning, quoted, seeds_elsewhere, unfilled
from pgolf_core.lab.verify.reading.logs import MIXTURES
from pgolf_core.lab.verify.reading.numbers import last_digit, read_number, same_score, written
from pgolf_core.lab.verify.reading.readme import readme_numbers, readme_prose
from pgolf_core.lab.verify.reading.reviewed import BUDGET_SECONDS, MODEL_CHECKS, TEXT_CHECKS
from pgolf_core.lab.verify.reading.untrusted import json_object
from pgolf_core.lab.verify.remedies import explained

OF_A_SUBMISSION = (SUBMISSION_FILE, ".py", ".log", ".pgolf", ".ipynb")
"""A folder without any such file is none, whatever else it holds."""
NAMED = ("name", "author", "date")
OTHER_CLOCK_SECONDS = 1.0
"""By so much may work that is timed beside the training clock pass the budget: two timers do not add to the tenth."""
UNTIMED = "start, warm-up, validation while training, packing"


def submission_rows(folder: Path, how: How) -> list[Row]:
    """All checks of one folder; UserError for one that holds nothing of a submission."""
    one = Judged(folder, how)
    files = quietly(lambda: one.files)
    if files is not None and not any(name.endswith(OF_A_SUBMISSION) for name in files):
        kinds = ", ".join(OF_A_SUBMISSION)
        raise UserError(f"{folder} is no run's or submission's folder: no file in it ends in {kinds}; name one that is")
    runs = [path.parents[1] for path in map(PurePath, files or ()) if path.match(f"*/seed*/{RECIPE_FILE}")]
    if runs and not (folder / SUBMISSION_FILE).exists():
        raise UserError(f"{folder} is no run's or submission's folder, but holds runs; name one, as {folder / runs[0]}")
    rows, found, after = judge_all(BEFORE, one), quietly(lambda: one.artifacts), AFTER
    if found:
        from pgolf_core.lab.verify.evidence.adapting import adapt_checks  # with torch, as the next
        from pgolf_core.lab.verify.run import artifact_rows

        after = AFTER | adapt_checks(one)
        rows += [row.under(path.relative_to(folder).as_posix()) for path in found for row in artifact_rows(path)]
    else:
        rows += judge_all({"artifact opens and is whole": lambda one: str(one.artifact)}, one)
    return [explained(row, files or {}) for row in rows + judge_all(after, one)]


# ---------------------------------------------------------------------- files, seeds, code


def _whole(folder: Judged) -> str:
    hold(SUBMISSION_FILE in folder.files, f"there is no {SUBMISSION_FILE}")
    values = json_object(folder.files[SUBMISSION_FILE])
    missing = [key for key in NAMED if not isinstance(values.get(key), str)]
    odd = [f"{where}{text}" for where, row in {"": values, **{f"seed {seed} ": row for seed, row in
           folder.seed_claims.items()}}.items() for text in unfilled(row)]  # fmt: skip
    hold(not odd, f"no number: {some(odd)}")
    said = claimed(values, "bpb") or claimed(values, "bpb", "mean")
    others = [key for key, value in values.items() if is_number(value) and re.search("bpb|loss", key)]
    hold(said is not None, f"it names no bpb of its own{f' (there is {some(others)})' if others else ''}")
    score = float(said or 0)
    hold(0 < score < 100, f"val_bpb {said} is no score")
    name, author, date = (str(values.get(key, "?")) for key in NAMED)
    note = f"; it names no {', '.join(missing)}" if missing else ""
    return f"{name:.80}, by {author:.60}, {date:.10}: {score:.6f} bpb claimed{note}"


def _nothing_missing(folder: Judged) -> str:
    there = {
        "README.md": [name for name in folder.files if name.lower().startswith("readme") and "/" not in name],
        SUBMISSION_FILE: [name for name in folder.files if name == SUBMISSION_FILE],
        "a script": [name for name in folder.files if name.endswith(".py")],
        "a log": [name for name in folder.files if name.endswith(LOG_ENDINGS) and name != "requirements.txt"],
    }
    missing = [name for name, found in there.items() if not found]
    hold(not missing, f"missing: {', '.join(missing)}")
    hold(bool(folder.logs), "no log holds a training step or a score")
    logged, named = sorted(seed for seed in folder.runs if seed is not None), folder.seeds
    without = [seed for seed in named if seed not in logged]
    evidence = f"{so_many(len(folder.logs), 'log')}, of seeds {', '.join(map(str, logged)) or 'that none names'}"
    is_unsaid = f"{evidence}; {SUBMISSION_FILE} names {without}, and a log does not say of which seed it is"
    require(not without or None not in folder.runs, is_unsaid)
    hold(not without, f"{evidence}; {SUBMISSION_FILE} also names seeds {', '.join(map(str, without))}")
    unnamed = [seed for seed in logged if named and seed not in {*named, *seeds_elsewhere(folder.claims)}]
    hold(not unnamed, f"logs of seeds {unnamed}, which {SUBMISSION_FILE} does not name: {named}")
    require(bool(named) or len(folder.logs) == 1, f"{SUBMISSION_FILE} names no seeds; {evidence}")
    return evidence


def _logged_script(folder: Judged) -> str:
    logs, name = [log for log in folder.logs if log.script], folder.script_path.name
    require(bool(logs), "no log begins with its script")
    for log in logs:
        is_it = log.script.strip() in (folder.script.strip(), folder.source.strip())
        hold(is_it, f"{log.name} begins with another script than {name}, as it is shipped or unwrapped")
    return f"with {name}, character for character: the beginning of {so_many(len(logs), 'log')}"


def _bytes_once(folder: Judged) -> str:
    """By the code's table; of an artifact of this project's by the text itself, whatever the table looks like."""
    try:
        return judge_tables(folder.code)
    except CannotCheck as reason:
        if not folder.artifacts:
            raise
        return f"{folder.text.decoded} ({reason})"


def _hash(folder: Judged) -> str:
    require(folder.artifact_seed is not None, "no file says of which seed the artifact is")
    kept = f", and {folder.scores.name} is its windows" if folder.said("scores_sha256") is not None else ""
    return f"it is seed {folder.artifact_seed}'s{kept}"


def _own_script(folder: Judged) -> str:
    require(folder.how.run_code, "nothing of a reviewed folder is run without --run-code")
    run = Scoring(folder.artifact, folder.dataset, folder.way, folder.how, script=folder.script_path)
    found = run.part("script")
    mine, evidence = folder.scoring.score("sliding"), f"its own code gives {found['bpb']:.8f} bpb"
    if "n" in mine:
        is_within = mine["low"] <= found["bpb"] <= mine["high"]
        raise OnlySampled(hold(is_within, f"{evidence}, a sample {mine['low']:.6f} to {mine['high']:.6f}"))
    isolation(run)
    is_same = math.isclose(found["bpb"], mine["bpb"], rel_tol=TOLERANCE)
    return hold(is_same, f"{evidence}, this program's {mine['bpb']:.8f}")


def _seconds(folder: Judged) -> str:
    logs = quietly(lambda: folder.used_logs) or []
    clocks = {log.name: log.train_ms / 1000 for log in logs if log.train_ms is not None}
    said = {where: every_claim(row) for where, row in (quietly(lambda: folder.tables) or {}).items()}
    trains, evals = ({where: float(row[what]) for where, row in said.items() if what in row}
                     for what in ("train_seconds", "eval_seconds"))  # fmt: skip
    steps = {where: float(row["steps"]) for where, row in said.items() if "steps" in row}
    steps |= {log.name: float(log.steps or 0) for log in logs}
    step = max((value / max(steps[name], 1) for name, value in (trains | clocks).items() if name in steps),
               default=OTHER_CLOCK_SECONDS / 2 if trains else 0.0)  # fmt: skip
    is_logged, clocks = bool(clocks), trains | clocks
    require(bool(clocks or evals), "no log has a training time")
    after = {log.name: sum(log.after.values()) / 1000 for log in logs if log.after}
    trained = {name: value + after.get(name, 0.0) for name, value in clocks.items()}
    scored = {log.name: log.eval_ms / 1000 for log in logs if log.eval_ms is not None}
    both = {"training": (trained, 2 * step), "evaluation": (evals | scored, 0.0)}
    spans = {what: f"{what} {min(found.values()):.1f} to {max(found.values()):.1f} s"
             for what, (found, _) in both.items() if found}  # fmt: skip
    if works := ", ".join(dict.fromkeys(work for log in logs for work in log.after)):
        spans["training"] += f" with {works}"
    evidence = f"{', '.join(spans.values())}; in no timer: {UNTIMED}"
    track = folder.clock
    require(track is not None, f"no file says on which track it is; {evidence}")
    if not track:
        return f"the track {quietly(lambda: folder.track_said) or 'that it is on':.60} has no clock; {evidence}"
    for what, (found, grace) in both.items():
        late = [f"{name} {value:.1f} s" for name, value in found.items()
                if value > BUDGET_SECONDS + max(grace, OTHER_CLOCK_SECONDS if name in after else 0.0)]  # fmt: skip
        hold(not late, f"{what} took longer than {BUDGET_SECONDS} s: {', '.join(late[:4])}; {evidence}")
        close = [f"{name} {value:.1f} s" for name, value in found.items() if value > BUDGET_SECONDS + grace]
        require(not close, f"{what} and what follows it are timed by two clocks: {', '.join(close[:4])}; {evidence}")
    require(is_logged, f"no log has a training time; by {SUBMISSION_FILE} alone: {evidence}")
    require(bool(scored), f"no log has an evaluation time; {evidence}")
    return f"of {BUDGET_SECONDS} s each: {evidence}"


# ---------------------------------------------------------------------- the bytes that the scores imply


class Pair(NamedTuple):
    """A loss and a bpb as written, and where."""

    place: str
    loss: str
    bpb: str
    is_mixed: bool = False
    """Whether the bpb is of a mixture, beside which some logs write the model's own loss."""

    def implied(self, tokens: int) -> float:
        """Bytes of the text, if these are its predictions."""
        return implied_bytes(read_number(self.loss), read_number(self.bpb), tokens)

    @property
    def open_share(self) -> float:
        """What the written digits leave open."""
        return sum(0.5 * last_digit(text) / read_number(text) for text in (self.loss, self.bpb))

    def fits(self, tokens: int, real: int, tolerance: float) -> bool:
        """Whether the implied bytes are the real ones, allowing for what the written digits leave open."""
        return abs(self.implied(tokens) - real) <= (tolerance + self.open_share) * real + 0.5

    @property
    def is_per_byte(self) -> bool:
        """Whether the loss is in nats per byte, and so bpb x ln 2."""
        return abs(self.implied(1) - 1) <= 1e-6 + self.open_share


def _implied(folder: Judged) -> str:
    """Every claimed and logged pair of loss and bpb against the bytes of the text that it covers."""
    pairs = _pairs(folder)
    require(bool(pairs), "no file names both a loss and a bpb")
    are_per_byte = all(pair.is_per_byte for pair in pairs)
    require(
        not are_per_byte, f"every loss is in nats per byte ({some(pair.place for pair in pairs)}), and binds no bytes"
    )
    tokens, why = _predictions(folder, pairs)
    _, real, tolerance = TEXT_OF_TRACK[folder.track]
    if folder.track != FINEWEB_TRACK:
        real = quietly(lambda: folder.text.total_bytes) or real
    per_byte = [pair.place for pair in pairs if pair.is_per_byte and not pair.fits(tokens, real, tolerance)]
    pairs = [pair for pair in pairs if pair.place not in per_byte]
    own = any(pair.fits(tokens, real, tolerance) for pair in pairs if not pair.is_mixed)
    mixed = [pair for pair in pairs if own and pair.is_mixed and pair.implied(tokens) > (1 + tolerance) * real]
    pairs = [pair for pair in pairs if pair not in mixed]
    for pair in pairs:
        implied = f"{tokens:,} x {pair.loss} / (ln 2 x {pair.bpb}) = {pair.implied(tokens):,.0f} bytes"
        hold(pair.fits(tokens, real, tolerance), f"{pair.place}: {implied}, the split has {real:,} ({why})")
    about = f"{real:,} bytes over {tokens:,} predictions ({why})"
    aside = f"; nats per byte, which imply nothing: {some(per_byte)}" if per_byte else ""
    aside += f"; a mixture's bpb beside the model's own loss: {some(pair.place for pair in mixed)}" if mixed else ""
    evidence = f"{about}, by {so_many(len(pairs), 'pair')} of loss and bpb{aside}{_first_targets(folder)}"
    logs = quietly(lambda: folder.logs) or ()
    training = [_pair(f"{log.name}, step {step}", *said) for log in logs for step, *said in log.step_scores if said[0]]
    other = [pair.place for pair in training if not pair.fits(tokens, real, tolerance)]
    odd = f"not by {so_many(len(other), 'validation')} while training ({', '.join(other[:1])}): a part, or another"
    require(not other or folder.track != FINEWEB_TRACK, f"{evidence}; {odd}")
    also = f"; and by {so_many(len(training), 'validation')} while training" if training and not other else ""
    return evidence + also


def _first_targets(folder: Judged) -> str:
    """The pair before quantisation where it covers only the first targets, if the dataset is here to count them."""
    targets = folder.said("pre_quant_val_targets")
    pair = {key: folder.said(f"pre_quant_val_{key}") for key in ("loss", "bpb")}
    if targets in (None, folder.said("val_targets")) or list(pair.values()) == [None, None]:
        return ""
    hold(all(map(is_number, pair.values())), "pre_quant_val_loss and pre_quant_val_bpb are no score")
    is_here = quietly(lambda: folder.text.targets) is not None
    return f"; {folder.text.implied('pre_quant', pair, targets)}" if is_here else ""


def _pairs(folder: Judged) -> list[Pair]:
    """Of the whole split by their own account: claimed, and logged after training."""
    tables, found = quietly(lambda: folder.tables) or {}, []
    claims = tables.get(SUBMISSION_FILE, {})
    are_first = claims.get("pre_quant_val_targets") not in (None, claims.get("val_targets"))
    for where, values in tables.items():
        for key in values:
            name, statistic, *_ = meaning(key)
            texts = [quoted(one) or (written(one) if is_number(one) else "")
                     for one in (values.get(key.replace("bpb", "loss")), values[key])]  # fmt: skip
            is_pair = name.endswith("bpb") and statistic in ("", "mean") and all(texts) and any(map(float, texts))
            if is_pair and not (are_first and name == "averaged_bpb"):
                found.append(_pair(f"{where}, {key}", *texts))
    for log in quietly(lambda: folder.logs) or ():
        for one in log.finals:
            if one.loss:
                pair = _pair(f"{log.name}, {one.label or 'score'}", one.loss, one.bpb)
                found.append(pair._replace(is_mixed=bool(re.search(MIXTURES, one.words))))
    mixed = [pair.bpb for pair in found if pair.is_mixed]
    return [pair._replace(is_mixed=any(same_score(pair.bpb, bpb) for bpb in mixed)) for pair in found]


def _pair(place: str, loss: str, bpb: str) -> Pair:
    """Broken where they are no score."""
    is_score = all(0 < read_number(text) < 1e6 for text in (loss, bpb))
    hold(is_score, f"{place}: loss {loss[:30]} and bpb {bpb[:30]} are no score")
    return Pair(place, loss, bpb)


def _predictions(folder: Judged, pairs: list[Pair]) -> tuple[int, str]:
    """How many tokens a score covers, and where that is known from."""
    targets, logs = folder.said("val_targets"), quietly(lambda: folder.logs) or []
    if is_number(targets):
        real = quietly(lambda: folder.text.targets)
        hold(real in (None, targets), f"{SUBMISSION_FILE} says {targets:,} targets, the dataset has {real}")
        return int(targets), f"val_targets of {SUBMISSION_FILE}"
    counts = {log.val_tokens for log in logs if log.val_tokens}
    if len(counts) == 1:
        return counts.pop(), "tokens of val_loader"
    scored = {(key, count) for row in (quietly(lambda: folder.tables) or {}).values()
              for key, count in counted_in(row).items() if "token" in key.lower()}  # fmt: skip
    if len({count for _, count in scored}) == 1:
        return max(scored)[::-1]
    if named := fineweb_tokens(size for log in logs for size in log.vocabularies):
        return named
    fits = [
        (count, f"as of {name}, which no file names") for name, count in FINEWEB_TOKENS.items()
        if 2 * sum(abs(pair.implied(count) / FINEWEB_BYTES - 1) < SAME_BYTES for pair in pairs) > len(pairs)
    ]  # fmt: skip
    absent = "no file says how many tokens the validation split has"
    require(folder.track == FINEWEB_TRACK, absent)
    near = min(FINEWEB_TOKENS, key=lambda name: abs(math.log(pairs[0].implied(FINEWEB_TOKENS[name]) / FINEWEB_BYTES)))
    implied = f"{pairs[0].place} would be of {pairs[0].implied(FINEWEB_TOKENS[near]):,.0f} bytes"
    require(
        len(fits) == 1, f"{absent}; as of {near}, the nearest that is known, {implied} where it has {FINEWEB_BYTES:,}"
    )
    return fits[0]


BEFORE: dict[str, Callable[[Any], str]] = {
    "submission.json is whole": _whole,
    "no seed and no log is missing": _nothing_missing,
    "one recipe over all seeds": same_recipe,
    "the script is the one that ran": _logged_script,
    "the code has the claimed bytes": code_bytes,
    "file and code fit under the cap": cap,
}
AFTER: dict[str, Callable[[Any], str]] = {
    "the artifact is a seed's": _hash,
    "the dataset is whole, its splits apart": lambda folder: folder.text.whole,
    **TEXT_CHECKS,
    "a byte is counted once": _bytes_once,
    "the whole split is scored": whole_split,
    "each score implies the split's bytes": _implied,
    "what is learned from was scored before": score_first,
    **MODEL_CHECKS,
    "its own script scores the file alike": _own_script,
    "seconds are within the budgets": _seconds,
    "submission.json says what logs and file say": json_numbers,
    "the headline is the seeds' score": headline,
    "README.md says what logs and file say": readme_numbers,
    "scores in README.md's prose are the folder's": readme_prose,
}

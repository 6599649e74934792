"""Checks of `pgolf verify` on a run folder: one seed's files against each other and its artifact, and all seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pgolf_core.base.names import ARTIFACT, METRICS, SEED_RESULT, TRAIN_LOG
from pgolf_core.lab.compare.results import seed_folders
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.shared.places import AVERAGING_FILE, ENV_FILE, RECIPE_FILE, SUMMARY_FILE, core_sha256
from pgolf_core.lab.verify.evidence.checks import Row, hold, judge, judge_all, needed, require
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.evidence.text import Text, implied_bytes
from pgolf_core.lab.verify.reading.logs import Log, agreed_steps, read_log
from pgolf_core.lab.verify.reading.reviewed import MODEL_CHECKS, TEXT_CHECKS
from pgolf_core.lab.verify.reading.seed import TRAINING, Seed, recipe_in, result_in, training_in
from pgolf_core.lab.verify.reading.untrusted import agrees, is_number, json_lines, json_object, number, read_text
from pgolf_core.lab.verify.run_bytes import artifact_rows, cap, first_difference, ledger, same_model
from pgolf_core.seed import SCORE_NAMES, Result

HASHES = ("recipe", "data", "core")
LOGS = (TRAIN_LOG, METRICS)
MAX_STAGES = 100
BUDGET_SECONDS = 600
"""Of training, and again of evaluation, on every track."""
TIMERS = ("train", "scoring")
"""Parts of result.json's seconds that the two budgets are for; the others lie outside."""
TRIPLE_TOLERANCE = 1e-6


def hold_equal(said: Any, source: str, **expected: Any) -> None:
    """The fields of a result that `source` settles are those of `source`."""
    for name, value in expected.items():
        there = getattr(said, name)
        hold(there == value, f"{name} is {there!s:.40} in {SEED_RESULT}, {value!s:.40} by {source}")


# ---------------------------------------------------------------------- one seed's own files


def _recipe_json(seed: Seed) -> str:
    found, said = recipe_in(seed.folder).fingerprint, json_object(seed.folder / RECIPE_FILE).get("fingerprint")
    return hold(said == found, f"fingerprint {found:.12}…, it says {said!s:.12}…")


def _result_json(seed: Seed) -> str:
    result, recipe = result_in(seed.folder), seed.recipe
    named = re.fullmatch(r"seed(\d+)", seed.folder.resolve().name)
    hold_equal(result, "the folder's name", seed=int(named[1]) if named else result.seed)
    hold_equal(result, RECIPE_FILE, track=recipe.track, recipe=recipe.name, window=recipe.eval.seq_len,
               sliding_stride=recipe.eval.stride)  # fmt: skip
    return f"seed {result.seed}, {len(result.to_dict())} values of their types"


def _hashes(seed: Seed) -> str:
    said = {part: getattr(seed.result, f"{part}_sha256") for part in HASHES}
    files = [seed.folder / ENV_FILE, *sorted((seed.folder / "stages").glob("*.json"))]
    hold(len(files) <= MAX_STAGES, f"{len(files)} stages are more than any run has")
    for path in files:
        hold(json_object(path).get("hashes") == said, f"{path.name} has other hashes than {SEED_RESULT}")
    hold_equal(seed.result, RECIPE_FILE, recipe_sha256=seed.recipe.fingerprint)
    kept = f", {seed.scores.name}" if seed.result.scores_sha256 is not None else ""
    return f"{SEED_RESULT}, {RECIPE_FILE}{kept}, {ENV_FILE} and {len(files) - 1} stages"


def _core(seed: Seed) -> str:
    here, there = core_sha256(), seed.result.core_sha256
    require(here == there, f"scores are taken with the core here, {here:.12}…; the run's was {there:.12}…")
    return f"{here:.12}…"


def _averaging(seed: Seed) -> str:
    values = json_object(seed.folder / AVERAGING_FILE)
    hold(all(isinstance(values.get(kind), dict) for kind in ("raw", "averaged")), "it has no objects raw and averaged")
    for kind in ("raw", "averaged"):
        found = {"bpb": number(values[kind], "bpb"), "loss": number(values[kind], "loss_nats_per_token")}
        hold_equal(seed.result, AVERAGING_FILE, **{f"{kind}_{key}": value for key, value in found.items()})
    hold_equal(seed.result, AVERAGING_FILE, raw_targets=values["raw"].get("tokens"))
    return "equal; they are of saved weights, not of the artifact, and are not taken anew"


def _logs(seed: Seed) -> str:
    """Every line of the log and of the metrics says the same; result.json's counts are theirs."""
    for name in LOGS:
        hold((seed.folder / name).is_file(), f"there is no {name}")
    # where these two are broken, this check fails, and others cannot be made
    metrics, training, result = json_lines(seed.folder / METRICS), training_in(seed.folder), seed.result
    lines = {kind: {row["step"]: row for row in metrics if row.get("kind") == kind} for kind in ("train", "val")}
    hold(bool(lines["train"]), f"{METRICS} has no training step")
    steps = max(lines["train"])
    tokens = steps * seed.recipe.data.batch_tokens
    hold_equal(result, METRICS, steps=steps, tokens=tokens)
    hold_equal(result, TRAINING, steps=training.steps, stopped_by=training.stopped_by,
               resumed_at_steps=training.resumed_at_steps)  # fmt: skip
    text = read_text(seed.folder / TRAIN_LOG)
    compared = agreed_steps(text, lines["train"], lines["val"], bool(result.resumed_at_steps))
    for name, line in (("seed", "seed"), ("ranks", "world_size")):
        for said in re.findall(rf"^{line}:(\d+)", text, re.MULTILINE)[-1:]:
            hold_equal(result, TRAIN_LOG, **{name: int(said)})
    _closing_lines(read_log(seed.folder / TRAIN_LOG, TRAIN_LOG), result)
    return f"{steps} steps, {tokens:,} tokens; {compared} lines of {TRAIN_LOG} agree with {METRICS}"


def _closing_lines(log: Log, result: Result) -> None:
    """Sizes, scores and scoring time at the end of train.log, where they are there, are the result's."""
    said = {"artifact_bytes": log.model_bytes, "code_bytes": log.code_bytes, "total_bytes": log.total_bytes}
    hold_equal(result, TRAIN_LOG, **{name: values[-1] for name, values in said.items() if values})
    for label, *texts in log.finals:
        for key, text in zip(("loss", "bpb"), texts, strict=True):
            value = getattr(result, f"{'sliding' if 'sliding' in label else 'roundtrip'}_{key}")
            hold(agrees(text, value), f"{label}: {key} {text} in {TRAIN_LOG}, {value} in {SEED_RESULT}")
    scored, counted = sum(log.eval_ms), 1000 * result.seconds.get("scoring", 0.0)
    is_timed = not log.eval_ms or abs(scored - counted) <= len(log.eval_ms)
    hold(is_timed, f"scoring took {scored:.0f} ms in {TRAIN_LOG}, {counted:.0f} ms in {SEED_RESULT}")


def _seconds(seed: Seed) -> str:
    """Within the two budgets, the parts add up, and the log's own clock says the same."""
    seconds, inside = seed.result.seconds, seed.training.seconds
    hold(all(name in seconds for name in (*TIMERS, "total")), "its seconds lack train, scoring or total")
    hold(min(seconds.values()) >= 0, "its seconds are negative")
    total = sum(value for name, value in seconds.items() if name != "total")
    hold(math.isclose(total, seconds["total"], rel_tol=1e-6, abs_tol=1e-3), f"its parts make {total:.3f} s, not total")
    for name in set(inside) - {"rest"}:  # which is among the notebooks' own
        said, shared = seconds.get(name, -1.0), name in ("averaging", "lost")  # other stages add to these two
        fits = said >= inside[name] if shared else said == inside[name]
        hold(fits, f"seconds.{name} is not that of {TRAINING}")
    train, scoring = (seconds[name] for name in TIMERS)
    clock = max((row["seconds"] for row in seed.metrics if is_number(row.get("seconds"))), default=0.0)
    hold(abs(train - clock) <= 0.5 + 0.01 * clock, f"{METRICS}'s clock ends at {clock:.1f} s, train is {train:.1f} s")
    step = train / max(seed.result.steps, 1)
    hold(seed.result.over_cap_seconds is None, f"training took {train:.1f} s, over the recipe's own cap")
    cap_seconds = seed.recipe.schedule.max_seconds
    hold(train <= cap_seconds or not cap_seconds, f"training took {train:.2f} s, the recipe's cap is {cap_seconds:g} s")
    hold(train <= BUDGET_SECONDS + 2 * step, f"training took {train:.1f} s of {BUDGET_SECONDS}")
    hold(scoring <= BUDGET_SECONDS, f"scoring took {scoring:.1f} s of {BUDGET_SECONDS}")
    outside = [f"{name} {value:.1f}" for name, value in seconds.items() if name not in (*TIMERS, "total")]
    return (
        f"training {train:.1f} s and scoring {scoring:.1f} s, {BUDGET_SECONDS} s allowed each; "
        f"outside the timers: {', '.join(outside) or 'nothing'} s"
    )


def _implied(seed: Seed, what: str, values: Mapping[str, Any], targets: Any) -> str:
    """bpb and loss against the real bytes of their targets, the stream's first."""
    hold(type(targets) is int and 0 < targets <= seed.text.targets, f"{what}: {targets!r} targets")
    implied = implied_bytes(number(values, "loss"), number(values, "bpb"), targets)
    real = seed.text.bytes_of(targets)
    evidence = f"{what} {implied:,.1f} of {real:,}"
    return hold(abs(implied - real) < min(0.5, TRIPLE_TOLERANCE * real), evidence)


def _result_implies(seed: Seed) -> str:
    """Every score of result.json."""
    values, evidence = seed.result.to_dict(), []
    for kind in SCORE_NAMES:
        targets = seed.result.raw_targets if kind in ("raw", "averaged") else seed.result.val_targets
        pair = {key: values.get(f"{kind}_{key}") for key in ("loss", "bpb")}
        evidence.append(_implied(seed, kind, pair, targets))
    return ", ".join(evidence)


def _metrics_imply(seed: Seed) -> str:
    """Every validation of metrics.jsonl implies the bytes of the targets that it says it covers."""
    rows = [row for row in seed.metrics if row.get("kind") == "val"]
    require(bool(rows), f"{METRICS} logs no validation")
    for row in rows:
        _implied(seed, f"step {row.get('step')}", row, row.get("targets"))
    return f"{len(rows)} logged validations, the last over {rows[-1]['targets']:,} targets"


SEED_CHECKS: dict[str, Callable[[Any], str]] = {
    "recipe.json is whole": _recipe_json,
    "result.json is whole": _result_json,
    "the run's own hashes agree": _hashes,
    "the core here is the run's": _core,
    "the dataset here is the run's, and whole": lambda seed: seed.text.whole,
    "the artifact is this recipe's model": same_model,
    "file and code fit under the cap": cap,
    "ledger.json is the file's": ledger,
    "log and metrics say the same": _logs,
    "seconds are within the budgets": _seconds,
    **TEXT_CHECKS,
    "each score implies those bytes": _result_implies,
    "each logged score implies its bytes": _metrics_imply,
    "raw and averaged scores are averaging.json's": _averaging,
    **MODEL_CHECKS,
}
"""Every check of one seed besides its artifact's own, quick ones first."""


def seed_rows(seed: Seed) -> list[Row]:
    """All checks of one seed."""
    return artifact_rows(seed.artifact) + judge_all(SEED_CHECKS, seed)


# ---------------------------------------------------------------------- all seeds of a recipe


def recipe_rows(folder: Path, how: How) -> list[Row]:
    """What ties the seeds together, then every seed's own checks."""
    texts: dict[str, Text] = {}
    seeds = {number: Seed(folder / f"seed{number}", how, texts) for number in seed_folders(folder)}
    rows = [
        judge("one recipe, dataset and core over all seeds", _one_experiment, folder, seeds),
        judge("no seed and no log is missing", _nothing_missing, folder, seeds),
        judge("summary.json is that of its seeds", _summary, folder, seeds),
    ]
    for name, seed in seeds.items():
        rows += [row._replace(check=f"seed {name}: {row.check}") for row in seed_rows(seed)]
    return rows


def _one_experiment(folder: Path, seeds: dict[int, Seed]) -> str:
    found = {part: {getattr(seed.result, f"{part}_sha256") for seed in seeds.values()} for part in HASHES}
    found["recipe"] |= {recipe_in(folder).fingerprint, *(seed.recipe.fingerprint for seed in seeds.values())}
    evidence = [f"{part} {', '.join(sorted(one[:12] for one in hashes))}" for part, hashes in found.items()]
    return hold(all(len(hashes) == 1 for hashes in found.values()), "; ".join(evidence))


def _nothing_missing(folder: Path, seeds: dict[int, Seed]) -> str:
    wanted = (RECIPE_FILE, SEED_RESULT, ARTIFACT, *LOGS)
    missing = [f"seed{name}/{file}" for name, seed in seeds.items() for file in wanted
               if not (seed.folder / file).is_file()]  # fmt: skip
    stray = sorted(path.name for path in folder.glob("seed0?*") if path.is_dir() and path.name[4:].isdecimal())
    hold(not stray, f"{', '.join(stray[:3])}: not read, since the name of a seed's folder has no zero before it")
    hold(not missing, f"missing: {', '.join(missing)}")
    if (folder / SUMMARY_FILE).is_file():
        said = json_object(folder / SUMMARY_FILE).get("seeds")
        hold(said == list(seeds), f"{SUMMARY_FILE} names seeds {said}, the folders are {list(seeds)}")
    return f"seeds {', '.join(map(str, seeds))}, each with {', '.join(wanted)}"


def _summary(folder: Path, seeds: dict[int, Seed]) -> str:
    require((folder / SUMMARY_FILE).is_file(), f"there is no {SUMMARY_FILE}")
    results = {name: seed.result for name, seed in seeds.items()}
    said, made = json_object(folder / SUMMARY_FILE), needed("whole results", lambda: summarise_seeds(results))
    wrong = first_difference(made, said)
    hold(not wrong, f"{wrong} is not what the seeds' {SEED_RESULT} give")
    score = made["sliding_bpb"]
    spread = f" ± {score['std']:.6f}" if score["std"] is not None else ""
    return f"sliding {score['mean']:.6f}{spread}, n = {score['n']}, and {len(made) - 1} more keys"

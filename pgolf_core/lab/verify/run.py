"""Checks of `pgolf verify` on a run folder: one seed's files against each other and its artifact, and all seeds."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgolf_core.base.names import ARTIFACT, METRICS, SEED_RESULT, TRAIN_LOG
from pgolf_core.lab.compare.results import TEXTS, seed_folders
from pgolf_core.lab.data.dataset import Dataset
from pgolf_core.lab.record.folder import recorded_recipe
from pgolf_core.lab.report.seeds import NUMBERS, summarise_seeds
from pgolf_core.lab.shared.places import AVERAGING_FILE, ENV_FILE, RECIPE_FILE, SUMMARY_FILE, core_sha256
from pgolf_core.lab.verify import run_bytes as verify_bytes
from pgolf_core.lab.verify.evidence import score as verify_score
from pgolf_core.lab.verify.evidence.checks import (
    MAX_JSON_BYTES,
    Broken,
    CannotCheck,
    Row,
    hold,
    is_number,
    json_lines,
    json_object,
    judge,
    needed,
    number,
    once,
    read_bytes,
    read_text,
)
from pgolf_core.lab.verify.reading.logs import agreed_steps
from pgolf_core.lab.verify.run_bytes import artifact_rows
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.seed import Result

HASHES = ("recipe", "data", "core")
LOGS = (TRAIN_LOG, METRICS)
MAX_STAGES = 100
BUDGET_SECONDS = 600
"""Of training, and again of evaluation, on every track (SEEDS.md 1.1)."""
TIMERS = ("train", "scoring")
"""Parts of result.json's seconds that the two budgets are for; the others lie outside."""


class Seed(verify_score.Scored):
    """One seed's files, each read once; what is missing or broken raises CannotCheck in the checks that need it."""

    def __init__(self, folder: Path, cache_dir: Path | str, budget_seconds: float | None, progress: bool):
        self.folder, self.cache_dir = folder, cache_dir
        self.budget_seconds, self.progress = budget_seconds, progress
        self.artifact = folder / ARTIFACT

    @once
    def recipe(self) -> Recipe:
        return needed("a whole recipe.json", lambda: recipe_in(self.folder))

    @once
    def result(self) -> dict[str, Any]:
        return needed("a whole result.json", lambda: json_object(self.folder / SEED_RESULT))

    @once
    def metrics(self) -> list[dict[str, Any]]:
        return needed("a whole metrics.jsonl", lambda: json_lines(self.folder / METRICS))

    @once
    def training(self) -> dict[str, Any]:
        return needed(
            "a whole stages/03_train.json",
            lambda: dict(json_object(self.folder / "stages" / "03_train.json").get("training", {})),
        )

    @once
    def dataset(self) -> Dataset:
        """The dataset of the run, and no other of its name."""
        dataset = self.opened(self.recipe.data.dataset)
        if dataset.manifest_sha256 != self.result.get("data_sha256"):
            there = self.result.get("data_sha256")
            raise CannotCheck(f"{dataset.name} here is {dataset.manifest_sha256:.12}…, the run's is {there!s:.12}…")
        return dataset

    @once
    def scoring(self) -> verify_score.Scoring:
        verify_bytes.header_of(self.artifact)
        evaluation = self.recipe.eval
        way = verify_score.Way(
            evaluation.seq_len, evaluation.stride, evaluation.batch_seqs, self.recipe.schedule.autocast
        )
        return verify_score.Scoring(self.artifact, self.dataset, way, self.budget_seconds, self.progress)


def recipe_in(folder: Path) -> Recipe:
    """The recipe of a reviewed folder, its file bounded before it is parsed."""
    read_bytes(folder / RECIPE_FILE, MAX_JSON_BYTES)
    return recorded_recipe(folder)


# ---------------------------------------------------------------------- one seed's own files


def _recipe_json(seed: Seed) -> str:
    try:
        recipe = recipe_in(seed.folder)
    except CannotCheck as missing:
        raise Broken(str(missing)) from None
    recorded = json_object(seed.folder / RECIPE_FILE).get("fingerprint")
    return hold(recorded == recipe.fingerprint, f"fingerprint {recipe.fingerprint:.12}…, it says {recorded!s:.12}…")


def _result_json(seed: Seed) -> str:
    result = json_object(seed.folder / SEED_RESULT)
    for key in (*NUMBERS, "seed"):
        number(result, key)
    for key in TEXTS:
        hold(isinstance(result.get(key), str), f"no text '{key}'")
    named = re.fullmatch(r"seed(\d+)", seed.folder.resolve().name)
    hold(not named or int(named[1]) == result["seed"], f"it is of seed {result['seed']}, not the folder's")
    for key, recorded in (("track", seed.recipe.track), ("recipe", seed.recipe.name)):
        hold(result[key] == recorded, f"{key} {result[key]}, not recipe.json's")
    return f"seed {result['seed']}, {len(NUMBERS)} finite numbers"


def _hashes(seed: Seed) -> str:
    said = {part: seed.result.get(f"{part}_sha256") for part in HASHES}
    files = [seed.folder / ENV_FILE, *sorted((seed.folder / "stages").glob("*.json"))]
    hold(len(files) <= MAX_STAGES, f"{len(files)} stages are more than any run has")
    for path in files:
        hashes = json_object(path).get("hashes")
        hold(hashes == said, f"{path.name} has other hashes than result.json")
    hold(said["recipe"] == seed.recipe.fingerprint, "result.json has another recipe_sha256 than recipe.json")
    return f"result.json, recipe.json, env.json and {len(files) - 1} stages"


def _core(seed: Seed) -> str:
    here, there = core_sha256(), seed.result.get("core_sha256")
    if here != there:
        raise CannotCheck(f"scores are taken with the core here, {here:.12}…; the run's was {there!s:.12}…")
    return f"{here:.12}…"


def _dataset(seed: Seed) -> str:
    return verify_bytes.whole_dataset(seed.dataset, seed.progress)


def _averaging(seed: Seed) -> str:
    values = json_object(seed.folder / AVERAGING_FILE)
    for kind in ("raw", "averaged"):
        part = values.get(kind)
        hold(isinstance(part, dict), f"averaging.json has no object '{kind}'")
        for key, name in (("bpb", "bpb"), ("loss", "loss_nats_per_token")):
            said, there = number(seed.result, f"{kind}_{key}"), number(part, name)
            hold(said == there, f"{kind}_{key} {said} in result.json, {there} in averaging.json")
    hold(values["raw"].get("tokens") == seed.result.get("raw_targets"), "raw_targets is not averaging.json's")
    return "equal; they are of saved weights, not of the artifact, and are not taken anew"


def _logs(seed: Seed) -> str:
    """Every line of the log and of the metrics says the same; result.json's counts are theirs."""
    for name in LOGS:
        hold((seed.folder / name).is_file(), f"there is no {name}")
    json_lines(seed.folder / METRICS)  # where these two are broken, this check fails, and others cannot be made
    json_object(seed.folder / "stages" / "03_train.json")
    lines = {kind: {row["step"]: row for row in seed.metrics if row.get("kind") == kind} for kind in ("train", "val")}
    hold(bool(lines["train"]), "metrics.jsonl has no training step")
    steps, said = max(lines["train"]), number(seed.result, "steps")
    hold(said == steps == seed.training.get("steps"), f"metrics.jsonl ends at step {steps}, result.json says {said}")
    tokens, made = number(seed.result, "tokens"), steps * seed.recipe.data.batch_tokens
    hold(tokens == made, f"{steps} steps are {made:,} tokens, result.json says {tokens:,}")
    for key in ("stopped_by", "resumed_at_steps"):
        hold(seed.result.get(key) == seed.training.get(key), f"{key} is not that of stages/03_train.json")
    text = read_text(seed.folder / TRAIN_LOG)
    compared = agreed_steps(text, lines["train"], lines["val"], bool(seed.result.get("resumed_at_steps")))
    number_said = re.findall(r"^seed:(\d+)$", text, re.MULTILINE)
    hold(set(number_said) <= {str(seed.result.get("seed"))}, f"train.log is of seed {number_said}")
    return f"{steps} steps, {tokens:,} tokens; {compared} lines of train.log agree with metrics.jsonl"


def _logged_triples(seed: Seed) -> str:
    """Every validation of metrics.jsonl implies the bytes of the targets that it says it covers."""
    rows = [row for row in seed.metrics if row.get("kind") == "val"]
    if not rows:
        raise CannotCheck("metrics.jsonl logs no validation")
    for row in rows:
        what = f"step {row.get('step')}"
        verify_bytes.hold_triple(seed, what, number(row, "loss"), number(row, "bpb"), row.get("targets"))
    return f"{len(rows)} logged validations, the last over {rows[-1]['targets']:,} targets"


def _seconds(seed: Seed) -> str:
    """Within the two budgets, the parts add up, and the log's own clock says the same."""
    seconds = seed.result.get("seconds")
    hold(isinstance(seconds, dict) and all(map(is_number, seconds.values())), "result.json has no table of seconds")
    hold(all(name in seconds for name in (*TIMERS, "total")), "its seconds lack train, scoring or total")
    hold(min(seconds.values()) >= 0, "its seconds are negative")
    total = sum(value for name, value in seconds.items() if name != "total")
    hold(math.isclose(total, seconds["total"], rel_tol=1e-6, abs_tol=1e-3), f"its parts make {total:.3f} s, not total")
    inside = seed.training.get("seconds")
    hold(isinstance(inside, dict), "stages/03_train.json has no seconds of training")
    for name in set(inside) - {"rest"}:  # which is among the notebooks' own
        said, shared = seconds.get(name, -1.0), name in ("averaging", "lost")  # other stages add to these two
        fits = said >= inside[name] if shared else said == inside[name]
        hold(fits, f"seconds.{name} is not that of stages/03_train.json")
    clock = max((row["seconds"] for row in seed.metrics if is_number(row.get("seconds"))), default=0.0)
    late = abs(seconds["train"] - clock)
    hold(late <= 0.5 + 0.01 * clock, f"metrics.jsonl's clock ends at {clock:.1f} s, train is {seconds['train']:.1f} s")
    step = seconds["train"] / max(number(seed.result, "steps"), 1)
    hold(seconds["train"] <= BUDGET_SECONDS + 2 * step, f"training took {seconds['train']:.1f} s of {BUDGET_SECONDS}")
    hold(seconds["scoring"] <= BUDGET_SECONDS, f"scoring took {seconds['scoring']:.1f} s of {BUDGET_SECONDS}")
    outside = [f"{name} {value:.1f}" for name, value in seconds.items() if name not in (*TIMERS, "total")]
    return (
        f"training {seconds['train']:.1f} s and scoring {seconds['scoring']:.1f} s, {BUDGET_SECONDS} s allowed each; "
        f"outside the timers: {', '.join(outside) or 'nothing'} s"
    )


# ---------------------------------------------------------------------- what needs the model


def _rescored(seed: Seed, kind: str) -> str:
    said = {key: number(seed.result, f"{kind}_{key}") for key in ("bpb", "loss")}
    evaluation = seed.recipe.eval
    found = seed.scoring.part(f"stride {evaluation.stride if kind == 'sliding' else evaluation.seq_len}")
    there = str(seed.training.get("path", "")) if _is_there(seed) else ""
    return verify_score.judge_score(found, said, verify_score.computing_path(seed.recipe.schedule.autocast, there))


def _is_there(seed: Seed) -> bool:
    try:
        return bool(seed.training)
    except CannotCheck:
        return False


def _isolation(seed: Seed) -> str:
    return verify_score.judge_isolation(seed.scoring.answer, seed.dataset)


SEED_CHECKS: dict[str, Callable[[Seed], str]] = {
    "recipe.json is whole": _recipe_json,
    "result.json is whole": _result_json,
    "the run's own hashes agree": _hashes,
    "the core here is the run's": _core,
    "the dataset here is the run's, and whole": _dataset,
    "the text is the track's": verify_bytes.track_text,
    "the artifact is this recipe's model": verify_bytes.same_model,
    "file and code fit under the cap": verify_bytes.cap,
    "ledger.json is the file's": verify_bytes.ledger,
    "log and metrics say the same": _logs,
    "seconds are within the budgets": _seconds,
    "every target is scored once": verify_bytes.once_each,
    "bytes are those of the decoded text": verify_bytes.text_bytes,
    "each score implies those bytes": verify_bytes.result_implies,
    "each logged score implies its bytes": _logged_triples,
    "raw and averaged scores are averaging.json's": _averaging,
    "probabilities sum to one": verify_score.probabilities,
    "no logit sees a later token": verify_score.causality,
    "round-trip score from the file alone": functools.partial(_rescored, kind="roundtrip"),
    "sliding score from the file alone": functools.partial(_rescored, kind="sliding"),
    "no network, no training data while scoring": _isolation,
}
"""Every check of one seed besides its artifact's own, quick ones first."""


def seed_rows(seed: Seed) -> list[Row]:
    """All checks of one seed."""
    rows = [judge(name, functools.partial(check, seed)) for name, check in SEED_CHECKS.items()]
    return [*artifact_rows(seed.artifact), *rows]


# ---------------------------------------------------------------------- all seeds of a recipe


def recipe_rows(folder: Path, how: dict[str, Any]) -> list[Row]:
    """What ties the seeds together, then every seed's own checks."""
    seeds = {number: Seed(path, **how) for number, path in seed_folders(folder).items()}
    rows = [
        judge("one recipe, dataset and core over all seeds", lambda: _one_experiment(folder, seeds)),
        judge("no seed and no log is missing", lambda: _nothing_missing(folder, seeds)),
        judge("summary.json is that of its seeds", lambda: _summary(folder, seeds)),
    ]
    for name, seed in seeds.items():
        rows += [(f"seed {name}: {check}", *rest) for check, *rest in seed_rows(seed)]
    return rows


def _one_experiment(folder: Path, seeds: dict[int, Seed]) -> str:
    fingerprint = recipe_in(folder).fingerprint
    found = {part: {str(seed.result.get(f"{part}_sha256")) for seed in seeds.values()} for part in HASHES}
    found["recipe"] |= {fingerprint} | {seed.recipe.fingerprint for seed in seeds.values()}
    evidence = [f"{part} {', '.join(sorted(one[:12] for one in hashes))}" for part, hashes in found.items()]
    return hold(all(len(hashes) == 1 for hashes in found.values()), "; ".join(evidence))


def _nothing_missing(folder: Path, seeds: dict[int, Seed]) -> str:
    wanted = (RECIPE_FILE, SEED_RESULT, ARTIFACT, *LOGS)
    missing = [f"seed{name}/{file}" for name, seed in seeds.items() for file in wanted
               if not (seed.folder / file).is_file()]  # fmt: skip
    hold(not missing, f"missing: {', '.join(missing)}")
    if (folder / SUMMARY_FILE).is_file():
        said = json_object(folder / SUMMARY_FILE).get("seeds")
        hold(said == list(seeds), f"summary.json names seeds {said}, the folders are {list(seeds)}")
    return f"seeds {', '.join(map(str, seeds))}, each with {', '.join(wanted)}"


def _summary(folder: Path, seeds: dict[int, Seed]) -> str:
    if not (folder / SUMMARY_FILE).is_file():
        raise CannotCheck("there is no summary.json")
    said = json_object(folder / SUMMARY_FILE)
    made = needed("whole results", lambda: summarise_seeds(_results(seeds)))
    wrong = first_difference(made, said)
    hold(not wrong, f"{wrong} is not what the seeds' result.json give")
    score = made["sliding_bpb"]
    spread = f" ± {score['std']:.6f}" if score["std"] is not None else ""
    return f"sliding {score['mean']:.6f}{spread}, n = {score['n']}, and {len(made) - 1} more keys"


def _results(seeds: dict[int, Seed]) -> dict[int, Result]:
    return {name: Result.read(seed.folder / SEED_RESULT) for name, seed in seeds.items()}


def first_difference(expected: Any, found: Any, place: str = "") -> str:
    """Where two JSON values differ, numbers to 1e-9; empty if nowhere."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in {**{str(key): 0 for key in expected}, **found}:
            inside = f"{place}.{key}" if place else key
            if key not in expected or key not in found:
                return inside
            wrong = first_difference(expected[key], found[key], inside)
            if wrong:
                return wrong
        return ""
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return next(filter(None, (first_difference(*pair, f"{place}[{i}]") for i, pair in pairs)), "")
    if is_number(expected) and is_number(found):
        return "" if math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-12) else place
    return "" if expected == found and type(expected) is type(found) else place

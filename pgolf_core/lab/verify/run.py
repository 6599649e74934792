"""Checks of `pgolf verify` on an artifact alone, on one seed's files and artifact, and on all seeds of a recipe."""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.base.names import ADAPT_TRACE, ARTIFACT, METRICS, SCORES, SEED_RESULT, TRAIN_LOG
from pgolf_core.base.strict import build
from pgolf_core.lab.compare import agreement
from pgolf_core.lab.compare.agreement import FILE_HASHES, HASHES, first_difference
from pgolf_core.lab.compare.results import SCORE_LABELS, seed_folders
from pgolf_core.lab.export import code_bytes_of
from pgolf_core.lab.record.folder import STAGES
from pgolf_core.lab.report.reading import not_of_file
from pgolf_core.lab.report.seeds import summarise_seeds
from pgolf_core.lab.shared import places
from pgolf_core.lab.shared.places import (
    AVERAGING_FILE,
    ENV_FILE,
    LEDGER_FILE,
    RECIPE_FILE,
    SEED_FOLDER,
    SUMMARY_FILE,
    core_sha256,
)
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.lab.verify.evidence.adapting import adapt_checks
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck, Row, hold, judge_all, needed, require
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.evidence.text import Text
from pgolf_core.lab.verify.reading.logs import Log, agreed_steps, read_log
from pgolf_core.lab.verify.reading.numbers import agrees
from pgolf_core.lab.verify.reading.reviewed import BUDGET_SECONDS, MODEL_CHECKS, TEXT_CHECKS, Artifact, Seed, header_of
from pgolf_core.lab.verify.reading.untrusted import hold_hash, json_lines, json_object, read_text
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.format import PREAMBLE
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.unpack import load_model, read_header
from pgolf_core.recipes.recipe import Recipe, recorded
from pgolf_core.result import Result

LOGS, MAX_STAGES = (TRAIN_LOG, METRICS), 100
KEPT = {name for stage in STAGES for name in (stage.result, *stage.leaves)}
TIMERS = ("train", "scoring", "adapting")
"""Parts of result.json's seconds that the two budgets are for, evaluation's the last two; the others lie outside."""


# ---------------------------------------------------------------------- the artifact alone


def artifact_rows(path: Path, how: How | None = None) -> list[Row]:
    """Checks that need nothing but the file; and what a scoring shows, if `how` names a dataset for it."""
    checks = {
        "artifact opens and is whole": _opens, "header and streams make up the file": _adds_up,
        "tensors fit the artifact's own model": _fits,
    }  # fmt: skip
    rows = judge_all(checks, path)
    if not how or not how.data:
        return rows
    scored = {name.removeprefix("sliding "): check for name, check in MODEL_CHECKS.items() if "round-trip" not in name}
    return rows + judge_all(scored, Artifact(path, how))


def _opens(path: Path) -> str:
    tensors = read_header(path)["tensors"]
    return f"its checksum holds: {len(tensors)} tensors; SHA-256 of the file {sha256_file(path):.16}…"


def _adds_up(path: Path) -> str:
    streams = header_of(path)["streams"]
    with open(path, "rb") as file:
        _, _, length = PREAMBLE.unpack(file.read(PREAMBLE.size))
    parts = {"preamble": PREAMBLE.size, "header": length, **streams}
    total, size = sum(parts.values()), path.stat().st_size
    return hold(total == size, f"{' + '.join(f'{n} {b:,}' for n, b in parts.items())} = {total:,}; file {size:,}")


def _fits(path: Path) -> str:
    header_of(path)
    model = load_model(path, torch.device("cpu"))
    return f"{sum(p.numel() for p in model.parameters()):,} parameters in {so_many(model.config.num_layers, 'layer')}"


# ---------------------------------------------------------------------- one seed's own files


def agree(complaints: Iterable[str]) -> None:
    """Broken with the first complaint about files that should agree."""
    for complaint in complaints:
        raise Broken(complaint)


def _recipe_json(seed: Seed) -> str:
    found, said = seed.recipe_file.fingerprint, json_object(seed.folder / RECIPE_FILE).get("fingerprint")
    return hold(said == found, f"fingerprint {found:.12}…, it says {said!s:.12}…")


def _result_json(seed: Seed) -> str:
    result, recipe = seed.result_file, seed.recipe
    named = SEED_FOLDER.fullmatch(seed.folder.resolve().name)
    agree(agreement.unequal(result, "the folder's name", seed=int(named[1]) if named else result.seed))
    agree(agreement.by_recipe(result, recipe))
    return f"seed {result.seed}, {len(result.to_dict())} values of their types"


def _hashes(seed: Seed) -> str:
    count = hold_marks(seed.folder, seed.result)
    for name, digest in ((SCORES, seed.result.scores_sha256), (ADAPT_TRACE, seed.result.adapt_sha256)):
        hold(bool(digest) or not (seed.folder / name).exists(), f"{SEED_RESULT} has no hash of {name}, which is there")
    kept = f", {seed.scores.name}" if seed.result.scores_sha256 is not None else ""
    return f"{SEED_RESULT}, {RECIPE_FILE}{kept}, {ENV_FILE} and {so_many(count, 'stage')}"


def hold_marks(folder: Path, result: Result) -> int:
    """How many stages left their marks in a seed's or a recipe's folder: with the hashes that a result has, and with
    those of the files there."""
    said = {part: getattr(result, f"{part}_sha256") for part in HASHES}
    files = [folder / ENV_FILE, *sorted((folder / "stages").glob("*.json"))]
    hold(len(files) <= MAX_STAGES, f"{len(files)} stages are more than any run has")
    left: dict[str, Any] = {}
    for path in files:
        mark = json_object(path)
        hold(mark.get("hashes") == said, f"{path.name} has other hashes than {SEED_RESULT}")
        told = mark.get(FILE_HASHES, {})
        left |= told if isinstance(told, dict) else {}
    for name in KEPT & left.keys():
        if (folder / name).exists():
            hold_hash(folder / name, left[name])
    return len(files) - 1


def _core(seed: Seed) -> str:
    here, there = core_sha256(), seed.result.core_sha256
    require(here == there, f"scores are taken with the core here, {here:.12}…; the run's was {there:.12}…")
    return f"{here:.12}…"


def _averaging(seed: Seed) -> str:
    values = json_object(seed.folder / AVERAGING_FILE)
    agree(agreement.by_averaging(seed.result, values))
    return "equal; they are of saved weights, not of the artifact, and are not taken anew"


def _logs(seed: Seed) -> str:
    """Every line of the log and of the metrics says the same; result.json's counts are theirs."""
    for name in LOGS:
        hold((seed.folder / name).is_file(), f"there is no {name}")
    # where these two are broken, this check fails, and others cannot be made
    metrics, training, result = json_lines(seed.folder / METRICS), seed.training_file, seed.result
    lines = {kind: {row["step"]: row for row in metrics if row.get("kind") == kind} for kind in ("train", "val")}
    hold(bool(lines["train"]), f"{METRICS} has no training step")
    steps = max(lines["train"])
    tokens = steps * seed.recipe.data.batch_tokens
    agree(agreement.unequal(result, METRICS, steps=steps, tokens=tokens))
    agree(agreement.by_training(result, training))
    text = read_text(seed.folder / TRAIN_LOG)
    compared = agreed_steps(text, lines["train"], lines["val"], bool(result.resumed_at_steps))
    for name, line in (("seed", "seed"), ("ranks", "world_size")):
        for said in re.findall(rf"^{line}:(\d+)", text, re.MULTILINE)[-1:]:
            agree(agreement.unequal(result, TRAIN_LOG, **{name: int(said)}))
    _closing_lines(read_log(seed.folder / TRAIN_LOG, TRAIN_LOG), result)
    return f"{so_many(steps, 'step')}, {tokens:,} tokens; {METRICS} and {TRAIN_LOG} agree ({so_many(compared, 'line')})"


def _closing_lines(log: Log, result: Result) -> None:
    """Sizes, scores and scoring time at the end of train.log, where they are there, are the result's."""
    sizes = {name.replace("model", "artifact"): size for name, size in log.last_sizes.items()}
    agree(agreement.unequal(result, TRAIN_LOG, **sizes))
    for one in log.finals:
        kind = next((kind for kind in ("sliding", "adapted") if kind in one.label), "roundtrip")
        for key, text in (("loss", one.loss), ("bpb", one.bpb)):
            value = getattr(result, f"{kind}_{key}") or 0.0
            hold(agrees(text, value), f"{one.label}: {key} {text} in {TRAIN_LOG}, {value} in {SEED_RESULT}")
    told, counted = log.times["eval"], 1000 * sum(result.seconds.get(name, 0.0) for name in TIMERS[1:])
    scored = sum(told)
    is_timed = not told or abs(scored - counted) <= len(told)
    hold(is_timed, f"scoring took {scored:.0f} ms in {TRAIN_LOG}, {counted:.0f} ms in {SEED_RESULT}")


def _seconds(seed: Seed) -> str:
    """Within the two budgets, the parts add up, and the log's own clock says the same."""
    seconds = seed.result.seconds
    hold(all(name in seconds for name in ("train", "scoring", "total")), "its seconds lack train, scoring or total")
    hold(min(seconds.values()) >= 0, "its seconds are negative")
    total = sum(value for name, value in seconds.items() if name != "total")
    hold(math.isclose(total, seconds["total"], rel_tol=1e-6, abs_tol=1e-3), f"its parts make {total:.3f} s, not total")
    train, scoring = seconds["train"], sum(seconds.get(name, 0.0) for name in TIMERS[1:])
    agree(agreement.by_timers(seed.result, seed.training))
    agree(agreement.by_clock(seed.result, seed.metrics))
    step = train / max(seed.result.steps, 1)
    hold(seed.result.over_cap_seconds is None, f"training took {train:.1f} s, over the recipe's own cap")
    schedule = seed.recipe.schedule
    over = f"training took {train:.2f} s, the recipe's cap is {schedule.max_seconds:g} s"
    hold(not schedule.over_cap_seconds(train), over)
    hold(train <= BUDGET_SECONDS + 2 * step, f"training took {train:.1f} s of {BUDGET_SECONDS}")
    hold(scoring <= BUDGET_SECONDS, f"scoring took {scoring:.1f} s of {BUDGET_SECONDS}")
    outside = [f"{name} {value:.1f}" for name, value in seconds.items() if name not in (*TIMERS, "total")]
    spent = f"training {train:.1f} s and scoring {scoring:.1f} s, {BUDGET_SECONDS} s allowed each"
    return f"{spent}; outside the timers: {', '.join(outside) or 'nothing'} s"


# ---------------------------------------------------------------------- file and code of a run


def same_model(seed: Seed) -> str:
    """The artifact's configuration and grids are the recipe's."""
    header = header_of(seed.artifact)
    hold(header["model"] == recorded(seed.recipe.model), "its configuration is not recipe.json's model")
    shapes = parameter_shapes(seed.recipe.model)
    count, said = sum(map(math.prod, shapes.values())), seed.result.parameters
    hold(said == count, f"the model has {count:,} parameters, result.json says {said:,}")
    if seed.recipe.quant.allocation == "gradient":
        return f"its configuration, {count:,} parameters; grids by gradient are not compared"
    expected = grid_names_for(shapes, seed.recipe.quant)
    differing = [name for name, grid, _ in header["tensors"] if expected.get(name) != grid]
    hold(not differing, f"on another grid: {', '.join(differing[:1])}")
    return f"its configuration and grids, {count:,} parameters"


def cap(seed: Seed) -> str:
    """Literal bytes of file and code, the recorded ones, and the track's cap."""
    hold(seed.artifact.is_file(), f"there is no {seed.artifact.name}")
    size, result, most = seed.artifact.stat().st_size, seed.result, seed.recipe.cap_bytes
    code = result.code_bytes
    hold(size == result.artifact_bytes, f"the file has {size:,} bytes, result.json says {result.artifact_bytes:,}")
    hold(result.cap_bytes == most, f"the cap of {seed.recipe.track} is {most:,}, not result.json's")
    hold(result.total_bytes == size + code, "total_bytes is not file + code")
    evidence = hold(size + code <= most, f"file {size:,} + code {code:,} = {size + code:,}; cap {most:,}")
    return f"{evidence}; {_counted_code(seed, code)}"


def _counted_code(seed: Seed, code: int) -> str:
    """What has exactly `code` bytes: a script beside the run, or what `pgolf export` writes."""
    for script in (seed.folder / places.SCRIPT, seed.folder.parent / places.SCRIPT):
        if script.is_file():
            size, digest = script.stat().st_size, seed.result.script_sha256
            hold(code == size, f"{places.SCRIPT} has {size:,} bytes, result.json says {code:,}")
            return hold(sha256_file(script) == digest, f"{places.SCRIPT} has {size:,} bytes, and result.json's hash")
    is_same_core = core_sha256() == seed.result.core_sha256
    require(is_same_core, f"the code that was counted is not here: the core of the run is another ({code:,} bytes)")
    try:
        exported = code_bytes_of(seed.recipe)
    except UserError as error:
        raise CannotCheck(f"the script that was counted cannot be made: {error}") from None
    return hold(code == exported, f"the exported script has {exported:,} bytes, result.json says {code:,}")


def ledger(seed: Seed) -> str:
    """ledger.json against the file: its parts, and each tensor's name, grid, shape and raw bytes."""
    told: Ledger = build(Ledger, json_object(seed.folder / LEDGER_FILE), LEDGER_FILE)
    header, size, result = header_of(seed.artifact), seed.artifact.stat().st_size, seed.result
    tensors = header["tensors"]
    _correction(told.correction, seed.recipe, {name for name, grid, _ in tensors if grid != "fp16"})
    agree(agreement.by_ledger(result, told))
    agree(not_of_file(told, header, size))
    parts = {key: getattr(told, f"{key}_bytes") for key in ("weights", "fp16", "scales", "header", "file")}
    text = ", ".join(f"{key} {value:,}" for key, value in parts.items())
    return f"{text}; {len(tensors)} tensors"


def _correction(told: dict[str, Any] | None, recipe: Recipe, matrices: set[str]) -> None:
    """What a ledger tells of a correction is the recipe's, and of matrices that the file has on a grid or on steps."""
    is_off, damping = recipe.quant.correction == "off", recipe.quant.correction_damping
    hold(told is None or not is_off, "it tells of a correction that the recipe has not")
    hold(bool(told) or is_off, "it tells nothing of the recipe's correction")
    if not told:
        return
    hold(told.get("damping") == damping, f"correction: damping {told.get('damping')}, the recipe has {damping:g}")
    raised, plain = told.get("raised"), told.get("plain")
    listed = {*raised, *map(str, plain)} if isinstance(raised, dict) and isinstance(plain, list) else {""}
    hold(listed <= matrices, "correction: raised or plain are no matrices of the file")
    counts: list[Any] = [told.get("matrices"), told.get("tokens")]
    hold(all(is_number(n) and n > 0 for n in counts), f"correction: {counts} are no numbers of matrices and tokens")
    is_of_file = len(raised or ()) <= counts[0] <= len(matrices - set(plain or ()))
    hold(is_of_file, f"correction: {counts[0]} matrices, not the file's")


def _result_implies(seed: Seed) -> str:
    """Every score of result.json implies the bytes of its targets, the stream's first."""
    result, evidence = seed.result, []
    for kind in (*SCORE_LABELS, *(["adapted"] if result.adapted_bpb is not None else [])):
        pair = {key: getattr(result, f"{kind}_{key}") for key in ("loss", "bpb")}
        targets = result.raw_targets if kind in ("raw", "averaged") else result.val_targets
        evidence.append(seed.text.implied(kind, pair, targets))
    return ", ".join(evidence)


def _metrics_imply(seed: Seed) -> str:
    """Every validation of metrics.jsonl implies the bytes of the targets that it says it covers."""
    rows = [row for row in seed.metrics if row.get("kind") == "val"]
    require(bool(rows), f"{METRICS} logs no validation")
    for row in rows:
        seed.text.implied(f"step {row.get('step')}", row, row.get("targets"))
    return f"{so_many(len(rows), 'logged validation')}, the last over {rows[-1]['targets']:,} targets"


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
    return artifact_rows(seed.artifact) + judge_all(SEED_CHECKS | adapt_checks(seed), seed)


# ---------------------------------------------------------------------- all seeds of a recipe


def recipe_rows(folder: Path, how: How) -> list[Row]:
    """What ties the seeds together, then every seed's own checks."""
    texts: dict[str, Text] = {}
    seeds = {number: Seed(folder / f"seed{number}", how, texts) for number in seed_folders(folder)}
    checks = {
        "one recipe, dataset and core over all seeds": _one_experiment,
        "no seed and no log is missing": _nothing_missing, "summary.json is that of its seeds": _summary,
    }  # fmt: skip
    rows = judge_all(checks, folder, seeds)
    for name, seed in seeds.items():
        rows += [row.under(f"seed {name}") for row in seed_rows(seed)]
    return rows


def _one_experiment(folder: Path, seeds: dict[int, Seed]) -> str:
    found = {part: {getattr(seed.result, f"{part}_sha256") for seed in seeds.values()} for part in HASHES}
    recipes = [Seed(folder, How()).recipe_file, *(seed.recipe for seed in seeds.values())]
    found["recipe"] |= {recipe.fingerprint for recipe in recipes}
    evidence = [f"{part} {', '.join(sorted(one[:12] for one in hashes))}" for part, hashes in found.items()]
    hold(all(len(hashes) == 1 for hashes in found.values()), "; ".join(evidence))
    hold_marks(folder, next(iter(seeds.values())).result)
    return "; ".join(evidence)


def _nothing_missing(folder: Path, seeds: dict[int, Seed]) -> str:
    wanted = (RECIPE_FILE, SEED_RESULT, ARTIFACT, *LOGS)
    missing = [f"seed{name}/{file}" for name, seed in seeds.items() for file in wanted
               if not (seed.folder / file).is_file()]  # fmt: skip
    stray = sorted(path.name for path in folder.glob("seed0?*") if path.is_dir() and path.name[4:].isdecimal())
    hold(not stray, f"{', '.join(stray[:3])}: not read, since the name of a seed's folder has no zero before it")
    hold(not missing, f"missing: {', '.join(missing)}")
    if (folder / SUMMARY_FILE).is_file():
        said = json_object(folder / SUMMARY_FILE).get("seeds")
        hold(_are(said, seeds), f"{SUMMARY_FILE} names seeds {said}, the folders are {list(seeds)}")
    return f"seeds {', '.join(map(str, seeds))}, each with {', '.join(wanted)}"


def _are(said: Any, seeds: Iterable[int]) -> bool:
    """Whether these are the seeds, in whatever order they were reported."""
    return isinstance(said, list) and sorted(map(repr, said)) == sorted(map(repr, seeds))


def _summary(folder: Path, seeds: dict[int, Seed]) -> str:
    require((folder / SUMMARY_FILE).is_file(), f"there is no {SUMMARY_FILE}")
    said = json_object(folder / SUMMARY_FILE)
    order = said["seeds"] if _are(said.get("seeds"), seeds) else seeds
    made = needed("whole results", lambda: summarise_seeds({seed: seeds[seed].result for seed in order}))
    wrong = first_difference(made, said)
    hold(not wrong, f"{wrong} is not what the seeds' {SEED_RESULT} give")
    score = made["sliding_bpb"]
    spread = f" ± {score['std']:.6f}" if score["std"] is not None else ""
    return f"sliding {score['mean']:.6f}{spread}, n = {score['n']}, and {len(made) - 1} more keys"

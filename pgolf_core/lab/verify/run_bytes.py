"""Bytes that `pgolf verify` counts: an artifact's own, those of file and code, and those of the scored text."""

from __future__ import annotations

import functools
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pgolf_core.base.files import UserError, sha256_file
from pgolf_core.lab.compare.arms import FINEWEB_BYTES, FINEWEB_TRACK, SAME_BYTES
from pgolf_core.lab.data.dataset import SOTU_NAME, validation_documents
from pgolf_core.lab.data.sotu import SOTU_EXPECTED
from pgolf_core.lab.look.n06_scoring import times_scored
from pgolf_core.lab.shared.places import LEDGER_FILE, SCRIPT, core_sha256
from pgolf_core.lab.verify.evidence.checks import (
    Broken,
    CannotCheck,
    Row,
    hold,
    is_number,
    json_object,
    judge,
    needed,
    number,
)
from pgolf_core.network.grid import STEPS, grid_names_for
from pgolf_core.network.model import parameter_shapes
from pgolf_core.network.score import plan_windows
from pgolf_core.packing.unpack import load_model, read_header
from pgolf_core.recipes.recipe import Recipe, to_dict
from pgolf_core.seed import SCORE_NAMES

if TYPE_CHECKING:
    from pgolf_core.lab.data.dataset import Dataset
    from pgolf_core.lab.verify.run import Seed

TEXT_OF_TRACK = {FINEWEB_TRACK: ("fineweb", FINEWEB_BYTES, SAME_BYTES),
                 "local_10min_1mb": (SOTU_NAME, SOTU_EXPECTED["val"][1], 0.0)}  # fmt: skip
"""Track -> beginning of its datasets' names, bytes of its validation text, and how far a tokenizer's own count may
differ (FineWeb's tokenizers normalise, each in its way)."""
TRIPLE_TOLERANCE = 1e-6
MAX_WINDOWS = 4_000_000

# ---------------------------------------------------------------------- the artifact alone


def artifact_rows(path: Path) -> list[Row]:
    """The three checks that need nothing but the file."""
    checks = (
        ("artifact opens and is whole", _opens),
        ("header and streams make up the file", _adds_up),
        ("tensors fit the artifact's own model", _fits),
    )
    return [judge(name, functools.partial(check, path)) for name, check in checks]


def _opens(path: Path) -> str:
    tensors = read_header(path)["tensors"]
    return f"its checksum holds: {len(tensors)} tensors; SHA-256 of the file {sha256_file(path):.16}…"


def header_of(path: Path) -> dict[str, Any]:
    """The artifact's header, where it opens."""
    return needed("an artifact that opens", lambda: read_header(path))


def _adds_up(path: Path) -> str:
    streams = header_of(path)["streams"]
    with open(path, "rb") as file:
        _, _, length = struct.unpack("<8sHI", file.read(14))
    parts = {"preamble": 14, "header": length, **streams}
    total, size = sum(parts.values()), path.stat().st_size
    return hold(total == size, f"{' + '.join(f'{n} {b:,}' for n, b in parts.items())} = {total:,}; file {size:,}")


def _fits(path: Path) -> str:
    header_of(path)
    model = load_model(path, torch.device("cpu"))
    return f"{sum(p.numel() for p in model.parameters()):,} parameters in {model.config.num_layers} layers"


# ---------------------------------------------------------------------- file and code of a run


def same_model(seed: Seed) -> str:
    """The artifact's configuration and grids are the recipe's."""
    header = header_of(seed.artifact)
    hold(header["model"] == to_dict(seed.recipe)["model"], "its configuration is not recipe.json's model")
    shapes = parameter_shapes(seed.recipe.model)
    count = sum(math.prod(shape) for shape in shapes.values())
    said = number(seed.result, "parameters")
    hold(said == count, f"the model has {count:,} parameters, result.json says {said:,}")
    if seed.recipe.quant.allocation == "gradient":
        return f"its configuration, {count:,} parameters; grids by gradient are not compared"
    expected = grid_names_for(shapes, seed.recipe.quant)
    differing = [name for name, grid, _ in header["tensors"] if expected.get(name) != grid]
    evidence = f"on another grid: {differing[0]}" if differing else f"its configuration and grids, {count:,} parameters"
    return hold(not differing, evidence)


def cap(seed: Seed) -> str:
    """Literal bytes of file and code, the recorded ones, and the track's cap."""
    size, recorded = seed.artifact.stat().st_size, number(seed.result, "artifact_bytes")
    hold(size == recorded, f"the file has {size:,} bytes, result.json says {recorded:,}")
    code, most = number(seed.result, "code_bytes"), seed.recipe.cap_bytes
    hold(number(seed.result, "cap_bytes") == most, f"the cap of {seed.recipe.track} is {most:,}, not result.json's")
    hold(number(seed.result, "total_bytes") == size + code, "total_bytes is not file + code")
    evidence = hold(size + code <= most, f"file {size:,} + code {code:,} = {size + code:,}; cap {most:,}")
    return f"{evidence}; {_counted_code(seed, code)}"


def _counted_code(seed: Seed, code: float) -> str:
    """What has exactly `code` bytes: a script beside the run, or what `pgolf export` writes."""
    for script in (seed.folder / SCRIPT, seed.folder.parent / SCRIPT):
        if script.is_file():
            size = script.stat().st_size
            return hold(code == size, f"train_gpt.py has {size:,} bytes, result.json says {code:,}")
    if core_sha256() != seed.result.get("core_sha256"):
        raise CannotCheck(f"the code that was counted is not here: the core of the run is another ({code:,} bytes)")
    try:
        exported = exported_bytes(seed.recipe)
    except UserError as error:
        raise CannotCheck(f"the script that was counted cannot be made: {error}") from None
    return hold(code == exported, f"the exported script has {exported:,} bytes, result.json says {code:,}")


def exported_bytes(recipe: Recipe) -> int:
    """Bytes of the script that `pgolf export` writes for a recipe, which takes some seconds."""
    from pgolf_core.lab.export import code_bytes_of

    return code_bytes_of(recipe)


def ledger(seed: Seed) -> str:
    """ledger.json against the file: its parts, and each tensor's name, grid, shape and raw bytes."""
    values, header = json_object(seed.folder / LEDGER_FILE), header_of(seed.artifact)
    streams, size = header["streams"], seed.artifact.stat().st_size
    stepped = streams.get(STEPS, 0)
    parts = {"weights_bytes": streams["codes"] + streams["fp16"] + stepped, "fp16_bytes": streams["fp16"]}
    parts |= {"scales_bytes": streams["scales"], "header_bytes": size - sum(streams.values()), "file_bytes": size}
    total = size + number(seed.result, "code_bytes")
    said = {"code_bytes": number(seed.result, "code_bytes"), "total_bytes": total}
    said["cap_bytes"] = number(seed.result, "cap_bytes")
    for key, expected in {**parts, **said}.items():
        hold(_same(values.get(key), expected), f"{key} {values.get(key)}, not {expected:,}")
    rows = values.get("tensors")
    hold(isinstance(rows, list) and len(rows) == len(header["tensors"]), "it lists other tensors than the file")
    for row, (name, grid, shape) in zip(rows, header["tensors"], strict=True):
        elements = math.prod(shape)
        scales = 0 if grid in ("fp16", STEPS) else 2 * shape[0]
        known = {"name": name, "grid": grid, "shape": shape, "elements": elements}
        known |= {"raw_bytes": elements * (2 if grid == "fp16" else 1), "scales_raw_bytes": scales}
        known |= {"compressed_bytes": None} if grid == "fp16" else {}
        wrong = [key for key in known if not isinstance(row, dict) or not _same(row.get(key), known[key])]
        hold(not wrong, f"{name}: {wrong[0] if wrong else ''} is not the file's")
    sums: dict[str, int] = {}  # a stream of no tensor is an empty frame, and no tensor's bytes
    for row in rows:
        if row["grid"] != "fp16":
            hold(is_number(row["compressed_bytes"]), f"{row['name']}: compressed_bytes is no number")
            stream = STEPS if row["grid"] == STEPS else "codes"
            sums[stream] = sums.get(stream, 0) + row["compressed_bytes"]
    for stream, total in sums.items():
        hold(total == streams.get(stream, 0), f"compressed_bytes do not make up the {stream}")
    spent = values.get("steps")
    if STEPS in streams:
        whole = isinstance(spent, dict) and all(is_number(spent.get(key)) for key in ("side_bytes", "coded_bytes"))
        hold(
            whole and spent["side_bytes"] + spent["coded_bytes"] == stepped,
            "side and coded bytes do not make up the steps",
        )
    else:
        hold(spent is None, "it tells of steps that the file has not")
    _correction(values.get("correction"), seed.recipe, {row["name"] for row in rows if row["grid"] != "fp16"})
    text = ", ".join(f"{key.removesuffix('_bytes')} {value:,}" for key, value in parts.items())
    return f"{text}; {len(rows)} tensors"


def _correction(told: Any, recipe: Recipe, matrices: set[str]) -> None:
    """What a ledger tells of a correction is the recipe's, and of matrices that the file has on a grid or on steps."""
    if recipe.quant.correction == "off":
        hold(told is None, "it tells of a correction that the recipe has not")
        return
    hold(isinstance(told, dict), "it tells nothing of the recipe's correction")
    damping = recipe.quant.correction_damping
    hold(told.get("damping") == damping, f"correction: damping {told.get('damping')}, the recipe has {damping:g}")
    raised, plain = told.get("raised"), told.get("plain")
    listed = isinstance(raised, dict) and isinstance(plain, list)
    hold(listed and {*raised, *map(str, plain)} <= matrices, "correction: raised or plain are no matrices of the file")
    counts = [told.get("matrices"), told.get("tokens")]
    hold(all(is_number(n) and n > 0 for n in counts), f"correction: {counts} are no numbers of matrices and tokens")
    hold(len(raised) <= counts[0] <= len(matrices - set(plain)), f"correction: {counts[0]} matrices, not the file's")


def _same(said: Any, expected: Any) -> bool:
    return type(said) is type(expected) and said == expected


# ---------------------------------------------------------------------- the scored text


def scored_once(tokens: Any, window: int, stride: int) -> str:
    """Every target of the stream exactly once, at both strides."""
    targets = len(tokens) - 1
    if not 1 <= stride <= window:
        raise Broken(f"a window of {window} and a stride of {stride} are no way to score")
    if targets / stride > MAX_WINDOWS:
        raise CannotCheck(f"a stride of {stride} over {targets:,} targets makes more than {MAX_WINDOWS:,} windows")
    for step in (window, stride):
        wrong = int((times_scored(plan_windows(targets, window, step), targets) != 1).sum())
        hold(wrong == 0, f"stride {step}: {wrong:,} targets not scored exactly once")
    return f"{targets:,} targets, window {window}, strides {window} and {stride}"


def all_documents(dataset: Dataset, tokens: Any, bos_id: int) -> str:
    """The stream holds as many documents as the manifest lists, none left out."""
    found, listed = int((tokens == bos_id).sum()), dataset.manifest["totals"]["val"]["documents"]
    return hold(found == listed, f"{found:,} documents in the stream, {listed:,} in the manifest")


def once_each(seed: Seed) -> str:
    """Every token once and all documents, and the recorded counts."""
    targets, window = len(seed.tokens) - 1, seed.recipe.eval.seq_len
    hold(number(seed.result, "val_targets") == targets, f"{targets:,} targets, result.json says otherwise")
    said = (seed.result.get("window", window), number(seed.result, "sliding_stride"))
    hold(said == (window, seed.recipe.eval.stride), f"window and stride {said} are not the recipe's")
    once = scored_once(seed.tokens, window, seed.recipe.eval.stride)
    return f"{once}; {all_documents(seed.dataset, seed.tokens, seed.tokenizer.bos_id)}"


def text_bytes(seed: Seed) -> str:
    """Bytes of the decoded validation text, those of its tokens, and the recorded ones."""
    said = number(seed.result, "val_bytes")
    counted, kind = decoded_bytes(seed.dataset, seed.tokenizer, seed.tokens)
    return hold(said == counted, f"text {counted:,}{kind}, its tokens the same; result.json {said:,}")


def decoded_bytes(dataset: Dataset, tokenizer: Any, tokens: Any) -> tuple[int, str]:
    """(UTF-8 bytes of the decoded documents, what kind of text); Broken where the tokens count otherwise."""
    counted = tokenizer.bytes.total(tokens)
    text = sum(len(text.encode("utf-8")) for _, text in validation_documents(dataset))
    kind = "" if tokenizer.lossless else " (of the text as the tokenizer normalises it)"
    hold(counted == text, f"text {text:,}{kind}, tokens {counted:,}")
    return text, kind


def implied_bytes(loss: float, bpb: float, targets: int) -> float:
    """bpb = targets x nats / (ln 2 x bytes), solved for the bytes; Broken for a score that is none."""
    if not bpb > 0 or not loss > 0:
        raise Broken(f"loss {loss} and bpb {bpb} are no score")
    return targets * loss / (math.log(2) * bpb)


def hold_triple(seed: Seed, what: str, loss: float, bpb: float, targets: Any) -> str:
    """A logged triple against the real bytes of its targets: the stream's first `targets`."""
    hold(type(targets) is int and 0 < targets < len(seed.tokens), f"{what}: {targets!r} targets")
    implied, real = implied_bytes(loss, bpb, targets), seed.tokenizer.bytes.total(seed.tokens[: targets + 1])
    evidence = f"{what} {implied:,.1f} of {real:,}"
    return hold(abs(implied - real) < min(0.5, TRIPLE_TOLERANCE * real), evidence)


def result_implies(seed: Seed) -> str:
    """The four scores of result.json."""
    whole, evidence = number(seed.result, "val_targets"), []
    for kind in SCORE_NAMES:
        targets = seed.result.get("raw_targets", whole) if kind in ("raw", "averaged") else whole
        loss, bpb = number(seed.result, f"{kind}_loss"), number(seed.result, f"{kind}_bpb")
        evidence.append(hold_triple(seed, kind, loss, bpb, targets))
    return ", ".join(evidence)


def track_text(seed: Seed) -> str:
    """The text that was scored is the one that the track's scores are compared on."""
    return is_text_of_track(seed.recipe.track, seed.dataset, seed.tokenizer.bytes.total(seed.tokens))


def whole_dataset(dataset: Dataset, progress: bool) -> str:
    """File hashes, documents out of the shards, and splits that are apart, all read again."""
    checked, proof = dataset.verify(progress), dataset.manifest["disjointness"]
    return (
        f"{dataset.name}, manifest {dataset.manifest_sha256:.12}…: {checked}; "
        f"{proof.get('val_texts_in_train', 0):,} validation texts in training"
    )


def is_text_of_track(track: str, dataset: Dataset, counted: int) -> str:
    """CannotCheck for another dataset than the track's; Broken where its bytes are not the known ones."""
    if track not in TEXT_OF_TRACK:
        raise CannotCheck(f"the text of track '{str(track)[:40]}' is not known")
    name, known, tolerance = TEXT_OF_TRACK[track]
    if not dataset.name.startswith(name):
        raise CannotCheck(f"the score is of {dataset.name}, and {track} compares scores on {name}* ({known:,} bytes)")
    how = f"within {tolerance:.1%}" if tolerance else "exactly"
    return hold(abs(counted - known) <= tolerance * known, f"{counted:,} bytes; {track} has {known:,}, {how}")

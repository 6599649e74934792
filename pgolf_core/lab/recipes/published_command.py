"""A published run command, `NAME=value … torchrun train_gpt.py`, becomes a recipe: `pgolf recipes --from-command`.

`published_scripts` says of every script which names it reads, with its own defaults, and what its code fixes whatever
the names say. The recipe is what that script really does with the values, so the five published commands give the
recipes `prN-as-run`. What changes nothing, or what no recipe can say, comes back as a report.

Keys that play no part keep the recipes' usual value (the decay of an EMA that is off), so that equal runs have equal
fingerprints. The cadences of validation and logging, where not given, are those of the published logs: no command sets
them, and the logs of PR 194 and 315 differ from their scripts' defaults. They change no weight, and a report says so.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pgolf_core.base.files import UserError
from pgolf_core.lab.recipes.published_scripts import RANKS, SCRIPTS, Script, Value
from pgolf_core.lab.recipes.settings import differences
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import Recipe, from_dict, to_dict

UNKNOWN, NO_EFFECT, OUTSIDE = "unknown", "no effect", "outside the recipe"
NOT_EXPRESSED, FROM_LOGS, LEFT_OUT = "not expressed", "from the logs", "left out"

KEPT_BLOCKS_534 = (0, 10)
"""PR 534 leaves the first block and those from the eleventh on at full int8 steps (papers/records/pr534.md)."""


@dataclass(frozen=True)
class Report:
    """What became of one name that is not simply a value of the recipe."""

    name: str
    value: str
    kind: str
    """unknown (the script does not read it), no effect (read, or thought to be, and idle), outside the recipe (of the
    machine or the call), not expressed (this core cannot do it), from the logs (not in the command), left out (another
    command of the block)."""
    reason: str

    def __str__(self) -> str:
        value = "" if self.kind == LEFT_OUT else f"={_printable(self.value)}"
        return f"{self.name}{value}: {self.kind}: {self.reason}"


@dataclass(frozen=True)
class Resolved:
    """A command's recipe and all that has to be said about it."""

    recipe: Recipe
    reports: tuple[Report, ...]
    toml: str
    """A complete recipe file: `load_recipe` reads it back to the same fingerprint."""


def recipe_from_command(command: str, script: str) -> Resolved:
    """The recipe that `script` (a key of SCRIPTS) runs when called by `command`: shell words, or a block of lines.

    Raises UserError, in one line, for words of another form, a name given twice with different values, a value of the
    wrong type, and values that no recipe can hold.
    """
    if script not in SCRIPTS:
        raise UserError(f"unknown script '{script}'; known: {', '.join(SCRIPTS)}")
    block, table = read_block(command), SCRIPTS[script]
    given = block.values
    reports = list(_idle_reports(table, given))
    reports += (Report(_printable(other), "", LEFT_OUT, "not the training command") for other in block.left_out)
    values: dict[str, Value] = {}
    for name, (default, _) in table.reads.items():
        values[name] = _typed(name, given[name], default, table) if name in given else default
    for name, logged in table.logged.items():
        if name not in given:
            why = f"the command does not set it; the runs logged show {logged}, the script's default is {values[name]}"
            reports.append(Report(name, str(logged), FROM_LOGS, f"{why}. It changes no weight"))
            values[name] = logged
    keys = dict(table.fixed)
    keys |= {key: values[name] for name, (_, key) in table.reads.items() if key}
    for rule in (_shape, _bigram, _value_embedding, _data, _optim, _average, _quantisation, _cadence_and_score):
        rule(table, values, given, keys, reports)
    called = " ".join(f"{name}={shlex.quote(value)}" for name, value in given.items()) or "nothing set"
    title = f"{table.record}'s script with {_printable(called)}"
    if len(title) > 200:  # the complete command stands on top of the file
        title = f"{title[:199]}…"
    nested: dict[str, Any] = {"name": f"{script}-from-command", "title": title}
    for key, value in keys.items():
        section, _, last = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[last] = value
    recipe = from_dict(nested, f"--from-command for {script}")
    order = {name: place for place, name in enumerate(given)}
    reports.sort(key=lambda report: order.get(report.name, len(order)))
    return Resolved(
        recipe, tuple(reports), recipe_toml(recipe, f"{table.record}'s script, called with: {_printable(called)}")
    )


# ---------------------------------------------------------------------- words and their types

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WRAPPERS = {"env", "export", "time", "nohup", "exec", "sudo", "$", "do", "then", "("}
_LAUNCHERS = re.compile(r"(torchrun|srun|accelerate)\Z")
_TRAINS = re.compile(r"(.*/)?train\w*\.py\Z|torch\.distributed\.\w+\Z")


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


@dataclass(frozen=True)
class Block:
    """What a pasted block of shell lines says to its training command."""

    values: dict[str, str]
    """NAME: value in order."""
    left_out: tuple[str, ...]
    """The other commands of the block, one text each."""


def read_block(text: str) -> Block:
    """The training command of a pasted block with all that is set for it; comments and other programs are left out.

    UserError, in one line, for words of another form, a name given twice with different values, several training
    commands that differ, and values that only a shell can know.
    """
    set_before: dict[str, str] = {}
    trainings: list[dict[str, str]] = []
    others: list[str] = []
    for command in _commands(text):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UserError(f"--from-command: {str(error).lower()}; quote values as in a shell") from None
        while words and words[0] in _WRAPPERS:
            words = words[1:]
        own: dict[str, str] = {}
        while words and "=" in words[0] and _NAME.match(words[0].partition("=")[0]):
            name, _, value = words.pop(0).partition("=")
            _set(own, name, _filled(name, value, set_before))
        if not words:
            for name, value in own.items():
                _set(set_before, name, value)
        elif _is_training(words, bool(own)):
            trainings.append(own)
        else:
            others.append(command.strip())
    if any(values != trainings[0] for values in trainings):
        raise UserError(f"--from-command: {len(trainings)} training commands with different values; give one of them")
    if others and not trainings:
        word = shlex.split(others[0])[0]
        raise UserError(f"--from-command: {word!r} is not NAME=value, and torchrun or python train_gpt.py do not come")
    return Block({**set_before, **(trainings[0] if trainings else {})}, tuple(others))


def _commands(text: str) -> Iterator[str]:
    """The commands of shell text: cut at line ends, `;`, `&&`, `||` and `|` outside quotes, comments dropped."""
    text = re.sub(r"\\[ \t]*(\r?\n|\Z)", " ", text)  # a line that goes on, also where the paste ends in one
    text = re.sub(r"\$\([^()\n]*\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)  # one word
    command, quote = "", ""
    for part in re.findall(r"\\.|['\"]|(?<!\S)#[^\n]*|[\n;]|&&|\|\||\||.", text + "\n", re.DOTALL):
        if quote or part in ("'", '"'):
            quote = ("" if part == quote else quote) if quote else part
            command += part
        elif part in ("\n", ";", "&&", "||", "|"):
            yield command
            command = ""
        elif not part.startswith("#"):
            command += part
    yield command.removesuffix("\n")


def _set(values: dict[str, str], name: str, value: str) -> None:
    if values.setdefault(name, value) != value:
        raise UserError(f"--from-command: {name} is given twice, as {values[name]!r} and as {value!r}; keep one")


def _filled(name: str, value: str, known: Mapping[str, str]) -> str:
    """`value` with the names that the block has set before put in."""
    filled = re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], found[0]), value)
    if re.search(r"\$[\w({]|`", filled) and name not in _OUTSIDE and not _OF_LIBRARIES.match(name):
        raise UserError(f"--from-command: {name}={value} is filled in by a shell; write the value itself")
    return filled


def _is_training(words: list[str], has_values: bool) -> bool:
    program = PurePath(words[0]).name
    starts = bool(_LAUNCHERS.match(program)) or any(_TRAINS.match(word) for word in words)
    return starts or (has_values and program.startswith("python"))


def _typed(name: str, text: str, default: Value, table: Script) -> Value:
    """`text` as the script itself reads it: int(), float() or, for a switch, bool(int())."""
    what = {int: "a whole number", float: "a number", bool: "0 or 1"}.get(type(default))
    if what is None:
        return text
    try:
        number = float(text) if isinstance(default, float) else int(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 2**53:  # nor NaN
        raise UserError(f"--from-command: {name}={text!r}: {table.record}'s script needs {what}")
    return bool(number) if isinstance(default, bool) else number


_OUTSIDE = {
    "SEED": "give it to `pgolf record --seeds`",
    "RUN_ID": "name the run's folder with `pgolf record --name`",
    "TOKENIZER_PATH": "the tokenizer comes with the prepared dataset",
}
_OF_LIBRARIES = re.compile(
    r"(NCCL|CUDA|OMP|MKL|TORCH|TORCHINDUCTOR|TORCHDYNAMO|PYTORCH|TRITON|GLOO|HF|WANDB|PYTHON\w*|MASTER|TOKENIZERS)_"
    r"|(PATH|HOME|RANK|LOCAL_RANK|WORLD_SIZE|LD_LIBRARY_PATH|PYTHON[A-Z]+)\Z"
)


def _idle_reports(table: Script, given: Mapping[str, str]) -> Iterator[Report]:
    """Reports on names that decide no key: idle, outside, unknown, or set to what this core cannot do."""
    for name, text in given.items():
        if name in table.reads:
            continue
        if name in table.idle:
            default, why = table.idle[name]
            _typed(name, text, default, table)
            yield Report(name, text, NO_EFFECT, why)
        elif name in table.only:
            done, meaning = table.only[name]
            if _typed(name, text, done, table) != done:
                kept = f"{name}={int(done)}" if isinstance(done, int) else "not set"
                yield Report(name, text, NOT_EXPRESSED, f"{meaning}: this core cannot; taken as {kept}")
        elif name in _OUTSIDE:
            if name == "SEED" and "$" not in text:  # of a loop over seeds
                _typed(name, text, 0, table)
            yield Report(name, text, OUTSIDE, _OUTSIDE[name])
        elif _OF_LIBRARIES.match(name):
            yield Report(name, text, OUTSIDE, "a setting of libraries or of the machine: set it where the run starts")
        else:
            yield Report(name, text, UNKNOWN, f"not among the names that {table.record}'s script reads; nothing done")


# ---------------------------------------------------------------------- rules over several names
# Each takes (script, its values by name, the words given, the keys so far, the reports so far) and adds to the latter.


def _shape(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    hidden = v.get("MLP_HIDDEN", 0)
    keys["model.mlp_hidden"] = hidden if hidden > 0 else int(v["MLP_MULT"] * v["MODEL_DIM"])
    if hidden > 0:
        _tell(reports, given, "MLP_MULT", NO_EFFECT, "MLP_HIDDEN is the one in use")
    rope_dims = v.get("ROPE_DIMS", v.get("PARTIAL_ROPE_DIMS", 0))
    keys["model.rope_dims"] = rope_dims if rope_dims > 0 else v["MODEL_DIM"] // max(v["NUM_HEADS"], 1)
    last = v.get("XSA_LAST_N", keys.get("model.xsa_last_n"))
    keys["model.xsa_last_n"] = min(last, v["NUM_LAYERS"])
    if "SMEAR_GATE" in v:
        keys["model.smear"] = "before" if v["SMEAR_GATE"] else "off"


def _bigram(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    if v.get("BIGRAM_VOCAB_SIZE", 0) > 0:
        keys |= {"model.bigram_rows": v["BIGRAM_VOCAB_SIZE"], "model.bigram_dim": v["BIGRAM_DIM"]}
    elif "BIGRAM_VOCAB_SIZE" in v:
        keys["model.bigram_rows"] = 0
        _tell(reports, given, "BIGRAM_DIM", NO_EFFECT, "BIGRAM_VOCAB_SIZE=0 leaves no bigram")


def _value_embedding(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    if "VE_ENABLED" not in v:
        return
    if not v["VE_ENABLED"]:
        for name in ("VE_DIM", "VE_LAYERS"):
            _tell(reports, given, name, NO_EFFECT, "VE_ENABLED=0 leaves no value embedding")
        return
    parts = [part.strip() for part in v["VE_LAYERS"].split(",") if part.strip()]
    layers = [int(_typed("VE_LAYERS", part, 0, table)) for part in parts]
    there = tuple(layer for layer in layers if 0 <= layer < v["NUM_LAYERS"])
    if len(there) < len(layers):
        why = f"of its layers only those below NUM_LAYERS={v['NUM_LAYERS']} exist"
        reports.append(Report("VE_LAYERS", v["VE_LAYERS"], NO_EFFECT, why))
    if there:
        keys |= {"model.ve_dim": v["VE_DIM"], "model.ve_layers": there}


def _data(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    named = re.fullmatch(r"fineweb10B_(\w+)", PurePath(v["DATA_PATH"]).name)
    keys["data.dataset"] = f"fineweb10B-{named[1] if named else 'sp1024'}"
    if not named:
        _tell(reports, given, "DATA_PATH", OUTSIDE, "prepare the data with `pgolf data` and name it by --data")
    if not re.search(rf"\D{v['VOCAB_SIZE']}\Z", keys["data.dataset"]):
        name = "VOCAB_SIZE" if "VOCAB_SIZE" in given else "DATA_PATH"
        why = f"the dataset is {keys['data.dataset']}, not one of {v['VOCAB_SIZE']:,} pieces; name such a one by --data"
        _tell(reports, given, name, NOT_EXPRESSED, why)
    keys["data.micro_batch_seqs"] = max(1, v["TRAIN_BATCH_TOKENS"] // (RANKS * max(v["TRAIN_SEQ_LEN"], 1)))


def _optim(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    keys["optim.adam_betas"] = (v["BETA1"], v["BETA2"])
    keys.setdefault("optim.smear_beta2", v["BETA2"])  # PR 194 alone gives the smear gate an optimiser of its own


def _average(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    swa_names: tuple[str, ...] = ("SWA_START_FRAC", "SWA_FRAC", "SWA_EVERY")
    idle: tuple[str, ...]
    if v.get("EMA_ENABLED"):
        keys |= {"average.kind": "ema", "average.ema_decay": v["EMA_DECAY"]}
        idle, why = swa_names, "EMA is on, and then the script takes no SWA snapshots"
        if v["SWA_ENABLED"]:
            idle = ("SWA_ENABLED", *swa_names)
    elif v.get("SWA_ENABLED"):
        start = v.get("SWA_START_FRAC", v.get("SWA_FRAC", 0.5))
        keys |= {"average.kind": "swa", "average.swa_start": start, "average.swa_every_steps": v["SWA_EVERY"]}
        idle, why = ("EMA_DECAY",) if "EMA_ENABLED" in v else (), "EMA_ENABLED is 0"
    else:
        keys.setdefault("average.kind", "none")
        idle, why = (*swa_names, "EMA_DECAY") if "SWA_ENABLED" in v else (), "nothing is averaged"
    for name in idle:
        if name in table.reads:
            _tell(reports, given, name, NO_EFFECT, why)


def _quantisation(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    layers = v["NUM_LAYERS"]
    if v.get("QAT"):  # PR 194
        keys["qat.kind"] = "always"
    if v.get("FP16_EMBED") is False:
        keys["quant.tok_emb"] = "int6_row_clip"
    if v.get("LATE_QAT"):  # PR 332: a module's global, which the compiler does watch
        keys |= {"qat.kind": "late", "qat.threshold": 0.1, "qat.grid": "int6_row_clip"}
    if v.get("GRAD_QUANT"):
        keys["quant.allocation"] = "gradient"
    elif "GRAD_QUANT" in v:
        keys["quant.other"] = "int6_row_clip"  # whatever the ranking does not name gets 6 bits
    if table.record == "PR 531" and layers > 8:
        keys["quant.exceptions"] = ("blocks.8.attn.c_k.weight=fp16",)
    if table.record == "PR 534":
        first, beyond = KEPT_BLOCKS_534
        kept = [block for block in range(min(layers, 1000)) if block == first or block >= beyond]
        keys["quant.exceptions"] = tuple(f"blocks.{block}.*.weight=int8_clip_search" for block in kept)


def _cadence_and_score(table: Script, v: dict, given: Mapping, keys: dict, reports: list) -> None:
    keys["schedule.log_every_steps"] = v["TRAIN_LOG_EVERY"]
    if v["TRAIN_LOG_EVERY"] == 0:
        keys["schedule.log_every_steps"] = v["ITERATIONS"]
        _tell(reports, given, "TRAIN_LOG_EVERY", NOT_EXPRESSED, "this core always logs; once per ITERATIONS instead")
    seq_len, stride = v.get("EVAL_SEQ_LEN", 0), v.get("EVAL_STRIDE", 0)
    keys["eval.seq_len"] = seq_len if seq_len > 0 else v["TRAIN_SEQ_LEN"]
    keys["eval.stride"] = stride if stride > 0 else keys["eval.seq_len"]  # without windows: the standard score
    if table.record == "PR 315" and stride != 64:
        _tell(reports, given, "EVAL_STRIDE", NOT_EXPRESSED, "the script also scores with stride 64; a recipe has one")


def _tell(reports: list, given: Mapping, name: str, kind: str, reason: str) -> None:
    """Report on a name, but only if the command sets it."""
    if name in given:
        reports.append(Report(name, given[name], kind, reason))


# ---------------------------------------------------------------------- the file, and which recipe it is


def recipe_toml(recipe: Recipe, comment: str) -> str:
    """A recipe file with every value of `recipe`, under one line of comment; its name is that of the file."""
    tables = to_dict(recipe)
    plain = {key: value for key, value in tables.items() if not isinstance(value, dict) and key != "name"}
    lines = [f"# {comment}", *_toml_lines(plain)]
    for section, values in tables.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *_toml_lines(values)]
    return "\n".join(lines) + "\n"


def _toml_lines(values: Mapping[str, Any]) -> list[str]:
    # numbers, booleans, lists and printable strings are written alike in JSON and in TOML
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def compare_known(recipe: Recipe, script: str) -> dict[str, list[list[Any]]]:
    """Name: differences, for `script`, its as-run recipe, and any other recipe on disk that is equal to this one."""
    known = {name: differences(recipe, load_recipe(name)) for name in available_recipes()}
    return {name: diff for name, diff in known.items() if not diff or name in (script, f"{script}-as-run")}


def comparison_lines(recipe: Recipe, known: Mapping[str, list[list[Any]]]) -> list[str]:
    """`compare_known`'s result for a reader: what it equals, then how it differs from the others, key by key."""
    equal = [name for name, diff in known.items() if not diff]
    lines = [f"equal to {', '.join(equal)}" if equal else "equal to no recipe that is known"]
    for name, diff in known.items():
        if diff:
            lines.append(f"differs from {name} in {len(diff)} key{'s' if len(diff) > 1 else ''}:")
            lines += [f"  {key} = {json.dumps(ours)}, there {json.dumps(theirs)}" for key, ours, theirs in diff]
    return lines

"""A published run command, `NAME=value … torchrun train_gpt.py`, becomes a recipe: `pgolf recipes --from-command`.

`published_scripts` says of every script which names it reads, with its own defaults. The recipe is what that script
really does with the values: what its code fixes whatever the names say is that of the recipe `prN-as-run`, which the
published command gives. What changes nothing, or what no recipe can say, comes back as a report.

Keys that play no part keep the recipes' usual value (the decay of an EMA that is off), so that equal runs have equal
fingerprints. The cadences of validation and logging, where not given, are those of the published logs: no command sets
them, and the logs of PR 194 and 315 differ from their scripts' defaults. They change no weight, and a report says so.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from pgolf_core.base.files import UserError
from pgolf_core.lab.recipes.published_scripts import IDLE_WITHOUT, KEYS, RANKS, SCRIPTS, SWITCHES, Script, Value
from pgolf_core.lab.recipes.shell_block import OF_LIBRARIES, OUTSIDE_NAMES, printable, read_block
from pgolf_core.lab.shared.settings import differences, flatten
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import Recipe, from_dict, to_dict

UNKNOWN, NO_EFFECT, OUTSIDE = "unknown", "no effect", "outside the recipe"
NOT_EXPRESSED, FROM_LOGS, LEFT_OUT = "not expressed", "from the logs", "left out"
NOT_EXPORTED = "not exported"
USUAL = flatten(to_dict(Recipe()))
CASEOPS_DATA = "fineweb10B_sp8192_lossless_caps_caseops_v1_reserved"
OF_ADAPTING = re.compile("(GLOBAL_|PHASED_)?TTT_|NGRAM_TILT|TOKEN_")


@dataclass(frozen=True)
class Report:
    """What became of one name that is not simply a value of the recipe."""

    name: str
    value: str
    kind: str
    """unknown (the script does not read it), no effect (read, or thought to be, and idle), outside the recipe (of the
    machine or the call), not expressed (this core cannot do it), from the logs (not in the command), left out (another
    command of the block), not exported (but used)."""
    reason: str

    def __str__(self) -> str:
        value = "" if self.kind == LEFT_OUT else f"={printable(self.value)}"
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
    block = read_block(command)
    given, meaning = block.values, _Meaning(script, block.values)
    left_out = [Report(printable(what), "", LEFT_OUT, reason) for what, reason in block.left_out.items()]
    why = "a shell keeps it from the script without export; used all the same"
    left_out += [Report(name, given[name], NOT_EXPORTED, why) for name in sorted(block.not_exported)]
    called = " ".join(f"{name}={shlex.quote(value)}" for name, value in given.items()) or "nothing set"
    whose, called = f"{meaning.script.record}'s script", printable(called)
    title = f"{whose} with {called}"
    if len(title) > 200:  # the complete command stands on top of the file
        title = f"{title[:199]}…"
    nested: dict[str, Any] = {}
    for key, value in (meaning.keys | {"name": f"{script}-from-command", "title": title}).items():
        section, _, last = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[last] = value
    recipe = from_dict(nested, f"--from-command for {script}")
    order = {name: place for place, name in enumerate(given)}
    reports = sorted([*meaning.reports, *left_out], key=lambda report: order.get(report.name, len(order)))
    return Resolved(recipe, tuple(reports), recipe_toml(recipe, f"{whose}, called with: {called}"))


# ---------------------------------------------------------------------- words and their types


def _typed(name: str, text: str, default: Value, script: Script) -> Value:
    """`text` as the script itself reads it: int(), float() or, for a switch, bool(int())."""
    what = {int: "a whole number", float: "a number", bool: "0 or 1"}.get(type(default))
    if what is None:
        return text
    try:
        number = float(text) if isinstance(default, float) else int(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 2**53:  # nor NaN
        raise UserError(f"--from-command: {name}={text!r}: {script.record}'s script needs {what}")
    return bool(number) if isinstance(default, bool) else number


# ---------------------------------------------------------------------- what the words mean to a script


class _Meaning:
    """What a script does with the words `given`: `keys` of a recipe, and `reports` on the rest.

    `values` holds every name that the script reads. Most give a key each; the methods are rules over several names. A
    key that no name decides is as the script's runs had it.
    """

    def __init__(self, script: str, given: Mapping[str, str]):
        self.script, self.given = SCRIPTS[script], given
        self.reports = list(_idle_reports(self.script, given))
        self.values: dict[str, Any] = {
            name: _typed(name, given[name], default, self.script) if name in given else default
            for name, default in self.script.reads.items()
        }
        for name, logged in self.script.logged.items():
            if name not in given:
                default, self.values[name] = self.values[name], logged
                shown = f"the runs logged show {logged}, the script's default is {default}"
                why = f"the command does not set it; {shown}. It changes no weight"
                self.reports.append(Report(name, str(logged), FROM_LOGS, why))
        self.keys = flatten(to_dict(load_recipe(f"{script}-as-run")))
        self.keys |= {KEYS[name]: value for name, value in self.values.items() if name in KEYS}
        for name, (key, off, on) in SWITCHES.items():
            if name in self.values:
                self.keys[key] = on if self.values[name] else off
        for rule in (self._shape, self._data, self._average, self._quantisation, self._schedule):
            rule(self.values)
        if "NUM_LOOPS" in self.values:
            self._looped(self.values)
            (self._of_pr1493 if "TTT_LR" in self.values else self._of_pr1855)(self.values)
            self._frozen(self.values)
        for why, (switch, *names) in IDLE_WITHOUT.items():
            if self.values.get(switch, 1) <= 0:
                self._forget(why, names)

    def _tell(self, name: str, kind: str, reason: str) -> None:
        """Report on a name, but only if the command sets it."""
        if name in self.given:
            self.reports.append(Report(name, self.given[name], kind, reason))

    def _forget(self, why: str, names: Iterable[str]) -> None:
        """Names that another one makes idle: their keys keep the usual value."""
        for name in (name for name in names if name in self.values):
            if name in KEYS:
                self.keys[KEYS[name]] = USUAL[KEYS[name]]
            self._tell(name, NO_EFFECT, why)

    def _shape(self, v: dict[str, Any]) -> None:
        hidden = v.get("MLP_HIDDEN", 0)
        self.keys["model.mlp_hidden"] = hidden if hidden > 0 else int(v["MLP_MULT"] * v["MODEL_DIM"])
        if hidden > 0:
            self._tell("MLP_MULT", NO_EFFECT, "MLP_HIDDEN is the one in use")
        rope_dims = v.get("ROPE_DIMS", v.get("PARTIAL_ROPE_DIMS", 0))
        self.keys["model.rope_dims"] = rope_dims if rope_dims > 0 else v["MODEL_DIM"] // max(v["NUM_HEADS"], 1)
        self.keys["model.xsa_last_n"] = min(self.keys["model.xsa_last_n"], v["NUM_LAYERS"])
        self.keys["model.bigram_rows"] = max(self.keys["model.bigram_rows"], 0)
        if "VE_ENABLED" in v:
            parts = [part.strip() for part in v["VE_LAYERS"].split(",") if part.strip() and v["VE_ENABLED"]]
            layers: list[Any] = [_typed("VE_LAYERS", part, 0, self.script) for part in parts]
            there = tuple(layer for layer in layers if 0 <= layer < v["NUM_LAYERS"])
            if len(there) < len(layers):
                why = f"of its layers only those below NUM_LAYERS={v['NUM_LAYERS']} exist"
                self.reports.append(Report("VE_LAYERS", v["VE_LAYERS"], NO_EFFECT, why))
            self.keys |= {"model.ve_dim": v["VE_DIM"] if there else 0, "model.ve_layers": there}

    def _data(self, v: dict[str, Any]) -> None:
        usual = CASEOPS_DATA if v.get("CASEOPS_ENABLED") else f"fineweb10B_sp{v['VOCAB_SIZE']}"
        path = v.get("DATA_PATH", "") or usual  # PR 1493 and its heirs make the path of the pieces
        named = re.fullmatch(r"fineweb10B_\w+", PureWindowsPath(path).name)
        dataset = self.keys["data.dataset"] = (named[0] if named else usual).replace("_", "-")
        for name in ("DATA_DIR", *(() if named else ("DATA_PATH",))):
            self._tell(name, OUTSIDE, "prepare the data with `pgolf data` and name it by --data")
        if not re.search(rf"\D{v['VOCAB_SIZE']}(-.*)?\Z", dataset):
            name = "VOCAB_SIZE" if "VOCAB_SIZE" in self.given else "DATA_PATH"
            why = f"the dataset is {dataset}, not one of {v['VOCAB_SIZE']:,} pieces; name such a one by --data"
            self._tell(name, NOT_EXPRESSED, why)
        self.keys["data.micro_batch_seqs"] = max(1, v["TRAIN_BATCH_TOKENS"] // (RANKS * max(v["TRAIN_SEQ_LEN"], 1)))

    def _average(self, v: dict[str, Any]) -> None:
        if "SWA_ENABLED" not in v:
            return
        is_ema, why = v.get("EMA_ENABLED", False), "nothing is averaged"
        kind = self.keys["average.kind"] = "ema" if is_ema else "swa" if v["SWA_ENABLED"] else "none"
        if kind != "swa":
            swa = ("SWA_START_FRAC", "SWA_FRAC", "SWA_EVERY", *(["SWA_ENABLED"] if v["SWA_ENABLED"] else []))
            self._forget("EMA is on, and then the script takes no SWA snapshots" if is_ema else why, swa)
        if kind != "ema":
            self._forget("EMA_ENABLED is 0" if kind == "swa" else why, ("EMA_DECAY",))

    def _quantisation(self, v: dict[str, Any]) -> None:
        if v.get("LATE_QAT"):  # PR 332: a module's global, which the compiler does watch
            self.keys |= {"qat.kind": "late", "qat.threshold": 0.1, "qat.grid": "int6_row_clip"}
        if v.get("GRAD_QUANT") is False:
            self.keys["quant.other"] = "int6_row_clip"  # whatever the ranking does not name gets 6 bits
        if self.script.record == "PR 531":
            self.keys["quant.exceptions"] = ("blocks.8.attn.c_k.weight=fp16",) if v["NUM_LAYERS"] > 8 else ()
        if self.script.record == "PR 534":  # its first block and those from the eleventh on keep full int8 steps
            kept = [block for block in range(min(v["NUM_LAYERS"], 1000)) if block == 0 or block >= 10]
            self.keys["quant.exceptions"] = tuple(f"blocks.{block}.*.weight=int8_clip_search" for block in kept)

    def _schedule(self, v: dict[str, Any]) -> None:
        """Optimiser, logging and score."""
        self.keys["optim.adam_betas"] = (v["BETA1"], v["BETA2"])
        if self.script.record not in ("PR 194", "PR 1855", "PR 2135"):  # which give that gate an optimiser of its own
            self.keys["optim.smear_beta2"] = v["BETA2"]
        self.keys["schedule.log_every_steps"] = v["TRAIN_LOG_EVERY"] or v["ITERATIONS"]
        if v["TRAIN_LOG_EVERY"] == 0:
            self._tell("TRAIN_LOG_EVERY", NOT_EXPRESSED, "this core always logs; once per ITERATIONS instead")
        seq_len, stride = v.get("EVAL_SEQ_LEN", 0), v.get("EVAL_STRIDE", 0)
        self.keys["eval.seq_len"] = seq_len if seq_len > 0 else v["TRAIN_SEQ_LEN"]
        self.keys["eval.stride"] = stride if stride > 0 else self.keys["eval.seq_len"]  # without windows: standard
        if self.script.record == "PR 315" and stride != 64:
            self._tell("EVAL_STRIDE", NOT_EXPRESSED, "the script also scores with stride 64; a recipe has one")

    def _looped(self, v: dict[str, Any]) -> None:
        """What PR 1493 and its heirs read: warm-down, grids and the tokens of their Hessians."""
        if v["WARMDOWN_FRAC"] <= 0:
            self.keys |= {"schedule.warmdown_fraction": 0.0, "schedule.warmdown_iters": 0}
        self.keys["quant.correction_tokens"] = v["GPTQ_CALIBRATION_BATCHES"] * (v["TRAIN_BATCH_TOKENS"] // RANKS)
        self.keys["quant.attention"] = self.keys["quant.mlp"] = f"int{v['MATRIX_BITS']}_sigma"
        self.keys["quant.tok_emb"] = f"int{v['EMBED_BITS']}_sigma"

    def _of_pr1855(self, v: dict[str, Any]) -> None:
        """What PR 1855 and 2135 read: how the file is compressed, and adapters."""
        if not (v["SPARSE_ATTN_GATE_ENABLED"] or v["SMEAR_GATE_ENABLED"]):
            self._forget("no gate reads it", ("GATE_WINDOW",))
        grouped = "similarity_all" if "NGRAM_TILT_ENABLED" in v else "similarity"
        self.keys["quant.grouping"] = grouped if v["COMPRESSOR"] == "pergroup" else "off"
        if v["COMPRESSOR"] not in ("pergroup", "brotli"):
            self._tell(
                "COMPRESSOR", NOT_EXPRESSED, "another compressor: this core has brotli, taken as COMPRESSOR=brotli"
            )
        self.keys["adapt.kind"] = "lora"
        self.keys["adapt.lora_betas"] = (v["TTT_BETA1"], v["TTT_BETA2"])
        flags = {"k": "TTT_K_LORA", "o": "TTT_O_LORA", "mlp": "TTT_MLP_LORA"}
        adapters = ("q", "k", "v", "o", "mlp", "lm_head")
        self.keys["adapt.lora_targets"] = tuple(one for one in adapters if v.get(flags.get(one, ""), True))
        window = v["TTT_EVAL_SEQ_LEN"]
        self.keys["adapt.lora_window"] = 0 if window == self.keys["eval.seq_len"] else window

    def _of_pr1493(self, v: dict[str, Any]) -> None:
        """What PR 1493 alone reads: whether the packed file learns as it scores."""
        self.keys["model.rope_reference_tokens"] = v["TRAIN_SEQ_LEN"]
        if v["EMBEDDING_DIM"] != v["MODEL_DIM"]:
            why = "this core has no projection between an embedding and a network of other widths"
            self.reports.append(Report("EMBEDDING_DIM", str(v["EMBEDDING_DIM"]), NOT_EXPRESSED, why))

    def _frozen(self, v: dict[str, Any]) -> None:
        """Without adapting nothing of it has an effect, and without windows the score is the standard one."""
        if v["TTT_ENABLED"]:  # what learns while it scores slides anyway
            return
        self.keys |= {key: USUAL[key] for key in self.keys if key.startswith("adapt.")}
        self._forget("TTT_ENABLED is 0", [name for name in v if name != "TTT_ENABLED" and OF_ADAPTING.match(name)])
        if not v.get("SLIDING_WINDOW_ENABLED", False):
            self.keys["eval.stride"] = self.keys["eval.seq_len"]


def _idle_reports(script: Script, given: Mapping[str, str]) -> Iterator[Report]:
    """Reports on names that decide no key: idle, outside, unknown, or set to what this core cannot do."""
    for name, text in given.items():
        if name in script.reads:
            continue
        default, why = (script.idle | script.only).get(name, (0 if name == "SEED" and "$" not in text else "", ""))
        value = _typed(name, text, default, script)
        if name in script.idle:
            yield Report(name, text, NO_EFFECT, why)
        elif name in script.only:
            kept = "not set" if default == "" else f"{name}={int(default) if isinstance(default, bool) else default}"
            if value != default:
                yield Report(name, text, NOT_EXPRESSED, f"{why}: this core cannot; taken as {kept}")
        elif name in OUTSIDE_NAMES:
            yield Report(name, text, OUTSIDE, OUTSIDE_NAMES[name])
        elif OF_LIBRARIES.match(name):
            yield Report(name, text, OUTSIDE, "a setting of libraries or of the machine: set it where the run starts")
        else:
            yield Report(name, text, UNKNOWN, f"not among the names that {script.record}'s script reads; nothing done")


# ---------------------------------------------------------------------- the file, and which recipe it is


def recipe_toml(recipe: Recipe, comment: str) -> str:
    """A recipe file with every value of `recipe`, under one line of comment; its name is that of the file."""
    lines = [f"# {comment}"]
    for key, value in to_dict(recipe).items():
        section = isinstance(value, dict)
        lines += ["", f"[{key}]"] if section else []
        # numbers, booleans, lists and printable strings are written alike in JSON and in TOML
        values = value if section else {key: value} if key != "name" else {}
        lines += [f"{name} = {json.dumps(one, ensure_ascii=False)}" for name, one in values.items()]
    return "\n".join(lines) + "\n"


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
            lines.append(f"differs from {name} in {so_many(len(diff), 'key')}:")
            lines += [f"  {key} = {json.dumps(ours)}, there {json.dumps(theirs)}" for key, ours, theirs in diff]
    return lines

"""The training command of a pasted block of shell lines, and what is set for it; nothing is run."""

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from pgolf_core.base.files import UserError
from pgolf_core.lab.recipes.published_scripts import SCRIPTS

OUTSIDE_NAMES = {
    "SEED": "give it to `pgolf record --seeds`",
    "RUN_ID": "name the run's folder with `pgolf record --name`",
    "TOKENIZER_PATH": "the tokenizer comes with the prepared dataset",
}
OF_LIBRARIES = re.compile(
    r"(NCCL|CUDA|OMP|MKL|TORCH|TORCHINDUCTOR|TORCHDYNAMO|PYTORCH|TRITON|GLOO|HF|WANDB|PYTHON\w*|MASTER|TOKENIZERS)_"
    r"|(PATH|HOME|RANK|LOCAL_RANK|WORLD_SIZE|LD_LIBRARY_PATH|PYTHON[A-Z]+)\Z"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_EXPORTS = {"export", "declare", "typeset", "readonly", "set"}
_WRAPPERS = {*_EXPORTS, "env", "time", "nohup", "exec", "sudo", "$", ">", "do", "then", "{"}
_DROPS = re.compile(r"(?<!\S)(env (.* )?(-i|--ignore-environment|-)(?!\S)|sudo(?!.* (-E|--preserve-env)))")
"""Wrappers, joined by spaces, that keep from a program what is set before them."""
_LAUNCHERS = re.compile(r"(torchrun|srun|mpirun|mpiexec|deepspeed|accelerate)\Z")
_RUNNERS = {"timeout", "nice", "ionice", "stdbuf", "setsid", "numactl", "taskset", "uv", "poetry", "pixi", "pdm",
            "conda", "mamba", "micromamba", "apptainer", "singularity", "nsys", "ncu"}  # fmt: skip
"""Programs that start the one named after their own words, with what is set before them."""
_TRAINS = re.compile(r"(.*/)?train\w*\.py\Z|torch\.distributed\.\w+\Z")
_KNOWN = {name for script in SCRIPTS.values() for name in (*script.reads, *script.idle, *script.only)}
_SHELL = re.compile(
    r"""\\[ \t]*\r?\n|\\.|'[^']*'|"(?:\\.|[^"\\])*"|[\u201c\u201d][^\u201c\u201d]*[\u201c\u201d]"""
    r"""|[\u2018\u2019][^\u2018\u2019]*[\u2018\u2019]|\$\((?:[^()\n]|\([^()\n]*\))*\)|`[^`\n]*`|(?<!\S)#[^\n]*"""
    r"""|[\n;()]|[<>]&|&>|&&|\|\||\||&|<<|.""",
    re.DOTALL,
)
"""A piece of shell text: a line that goes on, something quoted, filled in or a comment, a separator, or a letter."""


def printable(text: str) -> str:
    """With a space for what a terminal cannot show."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


@dataclass(frozen=True)
class Block:
    """What a pasted block of shell lines says to its training command."""

    values: dict[str, str]
    """NAME: value in order."""
    left_out: dict[str, str]
    """The other commands of the block and what else is not used, each with the reason."""
    not_exported: frozenset[str] = frozenset()
    """Names set on a line of their own without `export`."""


def read_block(text: str) -> Block:
    """The training command of a pasted block with all that is set for it; comments and other programs are left out.

    UserError, in one line, for words of another form, a name given twice with different values, several training
    commands that differ, values that only a shell can know, and known names at places that are not read.
    """
    set_before: dict[str, str] = {}
    exported: set[str] = set()
    trainings: dict[bool, list[tuple[str, dict[str, str], str]]] = {True: [], False: []}
    others: dict[str, str] = {}
    plain: set[str] = set()
    unread = ""
    for command in _commands(text):
        words, own, more = _words(command, set_before)
        exported |= more
        if not words:
            for name, value in own.items():
                _set(set_before, name, value)
            continue
        _refuse_unread_names(words, command)
        launched = _trains(words)
        if launched or (own and PurePath(words[0]).name.startswith("python")):
            trainings[launched].append((command.strip(), set_before | own, _arguments(words)))
            if "*" not in exported:
                plain |= {name for name in set_before if name in _KNOWN and name not in exported and name not in own}
        else:
            file = words[0] in ("source", ".")
            others[command.strip()] = "what it sets is not known here; add it" if file else "not the training command"
            unread = unread or words[0]
    meant = trainings[True] or trainings[False]
    others |= {command: "not the training command" for command, *_ in trainings[False] if trainings[True]}
    if any(_deciding(values) != _deciding(meant[0][1]) for _, values, _ in meant):
        raise UserError(f"--from-command: {len(meant)} training commands with different values; give one of them")
    if others and not meant:
        raise UserError(f"--from-command: {unread!r} is not NAME=value, and no torchrun or python train_gpt.py follows")
    others |= {arguments: "scripts read their environment, no arguments" for *_, arguments in meant if arguments}
    others |= {command: "trains the same again" for command, values, _ in meant if values != meant[0][1]}
    return Block(meant[0][1] if meant else set_before, others, frozenset(plain))


def _words(command: str, known: Mapping[str, str]) -> tuple[list[str], dict[str, str], set[str]]:
    """The program's words without wrappers, what is set in front of them, and the names exported; `*` is every name."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--from-command: {str(error).lower()}; quote values as in a shell") from None
    wrappers: list[str] = []
    exported: set[str] = set()
    own: dict[str, str] = {}
    before: dict[str, str] = {}
    while words:
        name, equals, value = words[0].removeprefix("$env:").partition("=")
        if words[0] in _WRAPPERS or (wrappers and words[0].startswith("-")):
            wrappers.append(words[0])
            before = {**known, **own} if words[0] in ("env", "sudo") else before
        elif equals and _NAME.match(name):
            _set(own, name, _filled(name, value, known))
            exported |= {name} if words[0].startswith("$env:") else set()  # a program gets it, as in PowerShell
        else:
            break
        words = words[1:]
    said = printable(" ".join(wrappers))
    if _DROPS.search(said) and (lost := next((name for name in before if name in _KNOWN), "")):
        raise UserError(f"--from-command: {lost} does not reach the program through '{said}'; write it after that")
    if _EXPORTS.isdisjoint(wrappers):
        return words, own, exported
    exported = {*own, *words, *(["*"] if "-a" in wrappers else ())}
    is_export = all(map(_NAME.match, words)) and "-n" not in wrappers
    return [] if is_export else words, own, exported


def _trains(words: list[str]) -> bool:
    """Whether this is a launcher, python with a training script, or such a script itself; not `cp train_gpt.py`."""
    program, what = PurePath(words[0]).name, words[0]
    if program in _RUNNERS:
        return any(_trains(words[at:]) for at in range(1, len(words)))
    if re.match(r"i?python[\d.]*\Z", program):
        at = next((at for at, word in enumerate(words) if word in ("-m", "-c") or word.endswith(".py")), 0)
        what = words[min(at + (words[at] == "-m"), len(words) - 1)]
    return bool(_LAUNCHERS.match(program) or _TRAINS.match(what))


def _refuse_unread_names(words: list[str], command: str) -> None:
    """UserError for what looks like a setting and stands where it is not read, as `docker run -e NUM_LAYERS=11`."""
    if words[0] in ("else", "elif", "case"):
        raise UserError(f"--from-command: the block branches at '{words[0]}'; give the commands of one branch")
    for word in words if words[0] not in ("echo", "printf") else ():
        for name in re.findall(r"(?<![\w$])[A-Z][A-Z0-9_]+(?=\s*[+:]?=|\Z)", word):
            if name in _KNOWN:
                shown = printable(command.strip())[:60]
                raise UserError(f"--from-command: {name} in '{shown}' is not read; write NAME=value before torchrun")


def _arguments(words: list[str]) -> str:
    """What is handed to the script itself, redirections apart."""
    script = next((at for at, word in enumerate(words) if word.endswith(".py")), len(words))
    return printable(" ".join(itertools.takewhile(lambda word: not re.match(r"\d?[<>]", word), words[script + 1 :])))


def _deciding(values: Mapping[str, str]) -> dict[str, str]:
    """Without the names that no recipe knows: of the machine, or of one seed."""
    return {key: value for key, value in values.items() if key not in OUTSIDE_NAMES and not OF_LIBRARIES.match(key)}


def _commands(text: str) -> Iterator[str]:
    """The commands of shell text: cut at line ends, `;`, `&`, `|`, `(` and such outside quotes, without comments."""
    command = ""
    for part in _SHELL.findall(text.translate({0xFEFF: None, 0x200B: None}).rstrip() + "\n"):
        if part == "<<":
            raise UserError("--from-command: the block holds a here-document (<<); give the training command alone")
        if part in ("\n", ";", "&", "&&", "|", "||", "(", ")"):
            yield command
            command = ""
        elif part[0] in "\u201c\u201d\u2018\u2019" and len(part) > 1:
            command += shlex.quote(part[1:-1])
        elif part[:2] == "$(":  # one word
            command += part.replace(" ", "\N{NO-BREAK SPACE}")
        elif part == "\N{NO-BREAK SPACE}" or (part[0] == "\\" and part[-1] == "\n"):
            command += " "
        elif part[0] != "#" or (command and not command[-1].isspace()):  # no comment
            command += part
    yield command


def _set(values: dict[str, str], name: str, value: str) -> None:
    if values.setdefault(name, value) != value:
        raise UserError(f"--from-command: {name} is given twice, as {values[name]!r} and as {value!r}; keep one")


def _filled(name: str, value: str, known: Mapping[str, str]) -> str:
    """`value` with the names that the block has set before put in."""
    filled = re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], found[0]), value)
    if re.search(r"\$[\w({]|`", filled) and name not in OUTSIDE_NAMES and not OF_LIBRARIES.match(name):
        raise UserError(f"--from-command: {name}={value} is filled in by a shell; write the value itself")
    return filled

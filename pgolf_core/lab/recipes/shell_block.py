"""The training command of a pasted block of shell lines, and what is set for it; nothing is run."""

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath

from pgolf_core.base.files import UserError
from pgolf_core.lab.recipes.published_scripts import SCRIPTS

OUTSIDE_NAMES = {
    "SEED": "give it to `pgolf record --seeds`",
    **dict.fromkeys(("RUN_ID", "ARTIFACT_DIR"), "name the run's folder with `pgolf record --name`"),
    "TOKENIZER_PATH": "the tokenizer comes with the prepared dataset",
}
OF_LIBRARIES = re.compile(
    r"(NCCL|CUDA|OMP|MKL|TORCH|TORCHINDUCTOR|TORCHDYNAMO|PYTORCH|TRITON|GLOO|HF|WANDB|PYTHON\w*|MASTER|TOKENIZERS)_"
    r"|(PATH|HOME|RANK|LOCAL_RANK|WORLD_SIZE|LD_LIBRARY_PATH|PYTHON[A-Z]+)\Z"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_EXPORTS = {"export", "declare", "typeset", "readonly", "set", "%env"}
_WRAPPERS = {*_EXPORTS, "env", "time", "nohup", "exec", "sudo", "$", ">", "do", "then", "else", "{"}
_DROPS = re.compile(r"(?<!\S)(env (.* )?(-i|--ignore-environment|-)(?!\S)|sudo(?!.* (-E|--preserve-env)))")
"""Wrappers, joined by spaces, that keep from a program what is set before them."""
_LAUNCHERS = re.compile(r"(torchrun|srun|mpirun|mpiexec|deepspeed|accelerate)\Z")
_RUNNERS = {"timeout", "nice", "ionice", "stdbuf", "setsid", "numactl", "taskset", "uv", "poetry", "pixi", "pdm",
            "conda", "mamba", "micromamba", "apptainer", "singularity", "nsys", "ncu"}  # fmt: skip
"""Programs that start the one named after their own words, with what is set before them."""
_PYTHON = re.compile(r"i?py(thon)?[\d.]*(\.exe)?\Z|\$")
"""Python by its names, or a program that a variable names."""
_TRAINS = re.compile(r"(.*[/\\])?train\w*\.py\Z|torch\.distributed\.\w+\Z")
_KNOWN = {name for script in SCRIPTS.values() for name in (*script.reads, *script.idle, *script.only)}
_SHELL = re.compile(
    r"""\\+(?:[ \t]+\#[^\n]*|[ \t]*)\r?\n|\\.|'[^']*'|"(?:\\.|[^"\\])*"|[\u201c\u201d][^\u201c\u201d]*[\u201c\u201d]"""
    r"""|[\u2018\u2019][^\u2018\u2019]*[\u2018\u2019]|\$\((?:[^()\n]|\([^()\n]*\))*\)|`[^`\n]*`|(?<!\S)#[^\n]*"""
    r"""|[\n;()]|[<>]&|&>|&&|\|\||\||&|<<|.""",
    re.DOTALL,
)
"""A piece of shell text: a line that goes on, something quoted, filled in or a comment, a separator, or a letter."""


_HERE = re.compile(r"""<<-?[ \t]*(["']?)(\w+)\1([^\n]*)\n(.*?)^[ \t]*\2[ \t\r]*$""", re.DOTALL | re.MULTILINE)
"""A here-document: its tag, the rest of the line, its text."""
_FILLED = re.compile(r"\$\{(\w+):?[-=]([^{}]*)\}|\$\{?(\w+)\}?")
"""`${NAME:-default}`, `$NAME` or `${NAME}`."""


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

    UserError, in one line, for words of another form, a known name given twice with different values or set under a
    condition, several training commands that differ, values that only a shell can know, and known names at places that
    are not read. `${NAME:-default}` is its default, as in a shell where nothing is set.
    """
    set_before: dict[str, str] = {}
    exported: set[str] = set()
    trainings: dict[bool, list[tuple[str, dict[str, str], str]]] = {True: [], False: []}
    others: dict[str, str] = {}
    plain: set[str] = set()
    conditions: list[str] = []
    unread = ""
    for command, tested in _commands(text):
        words, own, more = _words(command, set_before)
        exported |= more
        if not words:
            for name, value in own.items():
                if name in _KNOWN and (condition := tested or "".join(conditions[-1:])):
                    where = f"under a condition, '{condition}'; keep the commands of one case, without it"
                    raise UserError(f"--from-command: {name} is set {where}")
                _set(set_before, name, value)
            continue
        if words[0] in ("if", "case"):
            conditions.append(_shown(command))
        elif words[0] in ("fi", "esac"):
            conditions = conditions[:-1]
        _refuse_unread_names(words, command)
        launched = _trains(words)
        if launched or (own and PureWindowsPath(words[0]).name.startswith("python")):
            trainings[launched].append((command.strip(), set_before | own, _arguments(words)))
            if "*" not in exported:
                plain |= {name for name in set_before if name in _KNOWN and name not in exported and name not in own}
        else:
            file = words[0] in ("source", ".", "eval") or words[0].startswith(("$(", "`"))
            others[command.strip()] = "what it sets is not known here; add it" if file else "not the training command"
            unread = next((word for word in words if word.endswith(".sh")), unread or words[0])
    meant = trainings[True] or trainings[False]
    others |= {command: "not the training command" for command, *_ in trainings[False] if trainings[True]}
    of_shell = set() if "*" in exported else {name for name in set_before if name not in exported | _KNOWN}
    _refuse_others([_deciding(values, of_shell) for _, values, _ in meant])
    if others and not meant:
        how = "; paste the lines of that file" if unread.endswith(".sh") else ""
        missing = f"{unread!r} is not NAME=value, and no torchrun or python train_gpt.py follows{how}"
        raise UserError(f"--from-command: {missing}")
    others |= {arguments: "scripts read their environment, no arguments" for *_, arguments in meant if arguments}
    others |= {command: "trains the same again" for command, values, _ in meant if values != meant[0][1]}
    late = {name: value for name, value in set_before.items() if meant and name in _KNOWN and name not in meant[0][1]}
    others |= {f"{name}={value}": "set after the training command" for name, value in late.items()}
    return Block(meant[0][1] if meant else set_before, others, frozenset(plain))


def _words(command: str, known: Mapping[str, str]) -> tuple[list[str], dict[str, str], set[str]]:
    """The program's words without wrappers, what is set in front of them, and the names exported; `*` is every name."""
    bare = re.sub(r"\A\s*!", "", command)  # of a notebook's cell
    try:
        words = shlex.split(re.sub(r"(?i)\$env:(\w+)\s*=\s*", r"$env:\1=", bare))
    except ValueError as error:
        why = f"{str(error).lower()} in '{_shown(command)}'; quote values as in a shell"
        raise UserError(f"--from-command: {why}") from None
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
    is_every = "allexport" in words or re.match(r"set .*-\w*a", said)
    exported = {*own, *words, *(["*"] if is_every else ())}
    is_export = all(map(_NAME.match, words)) and "-n" not in wrappers
    return [] if is_export else words, own, exported


def _trains(words: list[str]) -> bool:
    """Whether this is a launcher, python with a training script, or such a script itself; not `cp train_gpt.py`."""
    program, what = PureWindowsPath(words[0]).name, words[0]
    if program in _RUNNERS:
        return any(_trains(words[at:]) for at in range(1, len(words)))
    if _PYTHON.match(program):
        at = next((at for at, word in enumerate(words) if word in ("-m", "-c") or word.endswith(".py")), 0)
        what = words[min(at + (words[at] == "-m"), len(words) - 1)]
    return bool(_LAUNCHERS.match(program) or _TRAINS.match(what))


def _refuse_unread_names(words: list[str], command: str) -> None:
    """UserError for what looks like a setting and stands where it is not read, as `docker run -e NUM_LAYERS=11`."""
    for word in words if words[0] not in ("echo", "printf") else ():
        for name in re.findall(r"(?<![\w$])[A-Z][A-Z0-9_]+(?=\s*[+:]?=|\Z)", word):
            if name in _KNOWN:
                where = f"{name} in '{_shown(command)}'"
                raise UserError(f"--from-command: {where} is not read; write NAME=value before torchrun")


def _shown(command: str) -> str:
    return printable(command.strip())[:60]


def _arguments(words: list[str]) -> str:
    """What is handed to the script itself, redirections apart."""
    script = next((at for at, word in enumerate(words) if word.endswith(".py")), len(words))
    return printable(" ".join(itertools.takewhile(lambda word: not re.match(r"\d?[<>]", word), words[script + 1 :])))


def _refuse_others(trainings: list[dict[str, str]]) -> None:
    """UserError for trainings that decide something differently, with the first name that does."""
    for other in trainings[1:]:
        for name in {**trainings[0], **other}:
            if (one := trainings[0].get(name, "not set")) != (another := other.get(name, "not set")):
                apart = f"different values ({name}: {one}, {another}); give one of them"
                raise UserError(f"--from-command: {len(trainings)} training commands with {apart}")


def _deciding(values: Mapping[str, str], of_shell: set[str]) -> dict[str, str]:
    """Without the names that no recipe knows: of the machine, of one seed, or of the shell alone."""
    apart = of_shell | OUTSIDE_NAMES.keys()
    return {key: value for key, value in values.items() if key not in apart and not OF_LIBRARIES.match(key)}


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of shell text: cut at line ends, `;`, `&`, `|`, `(` and such outside quotes, without comments.

    Each with the test before it on which it depends, as in `[ -d x ] && …` or `… || …`.
    """
    command = tested = ""
    text = re.sub(r"(?m)^[ \t]*(```|~~~)\w*[ \t\r]*$", "", text.translate({0xFEFF: None, 0x200B: None}))  # of Markdown
    text = _HERE.sub(_without_text, text)
    for part in _SHELL.findall(text.rstrip() + "\n"):
        if part == "<<":
            raise UserError("--from-command: the block holds a here-document (<<); give the training command alone")
        if part in ("\n", ";", "&", "&&", "|", "||", "(", ")"):
            yield command, tested
            if part == "||" or (part == "&&" and re.match(r"\s*(\[\[?|test)\s", command)):
                tested = _shown(command)
            elif part in ("\n", ";", "&") and command.strip():
                tested = ""
            command = ""
        elif part[0] in "\u201c\u201d\u2018\u2019" and len(part) > 1:
            command += shlex.quote(part[1:-1])
        elif part[:2] == "$(":  # one word
            command += part.replace(" ", "\N{NO-BREAK SPACE}")
        elif part == "\N{NO-BREAK SPACE}" or (part[0] == "\\" and part[-1] == "\n"):
            command += " "
        elif part[0] == "\\" and re.match(r"[\w.-]", part[1:]):  # a path of Windows; no shell needs it there
            command += "\\" + part
        elif part[0] != "#" or (command and not command[-1].isspace()):  # no comment
            command += part
    yield command, tested


def _without_text(here: re.Match[str]) -> str:
    """The rest of the line of a here-document, whose text goes to another program; as it is where it could matter."""
    matters = re.search(r"torch(run|\.distributed)|train\w*\.py", here[4]) or not _KNOWN.isdisjoint(
        re.findall(r"\w+(?=\s*=)", here[4])
    )
    return here[0] if matters else here[3]


def _set(values: dict[str, str], name: str, value: str) -> None:
    if values.get(name, value) != value and name in _KNOWN:
        raise UserError(f"--from-command: {name} is given twice, as {values[name]!r} and as {value!r}; keep one")
    values[name] = value


def _filled(name: str, value: str, known: Mapping[str, str]) -> str:
    """`value` with the names that the block has set before put in; of a path of data only its end must be known."""

    def put(found: re.Match[str]) -> str:
        return known.get(found[3], found[0]) if found[3] else known.get(found[1]) or _FILLED.sub(put, found[2])

    filled = _FILLED.sub(put, value)
    needed = PureWindowsPath(filled).name if name.startswith("DATA_") else filled
    if name in _KNOWN and re.search(r"\$[\w({]|`", needed):
        raise UserError(f"--from-command: {name}={value} is filled in by a shell; write the value itself")
    return filled

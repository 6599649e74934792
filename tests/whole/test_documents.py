"""README, CONTRIBUTING and the scripts of findings: what they link to exists, what they say to type is understood."""

import contextlib
import io
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from links import broken_links

from pgolf_core.lab.cli import COMMANDS, parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "runs/README.md", "findings/README.md")]
PAGES += [ROOT / "papers" / name for name in ("commands.md", "many-machines.md")]
SCRIPTS = sorted(path for path in (ROOT / "findings").iterdir() if path.suffix != ".md")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def help_of(command: str, *further: str) -> str:
    """What `pgolf COMMAND --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse([command, *further, "--help"])
    return printed.getvalue()


def lines_to_type(path: Path) -> list[str]:
    """Code of a page, in its text and in its blocks, or a script's lines; continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    if path.suffix == ".sh":
        return text.splitlines()
    blocks = "".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S))
    return [*re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)), *blocks.splitlines()]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_every_file_named_is_there(path: Path) -> None:
    assert broken_links(path) == []
    text = path.read_text(encoding="utf-8")
    for named in re.findall(r"`((?:pgolf_core|tests|papers|findings|notebooks|\.ci|\.github)/[\w/.-]*[\w/])`", text):
        assert (ROOT / named).exists() or re.search("NAME|NN|YYYY", named), f"{named} does not exist"


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=name_of)
def test_every_command_and_target_that_it_says_to_type_is_there(path: Path) -> None:
    if path.name == "commands.md":
        assert set(COMMANDS) == set(re.findall(r"^\| `pgolf (\w+)", path.read_text(encoding="utf-8"), re.M)), "its rows"
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for line in lines_to_type(path):
        words = line.partition(" # ")[0].split()
        if words[:1] == ["make"]:
            assert set(words[1:2]) <= targets, f"no target: {line}"
        while words and re.match(r"PET_\w+=", words[0]):
            words.pop(0)
        if words[:1] not in (["pgolf"], [".venv/bin/pgolf"]) or len(words) == 1 or words[1] == "COMMAND":
            continue
        assert words[1] in COMMANDS, f"no command: {line}"
        shown = help_of(*words[1:3]) if words[1] == "data" else help_of(words[1])
        for option in re.findall(r"(?<!\w)--[\w-]+", " ".join(words[2:])):
            assert re.search(rf"{option}\b", shown), f"`pgolf {words[1]}` has no {option}"


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_finding_about_others_software_is_a_script_that_stands_alone(path: Path) -> None:
    assert path.suffix == ".sh" and "mktemp -d" in path.read_text() and "pgolf" not in path.read_text()
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


def test_the_table_of_findings_has_a_row_for_each_by_the_first_line_of_its_head() -> None:
    heads = [(path.stem, path.name, path.read_text().splitlines()[1].removeprefix("# ")) for path in SCRIPTS]
    text = (ROOT / "findings" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(.+?)\]\((.+?)\) \| (.+) \|$", text, re.M) == heads

"""The papers hold together: links, citations, names of code, tests and recipes, recipe values, and numbers quoted."""

from __future__ import annotations

import ast
import doctest
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from links import broken_links

from pgolf_core.network.grid import GRIDS
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import to_dict

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "papers"
NOTES = sorted((PAPERS / "techniques").glob("*.md"))
MACHINERY = PAPERS / "machinery.md"
MARKDOWN = sorted(PAPERS.rglob("*.md"))
RECORDS = ("pr194", "pr315", "pr332", "pr531", "pr534")
CITATION = re.compile(r"\[@([\w-]+)\]")
ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
MOST_LINES = 55
"""A note is a page."""


def name_of(path: Path) -> str:
    return path.relative_to(PAPERS).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def prose_of_notebooks() -> str:
    books = [json.loads(text_of(path))["cells"] for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    return "\n".join("".join(cell["source"]) for cells in books for cell in cells if cell["cell_type"] == "markdown")


@cache
def bibliography() -> dict[str, dict[str, str]]:
    """{key: {field: value}}; a key that stands twice is an error."""
    entries: dict[str, dict[str, str]] = {}
    for key, body in re.findall(r"^@\w+\{([\w-]+),\n(.*?)^\}", text_of(PAPERS / "references.bib"), re.M | re.S):
        assert key not in entries, f"{key} stands twice"
        entries[key] = dict(re.findall(r"^ *(\w+) *= *\{(.*)\},?$", body, re.M))
    return entries


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    assert broken_links(path) == []


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_every_citation_is_in_the_bibliography(path: Path) -> None:
    assert set(CITATION.findall(text_of(path))) - {"key"} <= set(bibliography())


def test_every_entry_is_complete_and_cited_in_papers_or_named_in_a_notebook() -> None:
    cited = {key for path in MARKDOWN for key in CITATION.findall(text_of(path))}
    prose = prose_of_notebooks()
    assert len(bibliography()) == len(re.findall(r"^@", text_of(PAPERS / "references.bib"), re.M))
    for key, fields in bibliography().items():
        assert fields.get("title") and fields.get("author"), key
        surname = re.escape(re.split(r"[ ,]", fields["author"].strip("{}"))[0])
        ways = [rf"arXiv {fields['eprint']}"] if "eprint" in fields else []
        ways += [rf"{surname}( et al\.| and \w+)? {fields['year']}"] if "year" in fields else []
        assert key in cited or any(re.search(way, prose) for way in ways), f"nobody cites {key}"


def test_every_arxiv_number_in_papers_notebooks_and_code_is_an_entrys() -> None:
    known = {fields["eprint"] for fields in bibliography().values() if "eprint" in fields}
    sources = [*map(text_of, MARKDOWN), prose_of_notebooks()]
    sources += [text_of(path) for path in sorted((ROOT / "pgolf_core").rglob("*.py"))]
    assert {number for source in sources for number in ARXIV.findall(source)} <= known


@cache
def names_defined(path: Path) -> set[str]:
    """Top-level names of a Python file, and Class.member for methods and fields."""
    names = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse(text_of(path)).body, "")
    return names | (set(GRIDS) if path.name == "grid.py" else set())


def code_named(note: Path) -> dict[str, list[str]]:
    """{file: names} of the paragraph that begins with *Code:*."""
    found = re.search(r"\*Code:\*(.*?)(?=\*Seen at work:\*|\n\n)", text_of(note), re.S)
    assert found, f"{note.name} does not say where its code is"
    named: dict[str, list[str]] = {}
    for word in re.findall(r"`([^`]+)`", found[1]):
        if word.endswith(".py"):
            file = word
            named[file] = []
        else:
            named[file].append(word)
    return named


@pytest.mark.parametrize("note", NOTES, ids=name_of)
def test_a_technique_note_names_code_and_tests_that_exist(note: Path) -> None:
    named = code_named(note)
    assert named and all(named.values()), f"{note.name} names a file without a function, class or field in it"
    for file, names in named.items():
        missing = set(names) - names_defined(ROOT / file)
        assert not missing, f"{note.name}: {file} has no {sorted(missing)}"
    tests = "".join(text_of(path) for path in sorted((ROOT / "tests").rglob("test_*.py")))
    seen = re.search(r"\*Seen at work:\*(.*?)\n\n", text_of(note), re.S)
    assert seen, f"{note.name} does not say where it is seen at work"
    for test in re.findall(r"`(test_\w+)`", seen[1]):
        assert f"def {test}(" in tests, f"{note.name}: no test {test}"
    assert "`test_" in seen[1]


@pytest.mark.parametrize("note", NOTES, ids=name_of)
def test_a_technique_note_has_its_source_its_records_and_a_number_and_is_a_page(note: Path) -> None:
    text = " ".join(text_of(note).split())
    assert "*Source:*" in text and CITATION.search(text), "a source, cited by key"
    assert "**What the published run" in text and "**Traps.**" in text and "hat it costs" in text
    assert "```pycon" in text, "a number that a reader can recompute"
    assert len(text_of(note).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_every_recipe_named_is_on_disk(path: Path) -> None:
    named = re.findall(r"`((?:local-)?pr\d+(?:-qat|-as-run)?|local-smoke)`", text_of(path))
    assert set(named) <= set(available_recipes())


def test_the_index_lists_every_note_record_and_finding_once() -> None:
    index = text_of(PAPERS / "README.md").partition("\n## ")[0]
    listed = [
        target for line in index.splitlines() for target in re.findall(r"\]\(([^)]+)\)", line.partition(" | ")[0])
    ]
    wanted = {name_of(path) for path in MARKDOWN} - {"README.md", "LOG.md"}
    wanted |= {f"records/{record}.toml" for record in RECORDS}
    assert len(listed) == len(set(listed))
    assert wanted <= set(listed)


def shown(value: Any) -> str:
    """A recipe's value as the tables write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def recipe_rows(text: str) -> list[tuple[str, str, str]]:
    """(recipe, key, cell) of every table row that names a recipe's key, under a header that names recipes."""
    rows, columns = [], {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if not cells:
            columns = {}
        elif any(cell.strip("`") in available_recipes() for cell in cells):
            columns = {place: cell.strip("`") for place, cell in enumerate(cells) if cell.startswith("`")}
        keys = [cell.strip("`") for cell in cells if re.fullmatch(r"`[a-z]+\.[a-z_]+`", cell)]
        rows += [(recipe, key, cells[place]) for key in keys for place, recipe in columns.items()]
    return rows


@pytest.mark.parametrize("path", [*NOTES, MACHINERY, PAPERS / "README.md"], ids=name_of)
def test_tables_give_the_values_that_the_recipes_have(path: Path) -> None:
    rows = recipe_rows(text_of(path))
    assert rows, f"{path.name} has no table of recipes"
    for recipe, key, cell in rows:
        section, name = key.split(".")
        assert cell == shown(to_dict(load_recipe(recipe))[section][name]), f"{path.name}: {key} of {recipe}"


@pytest.mark.parametrize("note", [*NOTES, MACHINERY], ids=name_of)
def test_the_numbers_of_a_note_come_out_when_its_lines_are_run(note: Path) -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```", text_of(note), re.M | re.S)
    example = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, note.stem, str(note), 0)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.attempted and not result.failed, "".join(said)

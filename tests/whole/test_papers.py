"""The papers hold together: links, citations, names of code, tests and recipes, recipe values, and numbers quoted."""

import ast
import doctest
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from links import broken_links, outside_code

from pgolf_core.lab.gallery.pages import MADE_FROM, MOST_BYTES, sources_sha256
from pgolf_core.network.grid import GRIDS
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import to_dict

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "papers"
NOTES = sorted((PAPERS / "techniques").glob("*.md"))
MACHINERY = PAPERS / "machinery.md"
MARKDOWN = sorted(PAPERS.rglob("*.md"))
GALLERY = PAPERS / "gallery"
SHOW_AGAIN = "run `pgolf record local --seeds 1337 --fresh`, then `pgolf gallery runs/local_10min_1mb/local`"
CITATION = re.compile(r"\[@([\w-]+)\]")
ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
MOST_LINES = 55  # a note is a page


def name_of(path: Path) -> str:
    return path.relative_to(PAPERS).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def bibliography() -> dict[str, dict[str, str]]:
    """{key: {field: value}}; a key that stands twice is an error."""
    text = text_of(PAPERS / "references.bib")
    entries = re.findall(r"^@\w+\{([\w-]+),\n(.*?)^\}", text, re.M | re.S)
    found = {key: dict(re.findall(r"^ *(\w+) *= *\{(.*)\},?$", body, re.M)) for key, body in entries}
    assert len(found) == len(entries) == len(re.findall(r"^@", text, re.M)), "a key stands twice, or cannot be read"
    return found


@cache
def prose_of_notebooks() -> str:
    books = [json.loads(text_of(path))["cells"] for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    return "\n".join("".join(cell["source"]) for cells in books for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_links_citations_and_recipes_of_a_page_are_there(path: Path) -> None:
    assert broken_links(path) == []
    assert set(CITATION.findall(text_of(path))) - {"key"} <= set(bibliography())
    assert set(re.findall(r"`((?:local-)?pr\d+(?:-qat|-as-run)?|local-smoke)`", text_of(path))) <= set(
        available_recipes()
    )


def test_every_entry_is_complete_and_cited_and_every_arxiv_number_is_an_entrys() -> None:
    cited = {key for path in MARKDOWN for key in CITATION.findall(text_of(path))}
    prose = prose_of_notebooks()
    for key, fields in bibliography().items():
        assert fields.get("title") and fields.get("author"), key
        surname = re.escape(re.split(r"[ ,]", fields["author"].strip("{}"))[0])
        ways = [rf"arXiv {fields['eprint']}"] if "eprint" in fields else []
        ways += [rf"{surname}( et al\.| and \w+)? {fields['year']}"] if "year" in fields else []
        assert key in cited or any(re.search(way, prose) for way in ways), f"nobody cites {key}"
    sources = [*map(text_of, MARKDOWN), prose, *map(text_of, sorted((ROOT / "pgolf_core").rglob("*.py")))]
    known = {fields.get("eprint") for fields in bibliography().values()}
    assert {number for source in sources for number in ARXIV.findall(source)} <= known


@cache
def names_defined(path: Path) -> set[str]:
    """Top-level names of a Python file, and Class.member for methods and fields."""

    def names_in(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from names_in(node.body, f"{node.name}.")
            targets = getattr(node, "targets", [node.target] if isinstance(node, ast.AnnAssign) else [])
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

    return {*names_in(ast.parse(text_of(path)).body), *(GRIDS if path.name == "grid.py" else ())}


@pytest.mark.parametrize("note", NOTES, ids=name_of)
def test_a_technique_note_is_a_page_that_names_code_and_tests_that_exist_its_source_and_a_number(note: Path) -> None:
    code = re.search(r"\*Code:\*(.*?)(?=\*Seen at work:\*|\n\n)", text_of(note), re.S)
    seen = re.search(r"\*Seen at work:\*(.*?)\n\n", text_of(note), re.S)
    assert code and seen, f"{note.name} does not say where its code is, or where it is seen at work"
    named: dict[str, list[str]] = {}
    for word in re.findall(r"`([^`]+)`", code[1]):  # a file, then names in it
        if word.endswith(".py"):
            named[word] = []
        else:
            named[list(named)[-1]].append(word)
    assert named and all(named.values()), f"{note.name} names a file without a function, class or field in it"
    for file, names in named.items():
        assert set(names) <= names_defined(ROOT / file), f"{note.name}: {file} has not all of {names}"
    tests = "".join(text_of(path) for path in sorted((ROOT / "tests").rglob("test_*.py")))
    for test in re.findall(r"`(test_\w+)`", seen[1]):
        assert f"def {test}(" in tests, f"{note.name}: no test {test}"
    text = " ".join(text_of(note).split())
    assert "*Source:*" in text and CITATION.search(text), "a source, cited by key"
    assert "**What the published run" in text and "**Traps.**" in text and "hat it costs" in text
    assert "```pycon" in text, "a number that a reader can recompute"
    assert len(text_of(note).splitlines()) <= MOST_LINES and "`test_" in seen[1]


def test_the_index_lists_every_note_record_and_finding_once() -> None:
    lines = text_of(PAPERS / "README.md").partition("\n## ")[0].splitlines()
    listed = [target for line in lines for target in re.findall(r"\]\(([^)]+)\)", line.partition(" | ")[0])]
    wanted = {name_of(path) for path in MARKDOWN if path.parent != GALLERY} - {"README.md", "LOG.md"}
    wanted |= {"gallery/README.md"}
    wanted |= {name_of(path) for path in (PAPERS / "records").glob("*.toml")}
    assert len(listed) == len(set(listed)) and wanted <= set(listed)


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


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_gallery_shows_a_notebook_as_it_is(path: Path) -> None:
    assert (GALLERY / MADE_FROM).is_file(), f"there is no papers/gallery yet; {SHOW_AGAIN}"
    shown = json.loads(text_of(GALLERY / MADE_FROM))["notebooks"]
    same = shown.get(path.stem) == sources_sha256(nbformat.read(path, as_version=4))
    assert same, f"notebooks/{path.name} has changed since papers/gallery was made; {SHOW_AGAIN}"
    page = text_of(GALLERY / f"{path.stem}.md")
    assert page.count("<details>") >= 10 and f"]({path.stem}.md)" in text_of(GALLERY / "README.md")


def test_the_gallery_is_small_and_fetches_nothing() -> None:
    files = [path for path in GALLERY.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= MOST_BYTES, f"papers/gallery; {SHOW_AGAIN}"
    for path in GALLERY.glob("*.md"):
        assert not re.findall(r"<(?:script|link|style|iframe)|src=\"http|\]\(http", outside_code(path)), path.name

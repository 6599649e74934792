"""The gallery: an executed notebook as a page, the report as a page, and the index of both.

Pages are Markdown with pictures, since that is what a site that hosts a repository shows; an editor or JupyterLab shows
them too. Nothing in them is fetched from elsewhere, and the same run gives the same bytes.
"""

import base64
import contextlib
import functools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert.filters import strip_ansi
from tqdm import tqdm

from pgolf_core.base.files import UserError, canonical_json, sha256_bytes, write_bytes, write_json
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.lab.compare.agreement import changed_files
from pgolf_core.lab.compare.results import seed_folders
from pgolf_core.lab.gallery.pictures import FOLDER, Pictures
from pgolf_core.lab.record.folder import STAGES, Stage
from pgolf_core.lab.report.page import UNPRINTABLE, Markdown, fenced, plain, table
from pgolf_core.lab.report.reading import command_of
from pgolf_core.lab.report.report import scored
from pgolf_core.lab.report.seeds import read_summary
from pgolf_core.lab.shared.places import REPORT, SUMMARY_FILE, find_root, short_path, whole_folder

GALLERY = "papers/gallery"
MADE_FROM = "made-from.json"
"""In the gallery: the run's folder, seed, and the hash of every notebook that it shows."""
OWN = re.compile(rf"README\.md|report\.md|\d\d_\w+\.md|{re.escape(MADE_FROM)}|{FOLDER}/[^/]+\.png")
"""Paths of a gallery's files in it; a folder with others is not replaced."""
MOST_BYTES = 3_000_000
WIDTH = 110
"""Characters of a line of output; what is longer goes on below."""
INJECTED = "injected-parameters"
"""papermill's tag of the cell that it adds."""
NUMBER = re.compile(r"[-+−±]? ?[\d.,]*\d%?(?:e[-+]?\d+)?")
NO_VALUE = ("", "-", "–", "nan", "NaN", "None", "NA", "<NA>")
OF_MACHINE = re.compile(r"(?<![\w/.:~])~?/(?:[\w.@+-]+/)+")
"""The folders of an absolute path, or of one in somebody's home."""


def sources_sha256(book: nbformat.NotebookNode) -> str:
    """SHA-256 of kinds and sources of a notebook's cells, equal before and after it was executed by the runner."""
    own = [cell for cell in book.cells if INJECTED not in cell.metadata.get("tags", [])]
    return sha256_bytes(canonical_json([[cell.cell_type, cell.source] for cell in own]).encode())


def make_gallery(run_folder: Path, seed: int | None = None, out: Path | None = None) -> tuple[Path, int]:
    """Write pages of the run's report and of its notebooks, those of `seed` among them; the index and all bytes.

    `out` (papers/gallery) is replaced. UserError, with nothing changed, where a notebook is missing, damaged or not the
    repository's, `out` holds what is no gallery's, or the whole would be larger than MOST_BYTES.
    """
    run_folder, out = run_folder.resolve(), (out or find_root() / GALLERY).resolve()
    _refuse_other(out)
    finished = [one for one, place in seed_folders(run_folder).items() if (place / SEED_RESULT).is_file()]
    if not finished or (seed is not None and seed not in finished):
        which = "no finished seed" if seed is None else f"no finished seed {seed}"
        raise UserError(f"{short_path(run_folder)} has {which}; `pgolf status {short_path(run_folder)}` looks")
    seed, pictures = finished[0] if seed is None else seed, Pictures()
    books = {stage.name: _executed(run_folder, seed, stage) for stage in STAGES}
    hashes = {name: sources_sha256(book) for name, book in books.items()}
    made_from = {"run": run_folder.name, "seed": seed, "notebooks": hashes}
    pages = {}
    for stage in tqdm(STAGES, desc="pages", leave=False, disable=None, bar_format="{desc}: {n_fmt} of {total_fmt}"):
        with _shown(*_place_of(run_folder, seed, stage)):
            pages[stage.name] = _notebook_page(stage.name, books[stage.name], pictures)
    for changed in changed_files(run_folder, STAGES[-1].name):
        raise UserError(f"{short_path(run_folder)}: {changed}; `pgolf record … --report-only` writes it again")
    with _shown(run_folder / REPORT, "`pgolf record … --report-only` writes it again"):
        pages["report"] = _report_page(run_folder, pictures)
    files = {f"{FOLDER}/{name}": payload for name, payload in pictures.files.items()}
    for place, (name, page) in enumerate(pages.items()):
        steps = _steps(list(pages), place)
        files[f"{name}.md"] = UNPRINTABLE.sub("\ufffd", f"{steps}\n\n{page}\n\n{steps}\n").encode()
    with _shown(run_folder / SUMMARY_FILE, "`pgolf record … --report-only` writes it again"):
        files["README.md"] = _index(run_folder, seed, pages).encode()
    size = sum(map(len, files.values()))
    if size > MOST_BYTES:
        raise UserError(f"the gallery would take {size:,} bytes of {MOST_BYTES:,}; take another run, of fewer seeds")
    with whole_folder(out, replaces=True) as made:
        for name, payload in files.items():
            write_bytes(made / name, payload)
        write_json(made / MADE_FROM, made_from)
    return out / "README.md", size + (out / MADE_FROM).stat().st_size


def _refuse_other(out: Path) -> None:
    """UserError for a place where something else than a gallery is."""
    remedy = "give another --out, or take it away"
    if out.exists() and not (out / MADE_FROM).is_file():
        raise UserError(f"{short_path(out)} exists and is no gallery; {remedy}")
    there = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
    if other := next((name for name in there if not OWN.fullmatch(name)), ""):
        raise UserError(f"{short_path(out / other)} is no file of a gallery, and would be lost; {remedy}")


@contextlib.contextmanager
def _shown(path: Path, remedy: str) -> Iterator[None]:
    """Turn whatever a damaged file breaks inside into a UserError that names the file and the remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files break things in ways nobody lists
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(f"{short_path(path)} cannot be shown ({why:.120}); {remedy}") from None


def _place_of(run_folder: Path, seed: int, stage: Stage) -> tuple[Path, str]:
    """Where a stage's executed notebook lies, and what makes it again."""
    place = run_folder / (f"seed{seed}" if stage.per == "seed" else "") / "notebooks" / f"{stage.name}.ipynb"
    return place, f"run `{command_of(run_folder, [seed])} --fresh`"


def _executed(run_folder: Path, seed: int, stage: Stage) -> nbformat.NotebookNode:
    path, remedy = _place_of(run_folder, seed, stage)
    own = find_root() / "notebooks" / path.name
    if not path.is_file():
        raise UserError(f"{short_path(path)} does not exist; {remedy.replace(' --fresh', '')}")
    with _shown(own, "take it from the repository again"):
        source = nbformat.read(own, as_version=4)
    with _shown(path, remedy):
        book = nbformat.read(path, as_version=4)
        is_same = sources_sha256(book) == sources_sha256(source)
    if not is_same:
        raise UserError(f"notebooks/{path.name} is not what was run in {short_path(path.parents[1])}; {remedy}")
    return book


# ---------------------------------------------------------------------- pages


def _steps(names: list[str], place: int) -> str:
    """Links to the page before, the index and the page after."""
    before = [f"[← {names[place - 1]}]({names[place - 1]}.md)"] if place else []
    after = [f"[{names[place + 1]} →]({names[place + 1]}.md)"] if place + 1 < len(names) else []
    return " · ".join([*before, "[gallery](README.md)", *after])


def _notebook_page(stage: str, book: nbformat.NotebookNode, pictures: Pictures) -> str:
    parts = []
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(pictures.with_formulas(cell.source))
        elif cell.cell_type == "code":
            code, own = fenced(_anywhere(cell.source), "python"), INJECTED in cell.metadata.get("tags", [])
            name = "this run's parameters" if own else cell.id
            parts.append(f"<details><summary>code: {name}</summary>\n\n{code}\n\n</details>")
            parts += _outputs(cell, f"{stage[:2]}-{cell.id}", pictures)
    return "\n\n".join(parts)


def _outputs(cell: nbformat.NotebookNode, name: str, pictures: Pictures) -> Iterator[str]:
    """Markdown of each output: figures, tables, or what a terminal would show."""
    for number, output in enumerate(cell.outputs):
        data = output.get("data", {})
        if "image/png" in data:
            own = name if not number else f"{name}-{number + 1}"
            yield pictures.figure(base64.b64decode(data["image/png"]), own, f"Figure: {cell.id.replace('-', ' ')}")
        elif "<table" in (page := data.get("text/html", "")):
            yield from filter(None, map(_table, BeautifulSoup(page, "html.parser").find_all("table")))
        else:
            text = output.get("text") or data.get("text/plain") or "\n".join(output.get("traceback", []))
            lines = [line.rpartition("\r")[2].rstrip() for line in strip_ansi(text).split("\n")]  # a bar's last state
            if shown := "\n".join(map(_wrapped, lines)).strip("\n"):
                yield fenced(_anywhere(shown), "text")


_wrapped = functools.partial(textwrap.fill, width=WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _anywhere(text: str) -> str:
    return OF_MACHINE.sub("…/", text)


def _table(page: Tag) -> Markdown:
    """An HTML table of pandas in Markdown, empty without rows: columns of numbers are set right, all others left."""
    grid: dict[tuple[int, int], str] = {}
    for y, row in enumerate(page.find_all("tr")):
        for cell in row.find_all(["th", "td"]):
            x = next(x for x in range(len(grid) + 1) if (y, x) not in grid)
            down, across = (range(int(str(cell.get(name, "1")))) for name in ("rowspan", "colspan"))
            text = " ".join(cell.get_text().split())
            grid |= {(y + dy, x + dx): text for dy in down for dx in across}
    width = 1 + max((x for _, x in grid), default=0)
    rows = [[grid.get((y, x), "") for x in range(width)] for y in range(len(page.find_all("tr")))]
    head = len(page.thead.find_all("tr")) if page.thead else 0
    header = [" · ".join(dict.fromkeys(filter(None, names))) for names in zip(*rows[:head], strict=True)]
    columns = list(zip(*rows[head:], strict=True))
    texts = {x for x, cells in enumerate(columns) if not all(one in NO_VALUE or NUMBER.fullmatch(one) for one in cells)}
    return table(header or [""] * width, rows[head:], text_columns=texts) if columns else Markdown()


def _report_page(run_folder: Path, pictures: Pictures) -> str:
    path = run_folder / REPORT
    if not path.is_file():
        raise UserError(f"{short_path(path)} does not exist; `pgolf record … --report-only` writes it")

    def small(found: re.Match[str]) -> str:
        about, file = found.groups()
        return pictures.figure((run_folder / file).read_bytes(), f"report-{Path(file).stem}", about)

    text = re.sub(r" ?\[Numbers\]\([^)]*\)", "", path.read_text(encoding="utf-8"))
    return re.sub(r"!\[([^\]]*)\]\(([^)]*)\)", small, text).strip()


def _index(run_folder: Path, seed: int, pages: dict[str, str]) -> str:
    summary, rows = read_summary(run_folder), []
    for name, page in pages.items():
        title = next((line[2:] for line in page.splitlines() if line.startswith("# ")), name)
        first = re.search(rf'src="({FOLDER}/(?!formula)[^"]+)"', page)
        look = f'<img src="{first[1]}" alt="" width="200">' if first else ""
        rows.append(f"| [{name}]({name}.md) | {title.rpartition(' · ')[2]} | {look} |")
    seeds = summary["seeds"]  # the report's, whichever others the folder has
    result = scored(summary) + ("" if len(seeds) == 1 else f" over {len(seeds)} seeds")
    return f"""# Gallery: a run to look at

Recipe {plain(summary["recipe"])} on {plain(summary["track"])}: {result}. The notebooks as they were executed for
seed {seed}, their code folded away, and the report. Formulas are pictures; nothing is fetched.

| page | question | first figure |
| :-- | :-- | :-- |
{chr(10).join(rows)}

Made by `pgolf gallery`, after `{command_of(run_folder, seeds)}`.
A test says when a notebook has changed since.
"""

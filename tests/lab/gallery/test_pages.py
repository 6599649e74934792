"""The gallery: what was executed is shown, small, the same each time, and bound to no machine."""

import base64
import io
import json
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pandas as pd
import pytest
from links import broken_links
from PIL import Image
from refused import refused
from report_run import RUN_SEEDS, report_run

from pgolf_core.lab.gallery import pages, pictures
from pgolf_core.lab.gallery.pages import make_gallery, sources_sha256
from pgolf_core.lab.record.folder import STAGES
from pgolf_core.lab.report.report import write_report

NEW = nbformat.v4
TABLE = pd.DataFrame({("of", "name"): ["a|b", "c"], ("of", "size"): [1200, -3], ("by", "share"): ["12.5%", "–"]})


def book_of(stage: str) -> nbformat.NotebookNode:
    """A notebook with text, a formula and a cell of each kind of output's making; nothing is executed."""
    cells = [
        NEW.new_markdown_cell(f"# {stage[:2]} · What is {stage}?\n\nIt is $x_j$.", id="title"),
        NEW.new_code_cell("seed: int = 1", id="parameters", metadata={"tags": ["parameters"]}),
        NEW.new_code_cell("show()", id="look"),
    ]
    return NEW.new_notebook(cells=cells)


def executed(stage: str) -> nbformat.NotebookNode:
    """The same as the runner leaves it."""
    book = book_of(stage)
    given = NEW.new_code_cell('runs_dir = "/home/me/secret/runs"', metadata={"tags": ["injected-parameters"]})
    book.cells.insert(2, given)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), f"#{STAGES[int(stage[1]) - 1].name.encode().hex()[-6:]}").save(picture, format="PNG")
    said = (
        "reading /home/me/secret/data.bin, 3/4 of it\n 10%|#\r100%|##\n\x1b[31mred\x1b[0m and ``` and $5 "
        + 30 * "long "
    )
    book.cells[3].outputs = [
        NEW.new_output("stream", text=said),
        NEW.new_output("execute_result", {"text/html": TABLE.to_html(), "text/plain": "no"}),
        NEW.new_output("display_data", {"text/html": TABLE.iloc[:0].style.to_html(), "text/plain": "no"}),
        NEW.new_output(
            "display_data", {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": "<F>"}
        ),
        NEW.new_output("display_data", {"text/html": "<pre>rich</pre>", "text/plain": "plain"}),
    ]
    return book


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report and executed notebooks, for tests that only read it."""
    run = report_run(tmp_path_factory.mktemp("runs"))
    write_report(run, RUN_SEEDS)
    for stage in STAGES:
        place = run / ("seed1337" if stage.per == "seed" else "") / "notebooks"
        place.mkdir(exist_ok=True)
        nbformat.write(executed(stage.name), place / f"{stage.name}.ipynb")
    return run


KEPT: dict[tuple, bytes] = {}


def few_colours(drawn: Image.Image, colours: int, plain=pictures._few_colours) -> bytes:
    """To choose colours takes its time, and most tests show the same figures."""
    key = (drawn.tobytes(), drawn.size, colours)
    return KEPT.get(key) or KEPT.setdefault(key, plain(drawn, colours))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of such notebooks."""
    (tmp_path / "notebooks").mkdir()
    for stage in STAGES:
        nbformat.write(book_of(stage.name), tmp_path / "notebooks" / f"{stage.name}.ipynb")
    monkeypatch.setattr(pages, "find_root", lambda: tmp_path)
    monkeypatch.setattr(pictures, "_few_colours", few_colours)
    return tmp_path


def test_each_notebook_and_the_report_have_a_page_and_a_line_and_the_same_run_gives_the_same_bytes(
    made, root, monkeypatch, capsys
):
    index, size = make_gallery(made)
    files = {path.relative_to(index.parent): path.read_bytes() for path in index.parent.rglob("*") if path.is_file()}
    assert index == root / "papers" / "gallery" / "README.md" and size == sum(map(len, files.values()))
    names = [*(stage.name for stage in STAGES), "report"]
    rows = [line for line in index.read_text().splitlines() if line.startswith("| [")]
    assert [row[3:].partition("]")[0] for row in rows] == names and "What is 03_train? | <img src=" in rows[2]
    assert "1.7661 ± 0.0031 bits per byte over 3 seeds" in index.read_text()
    for page in index.parent.glob("*.md"):
        assert broken_links(page) == [] and "secret" not in page.read_text() and "/home" not in page.read_text()
    report = (index.parent / "report.md").read_text()
    assert report.count("<img ") == 5 and "[Numbers]" not in report and "pictures/report-curves.png" in report
    told = json.loads((index.parent / "made-from.json").read_text())
    assert told["seed"] == 1337 and set(told["notebooks"]) == set(names[:-1])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make_gallery(made)
    assert "pages: 0 of 7" in capsys.readouterr().err
    again = {path.relative_to(index.parent): path.read_bytes() for path in index.parent.rglob("*") if path.is_file()}
    assert again == files


def test_outputs_are_shown_as_a_reader_would_see_them(made):
    page = (make_gallery(made)[0].parent / "03_train.md").read_text()
    assert "[← 02_architecture](02_architecture.md) · [gallery](README.md) · [04_average_and_qat →]" in page
    assert page.count("<details>") == 3 and "code: this run's parameters" in page and 'runs_dir = "…/runs"' in page
    assert "reading …/data.bin, 3/4 of it\n100%|##\nred and ``` and $5 long" in page and "10%|#" not in page
    assert (
        "\n````text\n" in page and max(map(len, page.partition("````text")[2].partition("````")[0].splitlines())) <= 110
    )
    assert "\n```text\nplain\n```" in page and page.count('src="pictures/03-look') == 1
    assert "|  | of · name | of · size | by · share |\n| --: | :-- | --: | --: |\n| 0 | a\\|b | 1200 | 12.5% |" in page
    assert page.count("of · name") == 1, "a table without rows is left out"


def test_a_notebooks_hash_is_of_its_own_cells_alone():
    book = book_of("03_train")
    assert sources_sha256(book) == sources_sha256(executed("03_train"))
    book.cells[2].source += " "
    assert sources_sha256(book) != sources_sha256(executed("03_train"))


NOTEBOOK = "seed1337/notebooks/03_train.ipynb"


def another_picture(path: Path, value: object) -> None:
    """Put something else in the place of a notebook's picture."""
    book = json.loads(path.read_text())
    book["cells"][3]["outputs"][3]["data"]["image/png"] = value
    path.write_text(json.dumps(book))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((NOTEBOOK, payload) for payload in (b"", b"[1]", b"{}", b"\x00\xff", b'{"cells": [{"cell_type": "mark')),
        *((NOTEBOOK, lambda path, value=value: another_picture(path, value)) for value in ("%%%", "aGVsbG8=", 5)),
        *(("summary.json", payload) for payload in (b"", b"[1]", b"{}", b"\x00\xff")),
        ("report.md", b"\x00\xff"),
        ("report.md", b"![gone](figures/gone.png)"),
        ("figures/curves.png", b"no picture"),
    ],
)
def test_a_damaged_file_is_one_line_with_a_remedy_and_leaves_the_gallery_as_it_was(made, tmp_path, name, damage):
    index, _ = make_gallery(made)
    before = index.read_bytes()
    run = shutil.copytree(made, tmp_path / "damaged" / made.name)
    damage(run / name) if callable(damage) else (run / name).write_bytes(damage)
    with refused(r"[\w]+\.(ipynb|json|md) .*; .+"):
        make_gallery(run)
    assert index.read_bytes() == before


def test_files_of_somebody_else_in_the_gallery_are_not_lost_and_nor_is_one_that_cannot_be_replaced(made, monkeypatch):
    index, _ = make_gallery(made)
    before = index.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pages, "write_json", Mock(side_effect=OSError(28, "No space left on device")))
        with refused(r"cannot write .*gallery: No space left on device"):
            make_gallery(made)
    assert index.read_bytes() == before and [path.name for path in index.parents[1].iterdir()] == ["gallery"]
    (index.parent / "pictures" / "mine.txt").write_text("my own")
    with refused(r"mine\.txt is no file of a gallery, and would be lost; give another --out"):
        make_gallery(made)


def test_the_index_tells_the_reports_seeds_and_not_the_folders(made, tmp_path):
    run = shutil.copytree(made, tmp_path / "one" / made.name)
    write_report(run, [1338])
    index = make_gallery(run)[0].read_text()
    assert "1.7661 bits per byte. The notebooks" in index and "--seeds 1338 " in index and "for\nseed 1337" in index


def test_a_report_without_a_title_is_listed_by_its_name(made, tmp_path):
    run = shutil.copytree(made, tmp_path / "untitled" / made.name)
    (run / "report.md").write_text("no title")
    assert "| [report](report.md) | report |" in make_gallery(run)[0].read_text()


def test_a_repository_without_a_notebook_is_told(made, root):
    (root / "notebooks" / "05_quantize.ipynb").unlink()
    with refused(r"05_quantize\.ipynb cannot be shown .*; take it from the repository again"):
        make_gallery(made)


def test_what_cannot_be_shown_is_told_with_a_remedy_and_nothing_is_written(made, root, tmp_path, monkeypatch):
    with refused(r"no finished seed 7; `pgolf status .*` looks"):
        make_gallery(made, 7)
    told = r"03_train.ipynb does not exist; run `pgolf record local-smoke --seeds 1338 --set .*`"
    with refused(told):
        make_gallery(made, 1338)
    with refused("no finished seed;"):
        make_gallery(tmp_path / "nosuch")
    with refused("exists and is no gallery; give another --out"):
        make_gallery(made, out=root / "notebooks")
    monkeypatch.setattr(pages, "MOST_BYTES", 1000)
    with refused(r"would take [\d,]+ bytes of 1,000"):
        make_gallery(made)
    changed = root / "notebooks" / "05_quantize.ipynb"
    changed.write_text(changed.read_text().replace("show()", "show(2)"))
    told = r"notebooks/05_quantize.ipynb is not what was run in .*seed1337; run `pgolf record .* --fresh`"
    with refused(told):
        make_gallery(made)
    assert not (root / "papers").exists()

"""The shape of the repository: the core's import order and size, and what a committed notebook may hold.

pytest tests/test_structure.py
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = [
    "files", "recipe_rules", "recipe", "tokenizer", "data", "grid", "device", "parallel", "attention", "model", "optim",
    "average", "sensitivity", "correction", "ledger", "coder", "steps", "allocation", "artifact", "evaluate",
    "checkpoint", "runlog", "stop", "clock", "train", "train_main",
]  # fmt: skip
CORE_MAY_IMPORT = {"torch", "numpy", "sentencepiece", "zstandard", "safetensors", "constriction"}
CORE_MAY_TRY = {"flash_attn", "flash_attn_interface"}
MAX_LINES = 420
STAGES = (
    "01_data_and_metric", "02_architecture", "03_train", "04_average_and_qat", "05_quantize", "06_sliding_eval",
    "07_report",
)  # fmt: skip
PARAMETERS = {
    "recipe": str, "overrides": list, "seed": int, "seeds": list, "data": str, "runs_dir": str, "name": str,
    "cache_dir": str,
}  # fmt: skip
FORBIDDEN = {
    "a shell or line magic": re.compile(r"^\s*[!%]", re.MULTILINE),
    "an absolute path": re.compile(r"""["'](?:/(?:home|root|tmp|work|mnt|usr|opt|var|data|Users)\b|~/|[A-Za-z]:\\)"""),
    "a sys.path edit": re.compile(r"\bsys\.path\b"),
    "a change of folder": re.compile(r"\bos\.chdir\b"),
    "a warning filter": re.compile(r"\b(?:filterwarnings|simplefilter)\b"),
    "an early end": re.compile(r"\b(?:sys\.exit|os\._exit|quit\(|exit\()"),
}

core_files = sorted((ROOT / "pgolf_core").glob("*.py"))
package_files = sorted((ROOT / "pgolf_core").rglob("*.py"))
notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))


def imports_of(path: Path) -> list[str]:
    """Full names of everything a file imports, inside functions too; `from a import b` gives a.b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import in line {node.lineno}"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            named = node.args and isinstance(node.args[0], ast.Constant)
            names += [node.args[0].value] if named else []
    return names


@pytest.mark.parametrize("path", core_files, ids=lambda path: path.name)
def test_a_room_of_the_core_imports_only_rooms_above_it(path: Path):
    allowed = set(ROOMS) if path.stem == "__init__" else set(ROOMS[: ROOMS.index(path.stem)])
    own = [name.split(".") for name in imports_of(path) if name.split(".")[0] == "pgolf_core"]
    assert {parts[1] for parts in own if len(parts) > 1 and parts[1] != "__version__"} <= allowed


@pytest.mark.parametrize("path", core_files, ids=lambda path: path.name)
def test_the_core_never_imports_the_lab_and_only_its_few_libraries(path: Path):
    roots = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names) - {"pgolf_core"}
    tried = CORE_MAY_TRY if path.stem == "attention" else set()
    assert roots <= CORE_MAY_IMPORT | tried
    assert not [name for name in imports_of(path) if name.startswith("pgolf_core.lab")]


@pytest.mark.parametrize("path", package_files, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_of_the_package_is_short_enough_to_read(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_top_level_holds_what_the_design_names():
    for name in ("notebooks", "pgolf_core", "papers", "runs/README.md", "tests", "pyproject.toml", "Makefile",
                 "README.md", "constraints.txt", "LICENSE", ".ci/run"):  # fmt: skip
        assert (ROOT / name).exists(), name


# ---------------------------------------------------------------------- notebooks


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_the_seven_notebooks_are_there():
    assert [path.stem for path in notebooks] == list(STAGES)


@pytest.mark.parametrize("path", notebooks, ids=lambda path: path.stem)
def test_a_notebook_has_one_parameters_cell_of_plain_literals_with_the_full_set(path: Path):
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    found = {}
    for line in ast.parse(tagged[0].source).body:
        assert isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name), ast.unparse(line)
        found[line.target.id] = ast.literal_eval(line.value)
        assert ast.unparse(line.annotation) == type(found[line.target.id]).__name__
    assert {name: type(value) for name, value in found.items()} == PARAMETERS
    for line in tagged[0].source.splitlines():
        assert line.count("=") <= 1, f"papermill skips a line with two '=' signs: {line}"


@pytest.mark.parametrize("path", notebooks, ids=lambda path: path.stem)
def test_a_notebook_is_valid_stripped_and_its_cells_are_named(path: Path):
    book = read(path)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    assert "papermill" not in book.metadata and "widgets" not in book.metadata
    names = [cell.id for cell in book.cells]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", name) and not re.fullmatch(r"[0-9a-f]{8}", name), name
    for cell in book.cells:
        assert not {"papermill", "execution"} & set(cell.metadata), cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id


@pytest.mark.parametrize("path", notebooks, ids=lambda path: path.stem)
def test_a_notebook_has_short_cells_and_nothing_bound_to_one_machine(path: Path):
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    for cell in code:
        lines = cell.source.splitlines()
        assert 1 <= len(lines) <= 25, f"cell {cell.id} has {len(lines)} lines"
        for what, pattern in FORBIDDEN.items():
            assert not pattern.search(cell.source), f"cell {cell.id} holds {what}"
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    assert any(name.endswith("open_run") for name in calls)
    assert any(name.endswith("finish_stage") for name in calls)
    assert "finish_stage" in code[-1].source, "the last code cell hands over"

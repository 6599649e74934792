"""The shape of the repository: the core's import order and size, and what a committed notebook may hold."""

import ast
import functools
import graphlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest

from pgolf_core import ROOMS
from pgolf_core.lab import ROOMS as LAB_ROOMS
from pgolf_core.lab.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
CORE_MAY_IMPORT = {"torch", "numpy", "sentencepiece", "zstandard", "safetensors", "constriction", "brotli"}
CORE_MAY_TRY = {"flash_attn", "flash_attn_interface"}
MAX_FILES, MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 9, 420, 60, 8
RUN_FILE = re.compile(r"[a-z-]+\.(?:json|jsonl|log|npz|safetensors|pgolf)|train_gpt\.py")
STAGES = ("01_data_and_metric", "02_architecture", "03_train", "04_average_and_qat", "05_quantize", "06_sliding_eval",
          "07_report")  # fmt: skip
PARAMETERS = {"recipe": str, "overrides": list, "seed": int, "seeds": list, "data": str, "runs_dir": str, "name": str,
              "cache_dir": str}  # fmt: skip
FORBIDDEN = {
    "a shell or line magic": re.compile(r"^\s*[!%]", re.MULTILINE),
    "an absolute path": re.compile(r"""["'](?:/(?:home|root|tmp|work|mnt|usr|opt|var|data|Users)\b|~/|[A-Za-z]:\\)"""),
    "a sys.path edit": re.compile(r"\bsys\.path\b"),
    "a change of folder": re.compile(r"\bos\.chdir\b"),
    "a warning filter": re.compile(r"\b(?:filterwarnings|simplefilter)\b"),
    "an early end": re.compile(r"\b(?:sys\.exit|os\._exit|quit\(|exit\()"),
}

FOLDERS = ("pgolf_core", "tests", "papers", "notebooks", "findings", ".ci", ".github")

core_files = {room: ROOT / "pgolf_core" / f"{room.replace('.', '/')}.py" for room in ROOMS}
package_files = sorted((ROOT / "pgolf_core").rglob("*.py"))
readable_files = sorted(
    path for place in ("*.*", "Makefile", "runs/README.md", *(f"{folder}/**/*" for folder in FOLDERS))
    for path in ROOT.glob(place)
    if path.suffix in ("", ".py", ".md", ".toml", ".ipynb", ".j2", ".sh", ".txt", ".yml", ".yaml")
    and path.is_file() and path.name != ".git" and path != Path(__file__)
)  # fmt: skip
notebooks = [ROOT / "notebooks" / f"{stage}.ipynb" for stage in STAGES]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> list[str]:
    """Full names of everything a file imports, inside functions too; `from a import b` gives a.b."""
    names = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import in line {node.lineno}"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names += [node.args[0].value] if node.args and isinstance(node.args[0], ast.Constant) else []
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_core_imports_names_of_rooms_above_it_and_few_libraries_and_nothing_of_the_lab(room: str):
    """Only as `from pgolf_core.x.y import name`, on top: then joining the files is exporting them."""
    tree = tree_of(core_files[room])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("pgolf_core")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pgolf_core"):
            assert node in tree.body and node.module.removeprefix("pgolf_core.") in ROOMS[: ROOMS.index(room)]
            assert not [alias.name for alias in node.names if alias.asname], "a script has one name for one thing"
    roots = (
        {name.split(".")[0] for name in imports_of(core_files[room])} - set(sys.stdlib_module_names) - {"pgolf_core"}
    )
    assert roots <= CORE_MAY_IMPORT | (CORE_MAY_TRY if room == "network.attention" else set())


def test_no_two_top_level_names_of_the_core_are_alike():
    found: dict[str, set[str]] = {}
    for room, path in core_files.items():
        for node in tree_of(path).body:
            targets = getattr(node, "targets", [node.target] if isinstance(node, ast.AnnAssign) else [])
            parts = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            for name in [part.id for part in parts] or [getattr(node, "name", "")]:
                found.setdefault(name, set()).add(room)
    assert {name: rooms for name, rooms in found.items() if name and len(rooms) > 1} == {}


def test_every_library_that_is_imported_is_declared_and_pinned():
    """In pyproject.toml; what `make setup` installs also in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names_in(lines: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}

    pinned = names_in((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    installed = names_in([*project["dependencies"], *extras["lab"], *extras["dev"]])
    assert installed <= pinned
    used = {name.split(".")[0] for path in package_files for name in imports_of(path)} - {"pgolf_core"} - CORE_MAY_TRY
    found = importlib.metadata.packages_distributions()
    libraries = names_in([found.get(name, [name])[0] for name in used - set(sys.stdlib_module_names)])
    assert libraries <= installed | names_in([*extras["parquet"], *extras["brotli"]])


def test_a_built_package_holds_every_file_of_the_code_and_building_it_warns_of_nothing(tmp_path: Path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "pgolf_core", source / "pgolf_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    packed = {name for name in zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist() if ".dist-info/" not in name}
    files = {path.relative_to(source).as_posix() for path in source.glob("pgolf_core/**/*") if path.is_file()}
    assert packed == files
    assert "Warning" not in done.stdout + done.stderr


@pytest.mark.parametrize("path", [path for path in package_files if "lab" in path.parts], ids=str)
def test_a_room_of_the_lab_imports_only_rooms_above_it(path: Path):
    room = path.relative_to(ROOT / "pgolf_core" / "lab").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    names = [name.split(".") for name in imports_of(path) if name.startswith("pgolf_core.lab.")]
    assert {parts[2] for parts in names} <= {*LAB_ROOMS[: LAB_ROOMS.index(room)], room}


def test_no_files_import_each_other_in_a_circle():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in package_files}
    graph = {}
    for name, path in modules.items():
        found = {part for full in imports_of(path) for part in (full, full.rpartition(".")[0]) if part in modules}
        graph[name] = found - {name}
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError names the files


@pytest.mark.parametrize("path", package_files, ids=name_of)
def test_a_file_of_the_package_is_short_enough_to_read(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= MAX_FUNCTION_LINES, f"{node.name} is too long"
            given = [*node.args.posonlyargs, *node.args.args]  # what is given by its name cannot be mixed up
            own = [argument for argument in given if argument.arg not in ("self", "cls")]
            assert len(own) <= MAX_PARAMETERS, f"{node.name} takes {len(own)} parameters"


def test_a_folder_of_the_package_holds_few_files_and_each_has_its_test_at_the_mirrored_place():
    for folder in {path.parent for path in package_files}:
        files = [path for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"]
        assert len(files) <= MAX_FILES, folder
    places = [path.relative_to(ROOT / "pgolf_core") for path in package_files if path.name != "__init__.py"]
    tests = [ROOT / "tests" / place.with_name(f"test_{place.name}") for place in places]
    assert [name_of(path) for path in tests if not path.is_file()] == []


def test_the_name_of_a_file_in_a_run_is_written_in_one_place():
    """Names with a suffix of data, as whole literals; a docstring or a sentence may mention them."""
    found: dict[str, set[str]] = {}
    for path in package_files:
        nodes = list(ast.walk(tree_of(path)))
        documented = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            said = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
            if said and RUN_FILE.fullmatch(node.value):
                found.setdefault(node.value, set()).add(name_of(path))
    assert {name: sorted(files) for name, files in found.items() if len(files) > 1} == {}


@pytest.mark.parametrize("path", readable_files, ids=name_of)
def test_nothing_speaks_of_documents_that_the_repository_lacks(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:SEEDS|DESIGN|STYLE|HOUSE)(?:\.md)?\b(?! ?=)|\bissue #?\d+", text)


def test_the_lists_of_rooms_and_the_readmes_map_name_every_file_of_the_core_room_of_the_lab_and_notebook():
    found = {path for path in package_files if "lab" not in path.parts and path.name != "__init__.py"}
    assert found == set(core_files.values()) and sorted((ROOT / "notebooks").glob("*.ipynb")) == notebooks
    for name in ("LICENSE", "runs/README.md", ".ci/run", ".github/workflows/ci.yml", ".pre-commit-config.yaml"):
        assert (ROOT / name).exists(), name
    block = re.search(r"^## Map$.*?^```\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    shown: dict[str, list[str]] = {}
    for indent, name in re.findall(r"^( *)(\S+)", block[1], re.M):
        if not indent:
            shown[name] = []
        else:
            shown[list(shown)[-1]].append(name)
        assert (ROOT / (list(shown)[-1] + name if indent else name)).exists(), name
    rooms = dict.fromkeys(f"{room.split('.')[0]}/" if "." in room else f"{room}.py" for room in ROOMS)
    lab = ROOT / "pgolf_core" / "lab"
    assert shown["pgolf_core/"] == list(rooms)
    assert shown["pgolf_core/lab/"] == [f"{room}/" if (lab / room).is_dir() else f"{room}.py" for room in LAB_ROOMS]
    for name in COMMANDS:
        assert (lab / name / "command.py").is_file() or (lab / f"{name}.py").is_file(), name


@pytest.mark.parametrize("path", notebooks, ids=name_of)
def test_a_notebook_has_one_parameters_cell_of_plain_literals_with_the_full_set(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    (tagged,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    found = {}
    for line in ast.parse(tagged.source).body:
        assert isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name), ast.unparse(line)
        found[line.target.id] = ast.literal_eval(line.value)
        assert ast.unparse(line.annotation) == type(found[line.target.id]).__name__
    assert {name: type(value) for name, value in found.items()} == PARAMETERS
    for line in tagged.source.splitlines():
        assert line.count("=") <= 1, f"papermill skips a line with two '=' signs: {line}"


@pytest.mark.parametrize("path", notebooks, ids=name_of)
def test_a_notebook_is_valid_stripped_and_its_cells_are_named_and_short_and_bound_to_no_machine(path: Path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3" and not {"papermill", "widgets"} & set(book.metadata)
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    for cell in book.cells:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", cell.id) and not re.fullmatch(r"[0-9a-f]{8}", cell.id), cell.id
        assert not {"papermill", "execution"} & set(cell.metadata), cell.id
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in code:
        assert cell.outputs == [] and cell.execution_count is None, cell.id
        assert 1 <= len(cell.source.splitlines()) <= 25, f"cell {cell.id} is too long"
        for what, pattern in FORBIDDEN.items():
            assert not pattern.search(cell.source), f"cell {cell.id} holds {what}"
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    assert any(name.endswith("open_run") for name in calls)
    assert any(name.endswith("finish_stage") for name in calls)
    assert "finish_stage" in code[-1].source, "the last code cell hands over"

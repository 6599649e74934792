"""One small file on grids, one on steps, one by brotli, one with what a record adds: for all tests of packing."""

import dataclasses
from pathlib import Path

import pytest
import tiny_steps
from tiny_artifact import AS_RECORD, CAP, MODEL, ON_GRIDS, tiny_state

from pgolf_core.packing.pack import pack


@pytest.fixture(scope="session")
def on_grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grids") / "model.pgolf"
    pack(tiny_state(), MODEL, ON_GRIDS, path, **CAP)
    return path


@pytest.fixture(scope="session")
def on_brotli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as `on_grids` by the other compressor."""
    pytest.importorskip("brotli", reason="brotli is not installed (extra `brotli`)")
    path = tmp_path_factory.mktemp("brotli") / "model.pgolf"
    pack(tiny_state(), MODEL, dataclasses.replace(ON_GRIDS, compressor="brotli"), path, **CAP)
    return path


@pytest.fixture(scope="session")
def on_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "model.pgolf"
    pack(tiny_state(), MODEL, AS_RECORD, path, **CAP)
    return path


@pytest.fixture(scope="session")
def on_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("steps") / "model.pgolf"
    pack(tiny_state(), MODEL, tiny_steps.QUANT, path, sensitivity=tiny_steps.tiny_groups(), **tiny_steps.CAP)
    return path

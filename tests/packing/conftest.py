"""One small file on grids, one on steps, one by brotli, one with what a record adds: for all tests of packing."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tiny_artifact import AS_RECORD, CAP, MODEL, ON_GRIDS, tiny_state
from tiny_steps import CAP as STEPS_CAP
from tiny_steps import QUANT, tiny_groups

from pgolf_core.packing.pack import pack
from pgolf_core.recipes.recipe import Quant


def file_of(quant: Quant, **options: Any):
    """A fixture: the path of `tiny_state` packed so."""

    @pytest.fixture(scope="session")
    def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
        if quant.compressor == "brotli":
            pytest.importorskip("brotli", reason="brotli is not installed (extra `brotli`)")
        path = tmp_path_factory.mktemp("packed") / "model.pgolf"
        pack(tiny_state(), MODEL, quant, path, **{**CAP, **options})
        return path

    return packed


on_grids = file_of(ON_GRIDS)
on_brotli = file_of(dataclasses.replace(ON_GRIDS, compressor="brotli"))
on_record = file_of(AS_RECORD)
on_steps = file_of(QUANT, sensitivity=tiny_groups(), **STEPS_CAP)

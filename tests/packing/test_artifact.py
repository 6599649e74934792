"""The packed file: its bytes, its ledger, its way back, and everything it must refuse.

    pytest tests/packing/test_artifact.py

Hostile files are made by editing a good one's header or streams and signing it anew, so that the checksum is no help.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_artifact import MODEL, contents, signed, tiny_state, write

from pgolf_core.base.files import UserError, canonical_json
from pgolf_core.network.grid import GRIDS, dequantise, grid_names_for, quantise_tensor
from pgolf_core.network.model import parameter_shapes
from pgolf_core.packing.format import MAGIC, PREAMBLE, STREAMS, VERSION, checksum
from pgolf_core.packing.ledger import CapExceeded
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import read_header, unpack
from pgolf_core.recipes import recipe
from pgolf_core.recipes import rules as recipe_rules

QUANT = recipe.Quant(small_tensor_elements=100, mlp="int5_row_nofloor", attention="int6_clip_search")
PINNED_ZSTD = (1, 5, 7)
CAP = {"code_bytes": 1000, "cap_bytes": 1_000_000}
GOLDEN: dict[str, Any] = {
    "raw_lengths": [3712, 474, 448],
    "contents": "9c9bda61b51accb1c22a68dbe99553e37839ee6000f4617b563136cbfd0985aa",
    "begins": "8950474f4c460d0a01004502000028b52ffd609705c41100c69d561e508b1ed8",
    "file": (2037, "8d4ea353b7b159e4c309d829fdf0b38dc55a9dcdc4ac0db513bb8e796866e0fd"),
}
"""Of `tiny_state` packed with QUANT. Changing any of it is a new format version."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "model.pgolf"
    pack(tiny_state(), MODEL, QUANT, path, **CAP)
    return path


def refused(path: Path, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        unpack(path)
    message = str(caught.value)
    assert str(path) in message and message.count("\n") <= 1 and len(message) < 600 + len(str(path))


# ---------------------------------------------------------------------- there and back


def test_what_is_read_back_is_exactly_the_quantised_weights(good: Path):
    model, state = unpack(good)
    grids = grid_names_for(parameter_shapes(MODEL), QUANT)
    assert model == MODEL and set(state) == set(grids)
    assert {"fp16", "int5_row_nofloor", "int6_clip_search", "int8_row_clip"} == set(grids.values())
    for name, w in tiny_state().items():
        kept = w.half().float() if grids[name] == "fp16" else dequantise(*quantise_tensor(w, GRIDS[grids[name]]))
        assert state[name].dtype == torch.float32
        torch.testing.assert_close(state[name], kept, atol=0, rtol=0)


@pytest.mark.parametrize("grid", recipe_rules.GRID_NAMES)
def test_every_grid_a_recipe_may_name_survives_the_file(grid: str, tmp_path: Path):
    quant = recipe.Quant(attention=grid, mlp=grid, tok_emb=grid, other=grid, small_tensor_elements=0)
    pack(tiny_state(), MODEL, quant, tmp_path / "m", **CAP)
    for name, w in tiny_state().items():
        is_half = grid == "fp16" or w.ndim != 2
        kept = w.half().float() if is_half else dequantise(*quantise_tensor(w, GRIDS[grid]))
        torch.testing.assert_close(unpack(tmp_path / "m")[1][name], kept, atol=0, rtol=0)


def test_the_bytes_depend_on_the_weights_alone(good: Path, tmp_path: Path):
    shuffled = dict(reversed([(name, w.double().requires_grad_()) for name, w in tiny_state().items()]))
    pack(shuffled, MODEL, QUANT, tmp_path / "again", code_bytes=7, cap_bytes=10**9)
    assert (tmp_path / "again").read_bytes() == good.read_bytes()


def test_the_format_is_pinned_by_golden_bytes(good: Path):
    payload = good.read_bytes()
    assert payload[:10].hex() == "8950474f4c460d0a0100"
    header, streams = contents(good)
    raw = [zstandard.ZstdDecompressor().decompress(stream) for stream in streams]
    inside = {key: value for key, value in header.items() if key not in ("sha256", "streams")}
    assert [len(part) for part in raw] == GOLDEN["raw_lengths"]
    assert hashlib.sha256(canonical_json(inside).encode() + b"".join(raw)).hexdigest() == GOLDEN["contents"]
    if zstandard.ZSTD_VERSION == PINNED_ZSTD:  # another zstd may find other, equally valid compressed bytes
        assert payload[:32].hex() == GOLDEN["begins"]
        assert (len(payload), hashlib.sha256(payload).hexdigest()) == GOLDEN["file"]


def test_the_file_holds_no_time_and_no_path(tmp_path: Path):
    first, second = tmp_path / "first.pgolf", tmp_path / "other" / "second.pgolf"
    for path, stamp in ((first, 0), (second, 10**9)):
        pack(tiny_state(), MODEL, QUANT, path, **CAP)
        os.utime(path, (stamp, stamp))
    assert first.read_bytes() == second.read_bytes()
    assert set(read_header(first)) == {"model", "sha256", "streams", "tensors"}


def test_reading_the_header_gives_configuration_and_grids(good: Path):
    header = read_header(good)
    assert header["model"]["model_dim"] == 16
    assert ["tok_emb.weight", "int8_row_clip", [32, 16]] in header["tensors"]


@pytest.mark.parametrize("level", [1, 3, 19])
def test_other_zstd_levels_give_the_same_weights(level: int, good: Path, tmp_path: Path):
    quant = recipe.Quant(**{**vars(QUANT), "zstd_level": level})
    pack(tiny_state(), MODEL, quant, tmp_path / "m", **CAP)
    for name, w in unpack(tmp_path / "m")[1].items():
        assert torch.equal(w, unpack(good)[1][name])


# ---------------------------------------------------------------------- the ledger and the cap


def test_the_ledger_adds_up_to_the_file_and_to_every_tensor(tmp_path: Path):
    path = tmp_path / "m.pgolf"
    ledger = pack(tiny_state(), MODEL, QUANT, path, **CAP)
    header, streams = contents(path)
    assert ledger.weights_bytes + ledger.scales_bytes + ledger.header_bytes == ledger.file_bytes == path.stat().st_size
    assert ledger.total_bytes == ledger.file_bytes + 1000 and ledger.cap_bytes == 1_000_000
    assert (ledger.weights_bytes, ledger.fp16_bytes) == (len(streams[0]) + len(streams[1]), len(streams[1]))
    gridded = [row for row in ledger.tensors if row["grid"] != "fp16"]
    assert sum(row["compressed_bytes"] for row in gridded) == len(streams[0])
    assert all(row["compressed_bytes"] is None for row in ledger.tensors if row["grid"] == "fp16")
    assert [[row["name"], row["grid"], row["shape"]] for row in ledger.tensors] == header["tensors"]
    for row in ledger.tensors:
        assert row["elements"] == math.prod(row["shape"])
        assert row["raw_bytes"] == row["elements"] * (2 if row["grid"] == "fp16" else 1)
        assert row["scales_raw_bytes"] == (0 if row["grid"] == "fp16" else 2 * row["shape"][0])
        assert 0 <= row["entropy_bytes"] <= row["raw_bytes"]


def test_entropy_is_that_of_the_codes_and_the_coder_comes_close_to_it(tmp_path: Path):
    """A matrix of four equally frequent codes holds two bits a weight, whatever their order."""
    wide = recipe.Model(**{**vars(MODEL), "mlp_hidden": 4096})
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(wide).items()}
    codes = torch.randint(0, 4, (4096, 16), generator=torch.Generator().manual_seed(0))
    state["blocks.0.mlp.fc.weight"] = codes.float() / 31
    ledger = pack(state, wide, recipe.Quant(small_tensor_elements=100), tmp_path / "m", **CAP)
    row = next(row for row in ledger.tensors if row["name"] == "blocks.0.mlp.fc.weight")
    assert row["entropy_bytes"] == pytest.approx(4096 * 16 * 2 / 8, rel=1e-3)
    assert row["entropy_bytes"] <= row["compressed_bytes"] <= row["entropy_bytes"] * 1.02
    zero = next(row for row in ledger.tensors if row["name"] == "blocks.1.mlp.fc.weight")
    assert zero["entropy_bytes"] == 0 and zero["compressed_bytes"] < 50


def test_a_file_exactly_at_the_cap_passes_and_one_byte_less_fails_with_the_numbers(good: Path, tmp_path: Path):
    path, size = tmp_path / "m.pgolf", good.stat().st_size
    pack(tiny_state(), MODEL, QUANT, path, code_bytes=500, cap_bytes=size + 500)
    assert path.exists()
    with pytest.raises(CapExceeded) as caught:
        pack(tiny_state(), MODEL, QUANT, path, code_bytes=500, cap_bytes=size + 499)
    assert list(tmp_path.iterdir()) == [], "neither a file nor the outdated one is left to be mistaken for a result"
    ledger, message = caught.value.ledger, str(caught.value)
    assert isinstance(caught.value, UserError) and "1 over the cap" in message
    for number in (ledger.file_bytes, ledger.weights_bytes, ledger.scales_bytes, ledger.header_bytes, 500, size + 499):
        assert f"{number:,}" in message


# ---------------------------------------------------------------------- which grid


def test_grids_follow_size_first_then_the_part_of_the_network():
    quant = recipe.Quant(attention="int6_row", mlp="int5_row_clip", tok_emb="fp16", other="int8_row_clip",
                         small_tensor_elements=64)  # fmt: skip
    shapes = {
        "tok_emb.weight": (32, 16), "bigram.embed.weight": (65, 1), "bigram.proj.weight": (8, 8), "ve_scales": (900,),
        "blocks.0.attn.c_q.weight": (16, 16), "blocks.0.mlp.fc.weight": (24, 16), "blocks.0.mlp.proj.weight": (2, 32),
    }  # fmt: skip
    assert list(grid_names_for(shapes, quant).values()) == [
        "fp16", "int8_row_clip", "fp16", "fp16", "int6_row", "int5_row_clip", "fp16",
    ]  # fmt: skip


def test_gradient_allocation_rules_attention_mlp_and_bigram_and_nothing_else(tmp_path: Path):
    quant = recipe.Quant(allocation="gradient", small_tensor_elements=64)
    shapes = {
        "tok_emb.weight": (32, 16), "bigram.embed.weight": (65, 1), "ve.embed.weight": (32, 8), "skip_weights": (9, 16),
        "blocks.0.attn.c_q.weight": (16, 16), "blocks.0.mlp.fc.weight": (24, 16),
    }  # fmt: skip
    bits = {"tok_emb.weight": 7, "bigram.embed.weight": 5, "blocks.0.attn.c_q.weight": 7}
    expected = ["int8_row_clip", "int5_row_clip", "int8_row_clip", "int8_row_clip", "int7_row_clip", "int6_row_clip"]
    assert list(grid_names_for(shapes, quant, bits).values()) == expected
    with pytest.raises(UserError, match="sensitivities"):
        pack(tiny_state(), MODEL, quant, tmp_path / "m", **CAP)
    with pytest.raises(UserError, match=r"c_q\.weight cannot be packed on grid int9_row_clip"):
        grid_names_for(shapes, quant, {"blocks.0.attn.c_q.weight": 9})


def test_an_exception_by_name_comes_before_size_part_and_gradient():
    shapes = {"tok_emb.weight": (32, 16), "blocks.0.attn.c_k.weight": (8, 16), "blocks.1.attn.c_k.weight": (8, 16)}
    exceptions = ("blocks.1.*=int8_row_clip", "blocks.*.c_k.weight=fp16", "tok_emb.weight=int6_row")
    for allocation in ("fixed", "gradient"):
        quant = recipe.Quant(exceptions=exceptions, small_tensor_elements=64, allocation=allocation)
        assert list(grid_names_for(shapes, quant).values()) == ["int6_row", "fp16", "int8_row_clip"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("blocks.7.*=fp16", "no tensor is called 'blocks.7"),
        ("blocks.0.attn_scale=int6_row", "is no matrix and has no grid; use fp16"),
    ],
)
def test_an_exception_that_fits_nothing_is_refused_by_name(entry: str, words: str):
    with pytest.raises(UserError, match=re.escape(words)):
        grid_names_for(parameter_shapes(MODEL), recipe.Quant(exceptions=(entry,)))


# ---------------------------------------------------------------------- what packing refuses


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("name", ["blocks.1.mlp.fc.weight", "blocks.0.attn_scale"])
def test_weights_that_no_file_can_hold_are_refused_by_name(name: str, value: float, tmp_path: Path):
    state = tiny_state()
    state[name].view(-1)[3] = value
    with pytest.raises(UserError, match=name):
        pack(state, MODEL, QUANT, tmp_path / "m", **CAP)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model_and_training_grids_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="3 layers"):
        pack(tiny_state(), recipe.Model(**{**vars(MODEL), "num_layers": 3}), QUANT, tmp_path / "m", **CAP)
    with pytest.raises(UserError, match="int6_fake_pr194"):
        pack(tiny_state(), MODEL, recipe.Quant(attention="int6_fake_pr194", small_tensor_elements=9),
             tmp_path / "m", **CAP)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- what reading refuses


def test_missing_foreign_and_truncated_files_are_refused(good: Path, tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        unpack(tmp_path / "none.pgolf")
    with pytest.raises(UserError, match="not a file"):
        unpack(tmp_path)
    payload = good.read_bytes()
    for foreign in (b"", b"PK\x03\x04" + bytes(50), payload[1:], b"\x80\x05cos\nsystem\n"):
        refused(write(tmp_path / "f", foreign), "signature")
    for length in [*range(14, len(payload), 13), len(payload) - 1]:
        with pytest.raises(UserError, match="not a usable artifact"):
            unpack(write(tmp_path / "f", payload[:length]))
    refused(write(tmp_path / "f", payload + b"\0"), "promises")
    refused(write(tmp_path / "f", payload[:8] + b"\x02" + payload[9:]), "format version 2")
    refused(write(tmp_path / "f", payload[:10] + b"\xff\xff\xff\xff" + payload[14:]), "ends inside its header")


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path, good: Path):
    path = write(tmp_path / "huge", good.read_bytes())
    os.truncate(path, 2**40)  # sparse: takes no disk
    refused(path, "larger than")


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_anywhere_changes_a_weight_silently(good: Path, tmp_path: Path, data: st.DataObject):
    payload = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        end = data.draw(st.integers(at + 1, min(len(payload), at + 40)))
        payload[at:end] = data.draw(
            st.one_of(
                st.binary(min_size=end - at, max_size=end - at),
                st.binary(max_size=8),
                st.just(bytes([payload[at] ^ (1 << data.draw(st.integers(0, 7)))]) + payload[at + 1 : end]),
            )
        )
    try:
        model, state = unpack(write(tmp_path / "damaged", bytes(payload)))
    except UserError:
        return
    expected = unpack(good)[1]
    assert model == MODEL and list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


Edit = Callable[[dict[str, Any], list[bytes]], None]


def bomb(mebibytes: int) -> bytes:
    """A small frame that truly unpacks to so many zero bytes, and says so."""
    frame = zstandard.ZstdCompressor().compressobj(size=mebibytes * 2**20)
    return b"".join(frame.compress(bytes(2**20)) for _ in range(mebibytes)) + frame.flush()


def set_tensor(index: int, position: int, value: Any) -> Edit:
    return lambda header, streams: header["tensors"][index].__setitem__(position, value)


def set_model(**values: Any) -> Edit:
    return lambda header, streams: header["model"].update(values)


def set_stream(index: int, payload: bytes) -> Edit:
    def edit(header: dict[str, Any], streams: list[bytes]) -> None:
        streams[index] = payload
        header["streams"][STREAMS[index]] = len(payload)

    return edit


def edit_raw(index: int, change: Callable[[bytearray], None]) -> Edit:
    def edit(header: dict[str, Any], streams: list[bytes]) -> None:
        raw = bytearray(zstandard.ZstdDecompressor().decompress(streams[index]))
        change(raw)
        set_stream(index, zstandard.compress(bytes(raw)))(header, streams)

    return edit


def high_byte(value: int) -> Callable[[bytearray], None]:
    """Set the high byte of the first float16 of a stream in byte planes."""
    return lambda raw: raw.__setitem__(len(raw) // 2, value)


HOSTILE: dict[str, tuple[Edit, str]] = {
    "a huge dimension": (set_tensor(0, 2, [2**60, 2**60]), "impossible shape"),
    "many weights": (set_tensor(0, 2, [2**20, 2**20]), "more than"),
    "a negative dimension": (set_tensor(0, 2, [-9, -8]), "impossible shape"),
    "a true as dimension": (set_tensor(0, 2, [True, 72]), "impossible shape"),
    "a float as dimension": (set_tensor(0, 2, [9.0, 8]), "impossible shape"),
    "a shape that is no list": (set_tensor(0, 2, 72), "impossible shape"),
    "five dimensions": (set_tensor(0, 2, [1, 1, 1, 9, 8]), "impossible shape"),
    "another shape of the same size": (set_tensor(-1, 2, [512]), "cannot hold"),
    "more rows of the same size": (set_tensor(-1, 2, [64, 8]), "scales would unpack"),
    "an unknown grid": (set_tensor(-1, 1, "int3_row"), "unknown grid"),
    "a training grid": (set_tensor(-1, 1, "int6_fake_pr534"), "unknown grid"),
    "a grid that is a list": (set_tensor(-1, 1, ["fp16"]), "unknown grid"),
    "another grid with fewer codes": (set_tensor(-1, 1, "int5_row_clip"), "codes outside grid"),
    "a repeated name": (lambda h, s: h["tensors"].append(h["tensors"][-1]), "repeated"),
    "names out of order": (lambda h, s: h["tensors"].reverse(), "out of order"),
    "an empty name": (set_tensor(0, 0, ""), "name"),
    "a path as name": (set_tensor(0, 0, "../../etc/passwd"), "name"),
    "a name that is no text": (set_tensor(0, 0, {"a": 1}), "name"),
    "a missing tensor": (lambda h, s: h["tensors"].pop(), "does not come out of"),
    "no tensors": (lambda h, s: h.update(tensors=[]), "does not come out of"),
    "tensors that are no list": (lambda h, s: h.update(tensors={"a": 1}), "malformed"),
    "a tensor of two parts": (lambda h, s: h["tensors"][0].pop(), "malformed"),
    "a million layers": (set_model(num_layers=10**6), "does not come out of"),
    "an endless vocabulary": (set_model(vocab_size=2**50), "does not come out of"),
    "a wide model": (set_model(model_dim=2**40), "does not come out of"),
    "a huge bigram table": (set_model(bigram_rows=2**40), "does not come out of"),
    "a huge value embedding": (set_model(ve_dim=2**40, ve_layers=[0]), "does not come out of"),
    "an impossible model": (set_model(num_heads=3), "num_heads"),
    "no heads": (set_model(num_heads=0), "num_heads"),
    "a true as layer count": (set_model(num_layers=True), "num_layers"),
    "a text as width": (set_model(model_dim="16"), "model_dim"),
    "a very long wrong value": (set_model(smear="x" * 500_000), "smear"),
    "an unknown key in the model": (set_model(backdoor=1), "other keys"),
    "a missing key in the model": (lambda h, s: h["model"].pop("rope_base"), "other keys"),
    "a model that is no table": (lambda h, s: h.update(model=[1]), "other keys"),
    "an unknown key": (lambda h, s: h.update(note="hello"), "not one that pgolf writes"),
    "a missing key": (lambda h, s: h.pop("tensors"), "not one that pgolf writes"),
    "stream lengths as a list": (lambda h, s: h.update(streams=[1, 2, 3]), "stream lengths"),
    "a stream length that is true": (lambda h, s: h["streams"].update(scales=True), "stream lengths"),
    "negative stream lengths": (lambda h, s: h["streams"].update(scales=-1, codes=10**4), "stream lengths"),
    "longer streams than the file": (lambda h, s: h["streams"].update(codes=2**20), "promises"),
    "a stream borrowed from the next": (
        lambda h, s: h["streams"].update(codes=len(s[0]) + 1, fp16=len(s[1]) - 1), "cannot be decompressed",
    ),
    "codes that unpack to half a gigabyte": (set_stream(0, bomb(512)), "codes would unpack to 536870912 bytes"),
    "codes one too many": (edit_raw(0, lambda raw: raw.append(0)), "codes would unpack"),
    "halves one too few": (edit_raw(1, lambda raw: raw.pop()), "fp16 values would unpack"),
    "scales of no size": (set_stream(2, b""), "scales"),
    "a stream that is no frame": (set_stream(2, b"not a frame"), "scales cannot be decompressed"),
    "a frame of unknown size": (
        set_stream(0, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(9))), "codes would unpack",
    ),
    "a second frame": (lambda h, s: set_stream(0, s[0] + bomb(16))(h, s), "codes cannot be decompressed"),
    "an infinite scale": (edit_raw(2, high_byte(0x7C)), "not finite"),
    "a NaN scale": (edit_raw(2, high_byte(0x7E)), "not finite"),
    "a negative scale": (edit_raw(2, high_byte(0xAC)), "negative scales"),
    "an infinite half": (edit_raw(1, high_byte(0xFC)), "not finite"),
    "a code beyond the grid": (edit_raw(0, lambda raw: raw.__setitem__(0, 0x80)), "codes outside grid"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_file_with_a_valid_checksum_is_refused(attack: str, good: Path, tmp_path: Path):
    edit, why = HOSTILE[attack]
    header, streams = copy.deepcopy(contents(good))
    edit(header, streams)
    refused(write(tmp_path / "hostile", signed(header, streams)), why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 200_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"model":NaN}', "not JSON"),
        ('{"model":1e999}', "not JSON"),
        ('{"model":' + "9" * 5000 + "}", "not JSON"),
        ("[1,2]", "not one that pgolf writes"),
        ("null", "not one that pgolf writes"),
        ('{"model":1,"model":2}', "not one that pgolf writes"),
        ("", "not JSON"),
        ("\u00e9", "not JSON"),
        ("x" * (2**20 + 1), "header would unpack to 1048577 bytes"),
    ],
    ids=lambda text: text[:12],
)
def test_a_header_that_is_not_ours_is_refused(text: str, why: str, good: Path, tmp_path: Path):
    packed = zstandard.compress(text.encode())
    preamble = PREAMBLE.pack(MAGIC, VERSION, len(packed))
    refused(write(tmp_path / "f", preamble + packed), why)


def test_a_header_with_spaces_or_repeated_keys_is_refused_though_it_means_the_same(good: Path, tmp_path: Path):
    header, streams = contents(good)
    for text in (json.dumps(header), canonical_json(header)[:-1] + ',"sha256":' + json.dumps(header["sha256"]) + "}"):
        refused(write(tmp_path / "f", signed(header, streams, text)), "not one that pgolf writes")


def test_a_header_bomb_that_hides_its_size_is_refused(tmp_path: Path):
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(b"[" * 10**8)
    preamble = PREAMBLE.pack(MAGIC, VERSION, len(packed))
    refused(write(tmp_path / "f", preamble + packed), "header would unpack")


WEIRD = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just([]), st.just({}), st.just([[1]]), st.sampled_from(list(GRIDS)),
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_the_header_may_be_nonsense(good: Path, tmp_path: Path, data: st.DataObject):
    header, streams = copy.deepcopy(contents(good))
    place: Any = header
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 9)) == 0:
            place[key] = data.draw(WEIRD)
            break
        place = place[key]
    try:
        header["sha256"] = checksum(header, b"".join(streams))
        _, state = unpack(write(tmp_path / "odd", signed(header, streams)))
    except UserError:
        return
    assert all(torch.isfinite(w).all() for w in state.values())


@pytest.mark.slow
def test_a_gigabyte_in_a_few_kilobytes_is_refused_without_taking_memory(good: Path, tmp_path: Path):
    header, streams = copy.deepcopy(contents(good))
    header["tensors"][-1][2] = [2**20, 2**6]
    set_stream(0, bomb(1024))(header, streams)
    path = write(tmp_path / "bomb", signed(header, streams))
    program = (
        "import resource, sys; from pgolf_core.packing.unpack import unpack\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: unpack(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=root, capture_output=True, text=True, check=True
    )
    name, grown_mib = done.stdout.split()
    assert name == "UserError" and int(grown_mib) < 100

"""Reading the artifact: its way back, scoring from it alone, and everything that must be refused.

Hostile files are made by editing a good one's header or streams and signing it anew, so that the checksum is no help.
"""

import dataclasses
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import flat_bytes, noisy_model, small_recipe
from tiny_artifact import CAP, MODEL, ON_GRIDS, contents, signed, tiny_state, write

from pgolf_core.base.files import UserError, canonical_json
from pgolf_core.base.squeeze import squeeze
from pgolf_core.lab.look.n06_scoring import plain_nats
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.grid import GRIDS, dequantise, grid_of, quantise_tensor
from pgolf_core.network.model import parameter_shapes
from pgolf_core.network.score import score
from pgolf_core.packing import coder, steps
from pgolf_core.packing.format import MAGIC, PREAMBLE, STREAMS_OF, VERSION, version_of
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import load_model, read_header, score_artifact, unpack
from pgolf_core.recipes.recipe import GRID_NAMES, Quant
from pgolf_core.text.tokenizer import TokenBytes


def refused(path: Path, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        unpack(path)
    message = str(caught.value)
    assert str(path) in message and message.count("\n") <= 1 and len(message) < 600 + len(str(path))


QUANTS = [ON_GRIDS, *(dataclasses.replace(ON_GRIDS, zstd_level=level) for level in (1, 3, 19))]
QUANTS += [dataclasses.replace(ON_GRIDS, grouping=grouping) for grouping in ("similarity", "similarity_all")]
QUANTS += [Quant(attention=g, mlp=g, tok_emb=g, other=g, small_tensor_elements=0) for g in GRID_NAMES]


@pytest.mark.parametrize("quant", QUANTS)
def test_what_is_read_back_is_exactly_the_quantised_weights(quant: Quant, tmp_path: Path):
    pack(tiny_state(), MODEL, quant, tmp_path / "m", **CAP)
    model, state = unpack(tmp_path / "m")
    grids = grid_names_for(parameter_shapes(MODEL), quant)
    assert model == MODEL and set(state) == set(grids)
    for name, w in tiny_state().items():
        kept = w.half().float()
        if grids[name] != "fp16":
            kept = dequantise(*quantise_tensor(w, grid_of(name, grids[name], quant)))
        assert state[name].dtype == torch.float32 and torch.equal(state[name], kept)


def test_an_artifact_is_scored_from_its_file_alone_and_for_its_own_vocabulary(tmp_path: Path):
    model, settings, path = noisy_model(), small_recipe(), tmp_path / "model.pgolf"
    tokens = np.random.default_rng(0).integers(0, 64, 203).astype(np.uint16)
    table = TokenBytes(np.arange(64, dtype=np.int16) % 5, np.arange(64) % 3 == 0, np.arange(64) % 7 == 0)
    pack(model.state_dict(), settings.model, settings.quant, path, **CAP)
    found = score_artifact(path, tokens, table, 16, 4, 8, autocast="off")
    np.testing.assert_allclose(found.per_token_nats, plain_nats(load_model(path), tokens, 16, 4), atol=2e-5)
    original = score(model, tokens, table, 16, 4, 8, autocast="off").bpb
    assert found.bpb != original and abs(found.bpb - original) < 0.2
    with pytest.raises(UserError, match=r"vocabulary of 64, .* tokenizer 65"):
        score_artifact(path, tokens, flat_bytes(65), 16, 4, 8)


def test_a_file_whose_tensors_are_not_its_models_is_not_loaded(on_grids: Path, tmp_path: Path):
    header, streams = contents(on_grids)
    header["tensors"][-1][0] = "tok_emb.weird"
    with pytest.raises(UserError, match=r"tensor 'tok_emb\.(weight|weird)' is missing, unexpected"):
        load_model(write(tmp_path / "m", signed(header, streams)))


def test_missing_foreign_and_truncated_files_are_refused(on_grids: Path, tmp_path: Path):
    for path, why in ((tmp_path / "none.pgolf", "does not exist"), (tmp_path, "not a file")):
        with pytest.raises(UserError, match=why):
            unpack(path)
    payload = on_grids.read_bytes()
    for foreign in (b"", b"PK\x03\x04" + bytes(50), payload[1:], b"\x80\x05cos\nsystem\n"):
        refused(write(tmp_path / "f", foreign), "signature")
    for edited, why in (
        (payload + b"\0", "promises"),
        (payload[:8] + b"\x02" + payload[9:], "format version 2"),
        (payload[:8] + b"\x03" + payload[9:], "not those of format version 3"),
        (payload[:10] + b"\xff\xff\xff\xff" + payload[14:], "ends inside its header"),
    ):
        refused(write(tmp_path / "f", edited), why)
    os.truncate(tmp_path / "f", 2**40)  # sparse: takes no disk, and must not be read
    refused(tmp_path / "f", "larger than")


def changes_nothing(whole: Path, damaged: Path) -> None:
    """The damaged file is refused, or gives what the whole one does: some bits of a frame of zstd mean nothing."""
    try:
        model, state = unpack(damaged)
    except UserError:
        return
    expected = unpack(whole)[1]
    assert model == MODEL and list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_no_flipped_bit_or_truncation_changes_a_weight_silently(on_grids, on_steps, on_record, tmp_path: Path):
    for whole in (on_grids, on_steps, on_record):
        payload = whole.read_bytes()
        for place in range(0, len(payload), 31):
            flipped = payload[:place] + bytes([payload[place] ^ 4]) + payload[place + 1 :]
            changes_nothing(whole, write(tmp_path / "f", flipped))
            refused(write(tmp_path / "f", payload[:place]), "not a usable artifact")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.integers(0, 2))
def test_no_damage_anywhere_changes_a_weight_silently(on_grids, on_steps, on_record, tmp_path, data, kind: int):
    whole = (on_grids, on_steps, on_record)[kind]
    payload = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        end = data.draw(st.integers(at + 1, min(len(payload), at + 40)))
        payload[at:end] = data.draw(st.binary(min_size=end - at, max_size=end - at) | st.binary(max_size=8))
    changes_nothing(whole, write(tmp_path / "damaged", bytes(payload)))


Edit = Callable[[dict[str, Any], list[bytes]], None]


def bomb(mebibytes: int) -> bytes:
    """A small frame that truly unpacks to so many zero bytes, and says so."""
    frame = zstandard.ZstdCompressor().compressobj(size=mebibytes * 2**20)
    return b"".join(frame.compress(bytes(2**20)) for _ in range(mebibytes)) + frame.flush()


def in_tensor(index: int, position: int, *values: Any) -> list[Edit]:
    return [lambda header, streams, v=v: header["tensors"][index].__setitem__(position, v) for v in values]


def in_model(**values: Any) -> list[Edit]:
    return [lambda header, streams, pair=pair: header["model"].update([pair]) for pair in values.items()]


def in_header(**values: Any) -> Edit:
    return lambda header, streams: header.update(values)


def lengths(**values: Any) -> Edit:
    return lambda header, streams: header["streams"].update(values)


def set_stream(index: int, payload: bytes) -> Edit:
    def edit(header: dict[str, Any], streams: list[bytes]) -> None:
        streams[index] = payload
        header["streams"][STREAMS_OF[version_of(header)][index]] = len(payload)

    return edit


def in_low_rank(value: Any) -> Edit:
    """Of the first corrected matrix."""
    return lambda header, streams: header["low_rank"].update([(min(header["low_rank"]), value)])


def edit_raw(index: int, change: Callable[[bytearray], None]) -> Edit:
    def edit(header: dict[str, Any], streams: list[bytes]) -> None:
        raw = bytearray(zstandard.ZstdDecompressor().decompress(streams[index]))
        change(raw)
        set_stream(index, zstandard.compress(bytes(raw)))(header, streams)

    return edit


def high_byte(value: int) -> Callable[[bytearray], None]:
    """Set the high byte of the first float16 of a stream in byte planes."""
    return lambda raw: raw.__setitem__(len(raw) // 2, value)


def words(*numbers: int, vectors: int = 48) -> bytes:
    """A stream whose first matrix tells these numbers of its first vector: class, like, factor; zeros else."""
    told = [np.array([n, *[0] * (vectors - 1)], np.int32) for n in numbers]
    bases = np.zeros(vectors // 4, np.int32)
    payload = coder.encode([*zip((bases, bases, *told), steps._NUMBERS, strict=True)])
    return b"\0\0\x80\x3f" + payload + bytes(0 if len(payload) else 4)


HOSTILE: dict[str, dict[str, list[Edit]]] = {  # kind of file: what the refusal says: edits
    "grids": {
        "impossible shape": in_tensor(0, 2, [2**60] * 2, [-9, -8], [True, 72], [9.0, 8], 72, [1, 1, 1, 9, 8]),
        "more than": in_tensor(0, 2, [2**20, 2**20]),
        "cannot hold": in_tensor(-1, 2, [512]),  # a shape of the same size
        "scales would unpack": in_tensor(-1, 2, [64, 8]),
        "unknown grid": in_tensor(-1, 1, "int3_row", "int6_fake_pr534", ["fp16"]),
        "codes outside grid": [*in_tensor(-1, 1, "int5_row_clip"), edit_raw(0, lambda raw: raw.__setitem__(0, 0x80))],
        "repeated": [lambda h, s: h["tensors"].append(h["tensors"][-1])],
        "out of order": [lambda h, s: h["tensors"].reverse()],
        "name": in_tensor(0, 0, "", "../../etc/passwd", {"a": 1}),
        "malformed": [in_header(tensors={"a": 1}), lambda h, s: h["tensors"][0].pop()],
        "does not come out of": [
            lambda h, s: h["tensors"].pop(), in_header(tensors=[]),
            lambda h, s: h["model"].update(ve_dim=2**10, ve_layers=[0]),
            *in_model(num_layers=10**3, vocab_size=2**20, model_dim=2**9, bigram_rows=2**20),
        ],
        "a file holds 134,217,728 at most": [
            lambda h, s: h["model"].update(ve_dim=2**40, ve_layers=[0]),
            *in_model(num_layers=10**6, vocab_size=2**50, model_dim=2**40, bigram_rows=2**40),
        ],
        "num_heads": [*in_model(num_heads=3), *in_model(num_heads=0)],
        "num_layers|model_dim|smear": in_model(num_layers=True, model_dim="16", smear="x" * 500_000),
        "other keys": [*in_model(backdoor=1), lambda h, s: h["model"].pop("rope_base"), in_header(model=[1])],
        "not one that pgolf writes": [in_header(note="hello"), lambda h, s: h.pop("tensors")],
        "stream lengths": [in_header(streams=[1, 2, 3]), lengths(scales=True), lengths(scales=-1, codes=10**4)],
        "promises": [lengths(codes=2**20)],
        "cannot be decompressed": [
            lambda h, s: h["streams"].update(codes=len(s[0]) + 1, fp16=len(s[1]) - 1),
            set_stream(2, b"not a frame"), lambda h, s: set_stream(0, s[0] + bomb(16))(h, s),
        ],
        "codes would unpack": [
            edit_raw(0, lambda raw: raw.append(0)),
            set_stream(0, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(9))),
        ],
        "codes would unpack to 536870912 bytes": [set_stream(0, bomb(512))],
        "fp16 values would unpack": [edit_raw(1, lambda raw: raw.pop())],
        "scales": [set_stream(2, b"")],
        "not finite": [edit_raw(2, high_byte(0x7C)), edit_raw(2, high_byte(0x7E)), edit_raw(1, high_byte(0xFC))],
        "negative scales": [edit_raw(2, high_byte(0xAC))],
    },
    "steps": {
        "a length that no coder ends with": [set_stream(3, b""), set_stream(3, bytes(7))],
        "multiplier": [set_stream(3, bytes(8)), set_stream(3, b"\0\0\xc0\x7f\1\0\0\0")],  # zero, no number
        "steps cannot be decoded": [
            set_stream(3, b"\0\0\x80\x3f" + bytes(8)), set_stream(3, b"\0\0\x80\x3f" + bytes(range(1, 201))),
            lambda h, s: set_stream(3, s[3] + b"\1\2\3\4" * 5)(h, s), lambda h, s: set_stream(3, s[3][:-40])(h, s),
        ],
        "a class that no coder has": [set_stream(3, words(k, 0, 0)) for k in (steps._WIDEST + 1, coder.FIRST - 1)],
        "like none": [set_stream(3, words(0, like, 4)) for like in (1, -1)],  # a vector yet to come, or before all
        "agree on steps|version": [
            lambda h, s: [t.__setitem__(1, "fp16") for t in h["tensors"]],
            lambda h, s: (h["streams"].pop("steps"), s.pop()),
        ],
        "cannot hold": [lambda h, s: next(t for t in h["tensors"] if len(t[2]) == 1).__setitem__(1, "steps")],
    },
    "record": {
        "grouping or corrections": [
            in_header(grouping="off"), in_header(grouping=["similarity"]), in_header(low_rank=[1]),
            in_header(compressor="zstd"),
        ],
        "low-rank correction of": [
            in_low_rank([2]), in_low_rank([0, 8]), in_low_rank([2, -8]), in_low_rank([True, 8]), in_low_rank("x"),
            lambda h, s: h["low_rank"].update(skip_weights=[2, 8]), lambda h, s: h["low_rank"].update({"": [1, 1]}),
        ],
        "does not fit the matrix": [in_low_rank([2, 7]), in_low_rank([2**40, 8])],
        "factors would unpack": [
            in_low_rank([1, 8]), edit_raw(3, lambda raw: raw.append(0)), lambda h, s: h.pop("low_rank"),
        ],
        "order would unpack": [
            in_header(grouping="similarity_all"), lambda h, s: h.pop("grouping"), edit_raw(4, lambda raw: raw.pop()),
        ],
        "names one twice, or none": [
            edit_raw(4, lambda raw: raw.__setitem__(0, raw[1])), edit_raw(4, lambda raw: raw.__setitem__(-1, 9)),
        ],
        "outside their grid": [edit_raw(3, lambda raw: raw.__setitem__(0, 2))],
        "low-rank scales": [edit_raw(3, lambda raw, v=v: raw.__setitem__(-1, v)) for v in (0x7C, 0x7E, 0xBC)],
        "version": [lambda h, s: (h.pop("grouping"), h.pop("low_rank"))],
    },
    "brotli": {
        "version": [
            in_header(compressor="zstd"), in_header(compressor=["brotli"]),
            lambda h, s: (h["streams"].update(steps=8), s.append(bytes(8))),
        ],
        "cannot be decompressed": [set_stream(0, b"\xff" * 30), lambda h, s: set_stream(1, s[1] + b"\0")(h, s),
                                   lambda h, s: h.pop("compressor")],
        "is cut off": [set_stream(2, b""), lambda h, s: set_stream(0, s[0][:-2])(h, s),
                       lambda h, s: set_stream(0, squeeze(bytes(2**26)))(h, s),
                       lambda h, s: set_stream(0, s[1])(h, s)],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "why", "edit"),
    [(kind, why, edit) for kind, faults in HOSTILE.items() for why, edits in faults.items() for edit in edits],
)
def test_a_hostile_file_with_a_valid_checksum_is_refused(kind, why, edit, request, tmp_path: Path):
    header, streams = contents(request.getfixturevalue(f"on_{kind}"))
    edit(header, streams)
    refused(write(tmp_path / "hostile", signed(header, streams)), why)


@pytest.mark.parametrize(
    ("why", "texts"),
    [
        ("not JSON", ["[" * 200_000, '{"model":NaN}', '{"model":1e999}', '{"model":' + "9" * 5000 + "}", "", "\u00e9"]),
        ("not one that pgolf writes", ["[1,2]", "null", '{"model":1,"model":2}']),
        ("header would unpack", ["x" * (2**20 + 1), "[" * 10**8]),  # a bomb that hides its size
    ],
)  # fmt: skip
def test_a_header_that_is_not_ours_is_refused(why: str, texts: list[str], tmp_path: Path):
    for text in texts:
        packed = zstandard.ZstdCompressor(write_content_size=len(text) < 10**8).compress(text.encode())
        refused(write(tmp_path / "f", PREAMBLE.pack(MAGIC, VERSION, len(packed)) + packed), why)


def test_a_header_with_spaces_or_repeated_keys_is_refused_though_it_means_the_same(on_grids: Path, tmp_path: Path):
    header, streams = contents(on_grids)
    assert read_header(on_grids) == header
    for text in (json.dumps(header), canonical_json(header)[:-1] + ',"sha256":' + json.dumps(header["sha256"]) + "}"):
        refused(write(tmp_path / "f", signed(header, streams, text)), "not one that pgolf writes")


WEIRD = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just([]), st.just({}), st.just([[1]]), st.sampled_from(list(GRIDS)),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_the_header_may_be_nonsense(on_grids: Path, tmp_path: Path, data: st.DataObject):
    header, streams = contents(on_grids)
    place, inside = header, True
    while inside:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        inside = isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 9)) > 0
        if inside:
            place = place[key]
    place[key] = data.draw(WEIRD)
    try:
        _, state = unpack(write(tmp_path / "odd", signed(header, streams)))
    except UserError:
        return
    assert all(torch.isfinite(w).all() for w in state.values())


@pytest.mark.slow  # four gigabytes have to be packed
def test_gigabytes_in_a_few_kilobytes_are_refused_without_taking_memory(on_grids: Path, tmp_path: Path):
    header, streams = contents(on_grids)
    header["tensors"][-1][2] = [2**20, 2**6]
    set_stream(0, bomb(4096))(header, streams)
    path, before = write(tmp_path / "bomb", signed(header, streams)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "codes would unpack")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # kilobytes

"""The artifact file: its layout, and what a table of tensors must be before anything is believed or written.

Layout (little-endian), format version 1, 3 where matrices are on steps (2, an older layout of them, is refused), 4, 5:
    8 bytes magic | u16 version | u32 length of the header | header | codes | fp16 | scales
    [| steps] [| factors | order]
The header is canonical JSON (sorted keys, no spaces) in one zstd frame: the model's configuration, [name, grid, shape]
of each tensor in name order, the length of each stream, and a SHA-256 over the version, the rest of the header and all
streams. Each stream is one zstd frame: `codes` int8 of every gridded tensor, each in blocks of its own; `fp16` the
tensors kept at half precision and `scales` the float16 row scales, both with all low bytes before all high bytes.
`steps` (version 3) is no frame but the entropy coder's own words: see pgolf_core/packing/steps.py.
Version 4 says "compressor": "brotli" in its header: its three streams are brotli streams, and of the codes, too, all
even-numbered bytes come before all odd ones.
Version 5 has one or both of these keys in its header, and two more streams. "low_rank" gives [rank, group] by matrix:
`factors` holds these corrections (pgolf_core/network/extras.py). "grouping" is the recipe's: the codes then come by
kind, transposed (pgolf_core/base/grouping.py), in a brotli stream without shuffling, and `order` has the uint16 orders
of sorted rows in turn, in byte planes.
No time, path or commit is inside.
"""

import hashlib
import math
import re
import struct
from typing import Any

from pgolf_core.base.files import Refused, canonical_json
from pgolf_core.network.choice import PACKABLE
from pgolf_core.recipes.recipe import MAX_ELEMENTS, Model, least_elements

MAGIC = b"\x89PGOLF\r\n"
"""Eight bytes that no text file begins with and that any newline conversion spoils, as in PNG."""
VERSION, STEPS_VERSION, BROTLI_VERSION, RECORD_VERSION = 1, 3, 4, 5
PREAMBLE = struct.Struct("<8sHI")
STEPS_STREAMS = ("codes", "fp16", "scales", "steps")
STREAMS_OF = {
    VERSION: STEPS_STREAMS[:3], STEPS_VERSION: STEPS_STREAMS, BROTLI_VERSION: STEPS_STREAMS[:3],
    RECORD_VERSION: (*STEPS_STREAMS[:3], "factors", "order"),
}  # fmt: skip
"""By version, in the order of the file."""
_MATRICES_PER_LAYER = 6
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")


def version_of(header: dict[str, Any]) -> int:
    streams = header.get("streams")
    if "low_rank" in header or "grouping" in header:
        return RECORD_VERSION
    if header.get("compressor") == "brotli":
        return BROTLI_VERSION
    return STEPS_VERSION if isinstance(streams, dict) and "steps" in streams else VERSION


def checksum(header: dict[str, Any], body: bytes | memoryview) -> str:
    covered = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(struct.pack("<H", version_of(header)) + canonical_json(covered).encode("ascii"))
    digest.update(body)
    return digest.hexdigest()


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ELEMENTS  # a bool is no size


def check_tensors(tensors: Any, model: Model) -> None:
    """Refuse a table of [name, grid, shape] that is malformed, too large, or too small for the model it goes with."""
    if not isinstance(tensors, list) or not all(isinstance(entry, list) and len(entry) == 3 for entry in tensors):
        raise Refused("its list of tensors is malformed")
    for name, grid, shape in tensors:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Refused(f"tensor name {str(name)[:50]!r} is not allowed")
        if not isinstance(grid, str) or grid not in PACKABLE:
            raise Refused(f"{name} has the unknown grid {str(grid)[:50]!r}")
        if not isinstance(shape, list) or len(shape) > 4 or not all(map(is_size, shape)):
            raise Refused(f"{name} has an impossible shape")
        if grid != "fp16" and (len(shape) != 2 or 0 in shape):
            raise Refused(f"{name} has shape {shape}, which grid {grid} cannot hold")
    names = [entry[0] for entry in tensors]
    if names != sorted(set(names)):
        raise Refused("its tensors are repeated or out of order")
    elements = sum(math.prod(shape) for _, _, shape in tensors)
    if elements > MAX_ELEMENTS:
        raise Refused(f"{elements} weights are more than the {MAX_ELEMENTS} that an artifact may hold")
    least = least_elements(model)
    if elements < least or len(tensors) < _MATRICES_PER_LAYER * model.num_layers:
        raise Refused(
            f"a model of {model.num_layers} layers with at least {least} weights does not come out of"
            f" {len(tensors)} tensors with {elements}"
        )

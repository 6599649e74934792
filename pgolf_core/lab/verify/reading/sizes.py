"""Sizes in bytes that a line of a log tells, by the words before each number.

Some lines begin with one, others hold several between other numbers: `model_size zlib:15650103 bytes  code:1603 bytes`.
"""

import re
from collections.abc import Iterator

WORDS = (
    ("", r"payload|raw|fp32|bf16|limit|cap(?![a-z])|target|budget|remain|headroom|baseline|stored"),
    ("total", r"submission[ _]size"), ("code", r"code[ _](?:size|bytes)"), ("model", r"serialized[ _]model"),
    ("", r"free|param|batch|token|vocab|seq|window|dim|step|chunk|buffer|shard|memory|dataset|max|min\b|prefix|peak|"
         r"over|val|loss"),
    ("total", r"total"), ("code", r"(?<![a-z])code(?![a-z])"),
    ("model", r"serialized|model[ _]size|compressed|bytes_model|model_bytes"),
    ("artifact", r"artifact"),
)  # fmt: skip
"""What a size is of, by words of its name, the first that fits; "" for what is no size of a submission's.

Some logs call the packed file the artifact, others its sum with the code.
"""
PARTS = ("model", "code", "total", "artifact")
RAW_BYTES = 40_000_000
"""A size that is said to be of no packing and is larger than this is of the weights before packing."""
_PACKING = re.compile(r"\+|int\d|zlib|zstd|lzma|brotli|xz|lz4|lrz|quant|pack|compress|group|ternary", re.I)
_VALUE = re.compile(r"[:=]\s*(\d[\d,]{0,14}(?![\d.]))(\s*bytes\b|(?=[\s,;/)}\]]|$))")
_NO_NAME = re.compile(r"[^\w+./() \"',-]")
"""What ends a name; the last characters before a value are one, from the first letter on."""
_SIZED = re.compile(r"artifact|model[ _]size|serialized|compressed|(?:zlib|zstd|lzma|brotli):\d{1,12} code:", re.I)
_COMPRESSOR = re.compile(r"(?:int\d_?)?(?:zlib|zstd|lzma|brotli)", re.I)
"""Beside code and total what it made is the packed file; alone it may be one of several that were tried."""
_RAW = re.compile(r"\braw", re.I)


def sizes_of(line: str) -> Iterator[tuple[str, int]]:
    """(part, bytes) of every size of the packed file, the code, and their sum that a line tells."""
    has_size, is_raw = _SIZED.search(line) is not None, _RAW.match(line) is not None
    for name, value, unit in _named(line):
        size = int(value.replace(",", ""))
        part = next((part for part, words in WORDS if re.search(words, name, re.I)), "")
        if _COMPRESSOR.fullmatch(name) and has_size:
            part = "model"
        if is_raw and part != "code":
            continue
        is_size = is_raw or unit.strip() or has_size or re.search(r"bytes|size", name, re.I)
        is_packed = part == "code" or size <= RAW_BYTES or _PACKING.search(name)
        if part and is_size and is_packed:
            yield part, size


def _named(line: str) -> Iterator[tuple[str, str, str]]:
    """(name, digits, unit) of every whole number with a name, sought from its value back: a log may have long lines."""
    end = 0
    for found in _VALUE.finditer(line):
        before = line[end : found.start()].rstrip()
        before = before[:-1] if before.endswith(("'", '"')) else before
        if name := re.search(r"[A-Za-z_].*", _NO_NAME.split(before[-101:])[-1]):
            yield name[0], found[1], found[2]
            end = found.end()

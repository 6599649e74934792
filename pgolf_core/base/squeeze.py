"""Byte shuffle and brotli at its strongest: what PR 1493 compresses with.

The package brotli is asked for only where a recipe or a file needs it.
"""

import importlib.util

from pgolf_core.base.files import Refused, UserError


def need_brotli() -> None:
    """UserError where the package is not installed: before a training that would end with it."""
    if importlib.util.find_spec("brotli") is None:
        raise UserError("quant.compressor = brotli needs the package brotli; run `pip install brotli==1.2.1`")


def shuffled(data: bytes) -> bytes:
    """All even-numbered bytes, then all odd ones."""
    return data[::2] + data[1::2]


def unshuffled(planes: bytes) -> bytes:
    """What `shuffled` was given."""
    data, half = bytearray(len(planes)), (len(planes) + 1) // 2
    data[::2], data[1::2] = planes[:half], planes[half:]
    return bytes(data)


def squeeze(data: bytes) -> bytes:
    """One brotli stream: quality 11 and a window of 2^22 bytes, brotli's defaults. The bytes depend on its version."""
    need_brotli()
    import brotli

    return brotli.compress(data)


def unsqueeze(stream: bytes | memoryview, size: int) -> bytes:
    """Contents of exactly one brotli stream, of exactly `size` bytes; Refused for any other, and no more memory than
    a few times the size."""
    need_brotli()
    import brotli

    decoder = brotli.Decompressor()
    try:
        data = decoder.process(bytes(stream), output_buffer_limit=size + 1)
    except brotli.error as error:
        raise Refused(f"a stream cannot be decompressed ({error})") from None
    if len(data) != size or not decoder.is_finished():
        raise Refused(f"a stream is cut off, or not of {size} bytes")
    return data

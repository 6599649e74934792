"""Byte shuffle and brotli: there and back, and nothing else passes."""

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

from pgolf_core.base.files import Refused
from pgolf_core.base.squeeze import need_brotli, shuffled, squeeze, unshuffled, unsqueeze

DATA = bytes(range(256)) * 40 + b"odd"


@given(st.binary(max_size=99))
def test_a_shuffle_puts_the_even_bytes_first_and_comes_back(data: bytes) -> None:
    assert [shuffled(data)[i] for i in range((len(data) + 1) // 2)] == list(data[::2])
    assert unshuffled(shuffled(data)) == data


@pytest.mark.parametrize(
    ("stream", "size"),
    [
        (squeeze(DATA)[:-1], len(DATA)), (squeeze(DATA) + b"x", len(DATA)), (b"", 0), (b"no brotli", 9),
        (squeeze(DATA), len(DATA) - 1), (squeeze(DATA), len(DATA) + 1), (squeeze(bytes(2**24)), 100),
    ],
)  # fmt: skip
def test_a_stream_that_is_cut_off_longer_or_of_another_size_is_refused(stream: bytes, size: int) -> None:
    assert unsqueeze(squeeze(DATA), len(DATA)) == DATA
    with pytest.raises(Refused):
        unsqueeze(stream, size)


def test_without_the_package_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused(r"quant\.compressor = brotli needs .*pip install brotli==1\.2\.1"):
        need_brotli()

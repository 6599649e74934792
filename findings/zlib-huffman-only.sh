#!/usr/bin/env bash
# zlib: on the codes of quantised weights the strategy "Huffman only" writes less than level 9, and zstd's level 1 less than 15.
#
# Codes in whole bytes have few repeats, only a skewed distribution. zlib's search takes chance matches of three bytes for
# repeats and pays more for them than for the bytes alone. Told not to search (`zlib.compressobj(9, zlib.DEFLATED, 15, 9,
# zlib.Z_HUFFMAN_ONLY)`; `zlib.decompress` reads it as ever) it writes a tenth less for narrow codes, 0.4 % for int8's. zstd's
# levels are not in order for the same reason. So "int8+zlib at level 9" is no measure of what a code costs. On int6 codes of
# weights trained for ten minutes: zlib-9 588,077 bytes, Huffman only 534,257, zstd-1 536,058, -15 562,544, -22 528,211
# (another run 1,193,381, 1,134,227, 1,127,080, 1,154,342, 1,125,151). It does not hold for hardly trained weights, whose
# codes are nearly all small: there the search pays (213,981 against 224,782).
#
# Seen on 2026-11-29 with zlib 1.2.13 and zstandard 0.25.0: 400,000 normal draws, rounded; bytes of
#   std 4, +-15    zlib-9 231,090   Huffman only 205,052   zstd-1 204,885   zstd-15 215,894   zstd-22 205,180
#   std 6, +-31    zlib-9 256,276   Huffman only 233,290   zstd-1 233,399   zstd-15 237,530   zstd-22 233,675
#   std 32, +-127  zlib-9 356,339   Huffman only 355,069   zstd-1 356,250   zstd-15 356,250   zstd-22 356,514
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check zstandard==0.25.0
cat > sizes.py <<'PY'
import random
import zlib

import zstandard

def huffman_only(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush()

draw = random.Random(1)
as_seen = []
print("zlib", zlib.ZLIB_RUNTIME_VERSION)
for std, top in ((4, 15), (6, 31), (32, 127)):
    data = bytes(max(-top, min(top, round(draw.gauss(0, std)))) & 255 for _ in range(400_000))
    assert zlib.decompress(huffman_only(data)) == data
    searched, huffman = len(zlib.compress(data, 9)), len(huffman_only(data))
    one, middle, most = (len(zstandard.ZstdCompressor(level=level).compress(data)) for level in (1, 15, 22))
    print(f"std {std}: zlib-9 {searched}, Huffman only {huffman}, zstd-1 {one}, zstd-15 {middle}, zstd-22 {most}")
    as_seen.append(huffman < searched and one <= middle)
raise SystemExit(0 if all(as_seen) else "CHANGED")
PY
venv/bin/python sizes.py
echo "as seen: without a search for repeats the codes of weights are smaller"

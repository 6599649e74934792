#!/usr/bin/env bash
# blosc2 4.14.1: with more than one thread the same weights give other bytes each time, of the same length.
#
# A chunk is cut in blocks, each is compressed by one of the threads, and the blocks stand in the file in the order in which the
# threads were done. How many threads there are is the machine's choice unless told. So a checksum of a packed model, a cache by
# content, a signed artifact or "two runs gave the same file" hold by chance, though all these files unpack to
# the same weights: compare what is unpacked. With nthreads=1 the bytes are the same each time, and as many.
#
# Expected: bytes that depend on weights and settings. Seen on 2026-11-30 with numpy 2.4.6, 1024 x 1024 normal draws as float32,
# zstd at level 9; different files of forty (other counts each time), all 3,557,982 bytes long:
#   compress2     1 thread 1     2 threads 6     4 threads 21
#   pack_tensor   1 thread 1     2 threads 27    the machine's own choice, of two cores, 33
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check blosc2==4.14.1 numpy==2.4.6
cat > threads.py <<'PY'
import blosc2
import numpy

weights = (numpy.random.default_rng(0).normal(size=(1024, 1024)) * 0.02).astype(numpy.float32)

def files(pack):
    """How many different files forty packings give, and of how many lengths."""
    found = {pack() for _ in range(40)}
    return len(found), len({len(file) for file in found}), found

def compressed(threads):
    return blosc2.compress2(weights, codec=blosc2.Codec.ZSTD, clevel=9, typesize=4, nthreads=threads)

counts, unpacked = {}, set()
for threads in (1, 2, 4):
    count, lengths, found = files(lambda: compressed(threads))
    counts[threads] = count
    unpacked |= {blosc2.decompress2(file) for file in found}
    print(f"compress2, {threads} threads: {count} files of forty, {lengths} length(s), {len(next(iter(found)))} bytes")
for threads in (1, 2):
    count, _, found = files(lambda: blosc2.pack_tensor(weights, cparams={"nthreads": threads}))
    counts["pack_tensor", threads] = count
    assert all(numpy.array_equal(blosc2.unpack_tensor(file), weights) for file in found), "CHANGED: not lossless"
    print(f"pack_tensor, {threads} threads: {count} files of forty")
print("pack_tensor, as it comes:", files(lambda: blosc2.pack_tensor(weights))[0], "files of forty")
as_seen = counts[1] == counts["pack_tensor", 1] == 1 and counts[4] > 1 and counts["pack_tensor", 2] > 1
raise SystemExit(0 if as_seen and unpacked == {weights.tobytes()} else "CHANGED")
PY
venv/bin/python threads.py
echo "as seen: the order in which threads are done is in the file"

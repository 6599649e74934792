#!/usr/bin/env bash
# zipnn 0.5.4, "a lossless compression library" for models: compress() leaves garbage in the tensor that it was given.
#
# Of float32 and bfloat16 it turns the bits of every number in place, so that the exponent fills a byte, and does not turn them
# back. The packed bytes are right and unpack to the original. But the model in memory is gone: whoever packs the weights and
# then scores, averages or trains works with numbers of 1e37, and a check of the unpacked tensor against the first one fails
# though nothing was lost. It even writes into a `bytes` object, which Python calls immutable: the same object has another
# SHA-256 afterwards. float16, and arrays given as input_format="numpy", are left as they were. Give it a copy.
#
# Needs a C compiler. Expected: an input that is read. Seen on 2026-11-30 with torch 2.13.0 and numpy 2.4.6, normal draws:
#   torch bfloat16, float32   packed right; no number of the input as it was; a layer's output, before 0.5, afterwards 1e37
#   torch float16             packed right; the input as it was
#   bytes, as float32         packed right; the object's SHA-256 another one
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check zipnn==0.5.4 torch==2.13.0 numpy==2.4.6
cat > packed.py <<'PY'
import hashlib

import numpy
import torch
import zipnn

torch.manual_seed(0)
seen = {}
for dtype in ("bfloat16", "float32", "float16"):
    layer = torch.nn.Linear(64, 64, bias=False).to(getattr(torch, dtype))
    x, weight = torch.randn(4, 64).to(layer.weight.dtype), layer.weight.data
    first, output = weight.clone(), layer(x)
    packer = zipnn.ZipNN(input_format="torch", bytearray_dtype=dtype)
    packed = packer.compress(weight)
    assert torch.equal(packer.decompress(packed), first), "CHANGED: not lossless"
    seen[dtype] = float((weight == first).double().mean())
    print(f"{dtype}: packed right; {seen[dtype]:.0%} of the input as it was; output before {output[0, :2].tolist()},"
          f" after {layer(x)[0, :2].tolist()}")

raw = numpy.random.default_rng(0).normal(size=10_000).astype("float32").tobytes()
copy = bytearray(raw)
before = hashlib.sha256(raw).hexdigest()[:8]
packer = zipnn.ZipNN(bytearray_dtype="float32")
assert packer.decompress(packer.compress(raw)) == copy, "CHANGED: not lossless"
after = hashlib.sha256(raw).hexdigest()[:8]
print(f"a bytes object: SHA-256 before {before}, after {after}")
as_seen = seen["bfloat16"] < 0.01 and seen["float32"] < 0.01 and seen["float16"] == 1 and before != after
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python packed.py
echo "as seen: what has been packed is no longer there"

#!/usr/bin/env bash
# ml_dtypes 0.6.0 under numpy 2.4.6: the mean of 4,096 bfloat16 ones is 0.0625, though their dot product is 4,096.
#
# numpy adds up the bfloat16 of ml_dtypes one after the other and in bfloat16. From 256 on, adding one changes nothing. Its
# own float16 is saved by a float32 sum inside `mean`, which knows numpy's types only; `@` on bfloat16 adds in float32
# too. So `abs(w).mean()`, the scale of ternary weights, comes out hundreds of times too small and every weight takes a
# side, none becomes zero; `std` and a norm by `(w * w).sum()` are wrong as well. No warning, and short rows look right.
# `mean(dtype=numpy.float32)` is right. Weights read from a bfloat16 checkpoint without torch have this type.
#
# Expected: 1, or 1 within bfloat16's half percent; float16's care, or pairwise sums. Seen on 2026-11-29, 64 x 4,096 normal draws:
#   mean of 4,096 ones          bfloat16 0.0625   float16 1.0   dot product over n 1.0
#   mean of |w|                 bfloat16 0.00436  float32 0.799      zeros after rounding w / mean: 0.2 % and 31 %
#   sum of w * w                bfloat16 4512     float32 262741     std 0.131 and 1.0
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6
cat > means.py <<'PY'
import numpy
from ml_dtypes import bfloat16

ones = numpy.ones(4096, bfloat16)
print("mean of ones:", ones.mean(), "dot product / n:", ones @ ones / 4096, "float16:", ones.astype(numpy.float16).mean())
w = numpy.random.default_rng(0).normal(size=(64, 4096)).astype(bfloat16)
wide = w.astype(numpy.float32)
scale, right = float(abs(w).mean()), float(abs(wide).mean())
zeros = [float((abs(wide / value) < 0.5).mean()) for value in (scale, right)]
print(f"mean of |w|: {scale:.3g}, as float32 {right:.3g}, with dtype= {abs(w).mean(dtype=numpy.float32):.3g}")
print(f"zeros of ternary weights: {zeros[0]:.1%}, {zeros[1]:.1%}")
print(f"sum of squares: {(w * w).sum()}, {(wide * wide).sum()}; std: {float(w.std()):.3g}, {wide.std():.3g}")
as_seen = ones.mean() == 0.0625 and (ones @ ones) == 4096 and scale < right / 100
as_seen &= abs(abs(w).mean(dtype=numpy.float32) - right) < 1e-3 * right
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python means.py
echo "as seen: a mean in bfloat16 stops growing long before its last term"

#!/usr/bin/env bash
# nncodec 2.1.3: with `bitdepth` its trellis loses what follows: 29 weights of 131,072 cut off, and 37 % is lost, not 22.
#
# The ISO standard's coder packs weights with dependent quantisation (`use_dq`, on unless told otherwise): two grids, and the
# parity of each code says which one the next weight is read from. `bitdepth=4` takes the step from the 99.95th percentile and
# cuts the codes outside -8 to 7, after the trellis has chosen them. A code that is cut to another parity turns the grids over
# for all weights after it, up to the next one that is cut. Both sides go on alike, nothing fails, and the file is no
# larger; the weights are as bad as with half as many levels. The README's minimal example is `'bitdepth': 4, 'use_dq': True`.
# Choose the step by `qp` instead (nothing is cut), or give `use_dq=False` beside `bitdepth`.
#
# torchvision is stood in for: nncodec imports it for image data sets alone. Expected: a loss as of the same step with
# nothing cut. Seen on 2026-11-30 with torch 2.13.0 and numpy 1.26.4, 256 x 512 normal draws, three seeds; share of the length
# that is lost:
#   trellis, bitdepth=4   0.371 0.385 0.341   up to the first of 20 to 29 codes cut 0.221 0.219 0.222, after it 0.381 0.390 0.346
#   trellis, qp=-27       0.220 0.221 0.221   the same step, 2.41 bits a weight as above
#   use_dq=False          0.141 0.140 0.140   bitdepth=4, 3.13 bits a weight
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check nncodec==2.1.3 torch==2.13.0 numpy==1.26.4
cat > trellis.py <<'PY'
import contextlib
import io
import sys
from unittest.mock import MagicMock

import numpy

for name in ("", ".datasets", ".models", ".transforms"):
    sys.modules["torchvision" + name] = MagicMock()
from nncodec.nn import decode, encode

def packed(weight, **choices):
    """Bits a weight, and the weights that come back."""
    with contextlib.redirect_stdout(io.StringIO()):
        stream = encode({"layer.weight": weight}, {"verbose": False, **choices})
        return 8 * len(stream) / weight.size, decode(stream, {"verbose": False, **choices})["layer.weight"]

def lost(found, weight):
    return float(numpy.linalg.norm(found - weight) / numpy.linalg.norm(weight))

as_seen = True
for seed in range(3):
    weight = (numpy.random.default_rng(seed).normal(size=(256, 512)) * 0.02).astype(numpy.float32)
    bits, cut = packed(weight, bitdepth=4)
    bits_by_qp, whole = packed(weight, qp=-27)
    bits_plain, plain = packed(weight, bitdepth=4, use_dq=False)
    step = numpy.diff(numpy.unique(whole)).min()
    assert numpy.isclose(step, numpy.diff(numpy.unique(cut)).min()), "CHANGED: another step"
    codes = numpy.round(whole.ravel() / step)
    outside = numpy.flatnonzero((codes > 7) | (codes < -8))
    first = outside[0]
    before, after = (lost(cut.ravel()[part], weight.ravel()[part]) for part in (slice(0, first), slice(first, None)))
    print(f"seed {seed}: bitdepth=4 loses {lost(cut, weight):.3f} at {bits:.2f} bits, qp=-27 {lost(whole, weight):.3f} at"
          f" {bits_by_qp:.2f}, use_dq=False {lost(plain, weight):.3f} at {bits_plain:.2f}")
    print(f"  {len(outside)} codes outside; up to weight {first} {before:.3f} lost, after it {after:.3f}")
    as_seen &= lost(cut, weight) > 1.4 * lost(whole, weight) > 1.4 * lost(plain, weight) and len(outside) < 40
    as_seen &= bool((cut.ravel()[:first] == whole.ravel()[:first]).all()) and abs(bits - bits_by_qp) < 0.02
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python trellis.py
echo "as seen: one code cut off turns the grids for all that follows"

#!/usr/bin/env bash
# numcodecs 0.16.6: FixedScaleOffset into int8 does not stop at 127 but goes on at -128: large weights change their sign.
#
# It is zarr's filter for storing floats as scaled integers, and looks like int8 quantisation with a chosen step. A clip below
# the largest weight is what one chooses in that: at three standard deviations one weight in 370 lies outside, and should lose
# the little by which it does. Here it comes back from the other end of the grid, without an error or a warning, and these few
# weights are nearly all of the loss, fourteen times what clipping and grid cost together. With the integers of "u1" a
# negative weight does the same. Clip before encoding; then it is the grid that one means.
#
# Expected: clipping, or an error. Seen on 2026-11-30 with numpy 2.4.6, a step of 0.01 and int8:
#   1.0 1.27 1.28 1.5 -1.3 come back as 1.0 1.27 -1.28 -1.06 1.26
#   262,144 normal draws, scaled for three standard deviations: 0.31 of their length lost, 709 signs turned;
#   clipped beforehand 0.022, and none
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check numcodecs==0.16.6 numpy==2.4.6
cat > wrap.py <<'PY'
import warnings

import numcodecs
import numpy

warnings.simplefilter("error")
five = numpy.array([1.0, 1.27, 1.28, 1.5, -1.3], numpy.float32)
codec = numcodecs.FixedScaleOffset(offset=0, scale=100, dtype="f4", astype="i1")
back = codec.decode(codec.encode(five))
print(five, "->", back)
w = numpy.random.default_rng(0).normal(0, 0.02, 262_144).astype(numpy.float32)
codec = numcodecs.FixedScaleOffset(offset=0, scale=127 / 0.06, dtype="f4", astype="i1")

def lost(values):
    decoded = codec.decode(codec.encode(values))
    turned = int((numpy.sign(decoded) * numpy.sign(w) < 0).sum())
    return float(numpy.linalg.norm(decoded - w) / numpy.linalg.norm(w)), turned

as_it_is, clipped = lost(w), lost(numpy.clip(w, -0.06, 0.06))
print(f"lost {as_it_is[0]:.2g}, {as_it_is[1]} signs turned; clipped before {clipped[0]:.2g}, {clipped[1]} signs turned")
as_seen = (back[2:] * five[2:] < 0).all() and as_it_is[0] > 10 * clipped[0] and clipped[1] == 0
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python wrap.py
echo "as seen: what is too large comes back from the other end"

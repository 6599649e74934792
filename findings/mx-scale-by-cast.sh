#!/usr/bin/env bash
# ml_dtypes 0.6.0: a block of zeros has no MX scale but NaN, and a cast rounds the scale so that the largest weights are cut.
#
# An MXFP4 block is 32 weights of float4_e2m1fn and one power of two. The type of that power, float8_e8m0fnu, has no zero:
# the cast of 0 is NaN and not its smallest number, and NaN times the codes is NaN for the whole block. Blocks of zeros are
# common: every network whose output projections start from zero has nothing else there at step 0. The cast also
# rounds to the nearer power (1.49 to 1, 1.5 to 2), so `(largest / 6).astype(float8_e8m0fnu)` is up to a third too small, and
# float4 then saturates in silence, where float8_e4m3fn gives NaN for too much. The power above never cuts, and
# loses less.
#
# Expected: 0 becomes 2^-127; the scale is rounded up, or what is cut shows as NaN. Seen on 2026-11-29 with numpy 2.4.6,
# 4,096 blocks of 32 normal draws:
#   cast of 0: nan   500.0: float4_e2m1fn 6, float8_e4m3fn nan
#   scale by the cast  53 % of blocks cut, the largest weight short by up to 33 %, 0.132 of the weights' length lost
#   the power above    0 % cut, short by up to 20 % (the grid has 4 and 6, not 5), 0.116 lost
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6
cat > blocks.py <<'PY'
import ml_dtypes
import numpy

def restored(blocks, scale):
    codes = (blocks / scale).astype(ml_dtypes.float4_e2m1fn)
    return codes.astype(numpy.float32) * scale

w = numpy.random.default_rng(0).normal(size=(4096, 32)).astype(numpy.float32)
largest = abs(w).max(axis=1, keepdims=True)
wanted = {
    "cast": (largest / 6).astype(ml_dtypes.float8_e8m0fnu).astype(numpy.float32),
    "power above": numpy.exp2(numpy.ceil(numpy.log2(largest / 6))),
}
lost, cut = {}, {}
for name, scale in wanted.items():
    back = restored(w, scale)
    lost[name] = float(numpy.linalg.norm(back - w) / numpy.linalg.norm(w))
    cut[name] = float((largest > 6 * scale).mean())
    worst = float((1 - abs(back).max(axis=1) / largest[:, 0]).max())
    print(f"{name}: {cut[name]:.1%} of blocks cut, {lost[name]:.4f} of the weights' length lost, largest short by {worst:.0%}")
zero = numpy.zeros(1, numpy.float32).astype(ml_dtypes.float8_e8m0fnu).astype(numpy.float32)[0]
much = [float(numpy.float32([500]).astype(kind)[0]) for kind in (ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e4m3fn)]
print("cast of 0:", zero, "  500.0 as float4_e2m1fn and float8_e4m3fn:", *much)
as_seen = numpy.isnan(zero) and much[0] == 6 and numpy.isnan(much[1]) and cut["cast"] > 0.2 and cut["power above"] == 0
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python blocks.py
echo "as seen: zeros give NaN, and the cast cuts"

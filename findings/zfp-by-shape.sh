#!/usr/bin/env bash
# zfpy 1.0.1: one number for the precision, and the same weights lose 0.6 or 10 %, depending on how many axes their array has.
#
# zfp cuts an array into blocks of 4, 4 x 4, 4 x 4 x 4 or 4 x 4 x 4 x 4 numbers, one size for each number of axes, and a
# setting means something else for each. So `reshape(-1)` or the axes of stacked layers change what a file weighs and what it
# loses, though weights are noise and have no neighbours. `precision` keeps bits of a block's transformed numbers: more axes,
# fewer bytes, far more error. `rate` is bits a weight, and one axis loses three times as much as two: an exponent for every
# four weights has to be paid from them. `tolerance` bounds the largest error, and keeps it ever further below the bound: with
# four axes a fifth of what was allowed. None comes near a plain grid whose codes are entropy-coded: that bound at 5.4 bits a
# weight, where zfp takes 9.9 to 12.
#
# Expected: noise, so no difference. Seen on 2026-11-30 with numpy 2.4.6, 512 x 1024 normal draws of standard deviation 0.02,
# as 1, 2, 3 and 4 axes; bits a weight and share of the weights' length lost:
#   precision=10      11.06 0.0061    8.02 0.017     6.73 0.040     5.67 0.10
#   rate=6             6.00 0.23      6.00 0.073     6.00 0.066     6.00 0.074
#   tolerance=0.001   10.35 0.0083    9.92 0.0042   10.85 0.0021   12.05 0.0011    largest errors 0.00058 0.00039 0.00025 0.00018
#   a grid of step 0.002, codes at their entropy: 5.37 0.029, largest error 0.001
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check zfpy==1.0.1.post0 numpy==2.4.6
cat > shapes.py <<'PY'
import numpy
import zfpy

w = numpy.random.default_rng(0).normal(0, 0.02, 512 * 1024).astype(numpy.float32)
shapes = ((512 * 1024,), (512, 1024), (8, 64, 1024), (8, 8, 8, 1024))

def lost(back):
    return float(numpy.linalg.norm(back - w) / numpy.linalg.norm(w))

seen = {}
for setting, value in (("precision", 10), ("rate", 6), ("tolerance", 1e-3)):
    for shape in shapes:
        packed = zfpy.compress_numpy(w.reshape(shape), **{setting: value})
        back = zfpy.decompress_numpy(packed).ravel()
        bits, worst = len(packed) * 8 / w.size, float(abs(back - w).max())
        seen[setting, len(shape)] = bits, lost(back), worst
        print(f"{setting}={value}, {len(shape)} axes: {bits:.2f} bits, {lost(back):.2g} lost, largest error {worst:.2g}")
codes = numpy.round(w / 2e-3)
share = numpy.unique(codes, return_counts=True)[1] / codes.size
grid = float(-(share * numpy.log2(share)).sum())
print(f"grid of step 0.002: entropy {grid:.2f} bits, {lost(codes * 2e-3):.2g} lost")
as_seen = (
    seen["precision", 4][1] > 10 * seen["precision", 1][1]
    and seen["rate", 1][1] > 2.5 * seen["rate", 2][1]
    and seen["tolerance", 4][2] < 0.3e-3
    and min(seen["tolerance", axes][0] for axes in range(1, 5)) > 1.5 * grid
)
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python shapes.py
echo "as seen: the number of axes decides"

#!/usr/bin/env bash
# gguf 0.19.0: sixteen levels do not hold the three values of ternary weights, and Q4_1 leaves not one zero.
#
# Q4_0 lays its grid from the value with the largest magnitude in a block of 32, which becomes level -8; the other side
# ends at +7. With -1 and +1 both present, the sign that stands first keeps its 1 and the other becomes 0.875, block by block
# another one. Q4_1 cuts minimum to maximum into 15 steps, an odd number, so that the middle is no level: 0 comes back
# as -0.067. Q5_0 and Q5_1 do the same on finer grids. Q8_0 has 0 and both signs, with a scale in float16 that misses 1/127
# by 6e-5. Of the kinds tried only TQ1_0 and TQ2_0 hold such weights, in fewer bits (rows of 256).
#
# Expected: exact from 4 bits on, since three values need two. Seen on 2026-11-29 with numpy 2.4.6, 64 rows of 256 draws
# of -1, 0, 1; bits a weight, share of the weights' length lost, share of zeros still zero:
#   Q4_0 4.5 0.086 100 %   Q4_1 5.0 0.047 0 %   Q5_0 5.5 0.043 100 %   Q5_1 6.0 0.023 0 %
#   Q8_0 8.5 6e-05 100 %   TQ1_0 1.6875 0 100 %   TQ2_0 2.0625 0 100 %
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
cat > ternary.py <<'PY'
import numpy
from gguf import GGMLQuantizationType, quants

w = numpy.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=(64, 256)).astype(numpy.float32)
lost, zero = {}, {}
for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"):
    kind = GGMLQuantizationType[name]
    packed = quants.quantize(w, kind)
    back = quants.dequantize(packed, kind)
    lost[name] = float(numpy.linalg.norm(back - w) / numpy.linalg.norm(w))
    zero[name] = float((back[w == 0] == 0).mean())
    values = " ".join(f"{value:.4g}" for value in numpy.unique(back)[:6])
    print(f"{name}: {packed.nbytes * 8 / w.size} bits, {lost[name]:.2g} lost, {zero[name]:.0%} of zeros zero; values {values}")
as_seen = lost["Q4_0"] > 0.05 and lost["Q4_1"] > 0.02 and zero["Q4_1"] < 0.01 and zero["Q5_1"] < 0.01
raise SystemExit(0 if as_seen and lost["TQ1_0"] == lost["TQ2_0"] == 0 else "CHANGED")
PY
venv/bin/python ternary.py
echo "as seen: four bits lose what two hold"

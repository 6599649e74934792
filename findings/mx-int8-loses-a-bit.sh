#!/usr/bin/env bash
# brevitas 0.13.4: MXInt8Weight loses 18 % of the weights' length at eight bits, its eight-bit float 3 %; the format itself 0.8.
#
# The OCP's MX formats share one power of two among 32 weights. For int8 an element counts in sixty-fourths and reaches just
# short of 2, so the power at or below the largest weight holds them all. brevitas takes that power and counts in 128ths: the
# range ends at the power itself, and what lies between it and the largest weight is cut off, up to half of it: one weight in eight,
# in every group. Fewer bits hide it: at four bits it is 22 %, where the grid alone would lose 12. Tuning
# goes on with the cut weights, and a comparison of formats at eight bits comes out the wrong way round. MXInt8WeightMSE is the
# same; ShiftedMXUInt8Weight, with a zero point, loses 33 %. Rounding the power up (weight_restrict_value_float_to_int_impl=
# CeilSte) gives the format's loss.
#
# Expected: what the format loses, as reckoned here with numpy. Seen on 2026-11-30 with torch 2.13.0 and numpy 2.4.6, 256 x 512
# normal draws, three seeds alike; share of the length lost at 8, 6 and 4 bits:
#   MXInt8Weight 0.182 0.188 0.218   with CeilSte, and by the format, 0.0076 0.030 0.121   MXFloat8e4m3Weight 0.030
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check brevitas==0.13.4 torch==2.13.0 numpy==2.4.6
cat > mx.py <<'PY'
import numpy
import torch
from brevitas.core.function_wrapper import CeilSte
from brevitas.nn import QuantLinear
from brevitas.quant import mx_quant_ocp

def by_brevitas(weight, name, bits, **choices):
    layer = QuantLinear(512, 256, bias=False, weight_quant=getattr(mx_quant_ocp, name), weight_bit_width=bits, **choices)
    layer.weight.data.copy_(torch.from_numpy(weight))
    found = layer.quant_weight().value.detach()
    output = layer(torch.eye(512)).detach().T
    assert torch.allclose(found, output), "CHANGED: the layer computes with other weights"
    return found.numpy()

def by_the_format(weight, bits):
    """MX with integers: the power of two at or below the largest of 32, elements of `bits` bits, of which two before the point."""
    groups = weight.astype(float).reshape(-1, 32)
    power = 2.0 ** numpy.floor(numpy.log2(numpy.abs(groups).max(1, keepdims=True)))
    step, most = power / 2 ** (bits - 2), 2 ** (bits - 1) - 1
    return (numpy.clip(numpy.round(groups / step), -most, most) * step).reshape(weight.shape)

def lost(found, weight):
    return float(numpy.linalg.norm(found - weight) / numpy.linalg.norm(weight))

as_seen = True
for seed in range(3):
    weight = (numpy.random.default_rng(seed).normal(size=(256, 512)) * 0.02).astype(numpy.float32)
    for bits in (8, 6, 4):
        plain = lost(by_brevitas(weight, "MXInt8Weight", bits), weight)
        up = lost(by_brevitas(weight, "MXInt8Weight", bits, weight_restrict_value_float_to_int_impl=CeilSte), weight)
        right = lost(by_the_format(weight, bits), weight)
        print(f"seed {seed}, {bits} bits: MXInt8Weight {plain:.4f}, with CeilSte {up:.4f}, the format {right:.4f}")
        as_seen &= plain > 1.5 * right and up < 1.2 * right
        as_seen &= plain > 15 * right or bits < 8
    others = {name: lost(by_brevitas(weight, name, 8), weight)
              for name in ("MXInt8WeightMSE", "ShiftedMXUInt8Weight", "MXFloat8e4m3Weight")}
    print("  at 8 bits", ", ".join(f"{name} {value:.4f}" for name, value in others.items()))
    as_seen &= others["MXFloat8e4m3Weight"] < 0.04 < 0.15 < others["MXInt8WeightMSE"]
groups = numpy.abs(weight).reshape(-1, 32)
above = groups > 2.0 ** numpy.floor(numpy.log2(groups.max(1, keepdims=True)))
print(f"groups with a weight that is cut {above.any(1).mean():.3f}, weights cut {above.mean():.3f}")
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python mx.py
echo "as seen: the range ends at half of what the format holds"

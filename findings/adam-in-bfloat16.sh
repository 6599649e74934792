#!/usr/bin/env bash
# torch.optim.AdamW 2.13.0 on bfloat16 weights: with beta2 = 0.999 the second moment never falls, not by one bit.
#
# The moments have the weights' type. A step multiplies the second moment by 0.999; bfloat16 has 8 bits, so a factor above
# 1 - 2^-9 = 0.99805 always rounds back to the number it began with. It can rise, and then it stays: after the large
# gradients of the first steps, or one spike, the steps of that weight are small for the rest of the run. Also with
# `fused=True`. Nothing warns. The records keep embeddings in bfloat16 under Adam, with beta2 = 0.95, where it does fall;
# whoever goes back to 0.999 there stops Adam from adapting. Float32 weights under autocast do not have it.
#
# Seen on 2026-11-29 with torch 2.13.0: 50 steps of normal gradients, then 3,000 steps of zeros; second moment, after / before:
#   bfloat16   0.999: 1.0        0.998: 1.00     0.99: 4e-13
#   float32    0.999: 0.0497     0.998: 0.0025   0.99: 8e-14      (0.999^3000 = 0.0497)
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > moment.py <<'PY'
import torch

def left(dtype, beta2, fused):
    """Share of the second moment that 3,000 steps without a gradient leave, as a mean over 256 weights."""
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.ones(256, dtype=dtype))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, beta2), weight_decay=0, fused=fused)
    for step in range(3050):
        weight.grad = torch.randn(256).to(dtype) if step < 50 else torch.zeros(256, dtype=dtype)
        optimizer.step()
        if step == 49:
            before = optimizer.state[weight]["exp_avg_sq"].double()
    return float((optimizer.state[weight]["exp_avg_sq"].double() / before).mean())

seen = {}
for dtype in (torch.bfloat16, torch.float32):
    for beta2 in (0.999, 0.998, 0.99):
        for fused in (False, True):
            seen[dtype, beta2, fused] = left(dtype, beta2, fused)
            print(f"{dtype}, beta2 {beta2}, fused {fused}: {seen[dtype, beta2, fused]:.3g}")
stays = all(seen[torch.bfloat16, 0.999, fused] == 1.0 for fused in (False, True))
raise SystemExit(0 if stays and seen[torch.float32, 0.999, False] < 0.06 else "CHANGED")
PY
venv/bin/python moment.py
echo "as seen: in bfloat16 the second moment only rises"

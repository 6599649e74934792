#!/usr/bin/env bash
# torch 2.13.0: chained with a warm-up, LambdaLR wipes it out if it comes second, and goes to ten times the base rate if first.
#
# ChainedScheduler calls its schedulers in turn, and each is to multiply what it finds. LambdaLR and CosineAnnealingWarmRestarts
# do not look at what they find, they write down base rate times factor. After a LinearLR warm-up they wipe it out: the first
# step has the full rate. Before it, LinearLR multiplies that full rate by the ratio of two of its own factors, meant for a
# rate that is still low, so the second step has ten times the highest rate that either schedule knows. Two spellings of one
# straight decay, `LambdaLR(o, lambda s: 1 - s / 40)` and `LinearLR(o, 1, 0, 40)`, thus train two models. Nothing warns.
# The documentation asks for "chainable" schedulers and does not say which are; PolynomialLR, CosineAnnealingLR with eta_min 0,
# ExponentialLR, StepLR, MultiplicativeLR and LinearLR are. Put the warm-up into the lambda, or use SequentialLR.
#
# Expected: the product of both factors, or an error. Seen on 2026-11-30, base rate 0.1, warm-up from 0.001 in 10 steps, steps 0 to 3:
#   product                  0.001   0.0106   0.0198   0.0284
#   warm-up, LinearLR        0.001   0.0106   0.0198   0.0284     in either order
#   warm-up, LambdaLR        0.1     0.0975   0.095    0.0925     warm restarts: 0.1    0.0998  0.0994  0.0986
#   LambdaLR, warm-up        0.001   1.063    0.1813   0.1365     warm restarts: 0.001  1.088   0.1897  0.1456
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > chain.py <<'PY'
import math

import torch
from torch.optim import lr_scheduler

def warm_up(optimizer):
    return lr_scheduler.LinearLR(optimizer, 0.01, total_iters=10)

def rates(*makers):
    """The learning rate of the first forty steps under a chain of schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = lr_scheduler.ChainedScheduler([make(optimizer) for make in makers])
    seen = []
    for _ in range(40):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen

decays = {
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1, 0, 40),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 40),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 40),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 40),
}
as_seen = True
for name, decay in decays.items():
    product = [first * second / 0.1 for first, second in zip(rates(warm_up), rates(decay), strict=True)]
    before, after = rates(warm_up, decay), rates(decay, warm_up)
    for label, row in (("product", product), (f"warm-up, {name}", before), (f"{name}, warm-up", after)):
        print(f"{label:38}", " ".join(f"{rate:.4g}" for rate in row[:4]), f" highest {max(row):.3g}")
    right = [all(math.isclose(*pair, abs_tol=1e-9) for pair in zip(row, product, strict=True)) for row in (before, after)]
    if name in ("LinearLR", "CosineAnnealingLR"):
        as_seen &= right == [True, True]
    else:
        as_seen &= before == rates(decay) and after[0] < 0.002 and max(after) > 1
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python chain.py
echo "as seen: a warm-up is lost before LambdaLR, and a tenfold rate after it"

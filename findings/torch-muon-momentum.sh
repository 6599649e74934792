#!/usr/bin/env bash
# torch.optim.Muon 2.13.0 is the field's Muon only while the momentum stays what it is.
#
# The records' Muon adds up: buffer = m * buffer + g, update = g + m * buffer. torch's averages: buffer moves from itself
# towards g by 1 - m, and the update from g towards the buffer by m. With a constant m the one is 1 - m times the other,
# and the orthogonalisation that follows forgets the factor: both walk alike. But the records raise m during the first
# steps (0.92 to 0.99 over 1,500), and then torch weighs every older gradient by the 1 - m of its own step, the records
# by 1. Nothing warns of it: m is an ordinary entry of param_groups. A run that is ported to torch's optimiser and keeps
# the momentum's warm-up trains on other updates.
#
# Seen on 2026-11-28 with torch 2.13.0, one matrix of 64 x 64, random gradients, the part of torch's buffer that no
# multiple of the records' buffer explains, as a share of its length:
#   momentum 0.95 throughout, 40 steps                0.00
#   momentum 0.85 to 0.95 over 40 steps               0.21
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > momentum.py <<'PY'
import torch

def unexplained(momenta):
    """Share of torch's momentum buffer that is no multiple of the sum m * buffer + g, after these steps."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = torch.optim.Muon([weight], lr=0.01)
    summed = torch.zeros(64, 64)
    for momentum in momenta:
        weight.grad = torch.randn(64, 64)
        summed = momentum * summed + weight.grad
        optimizer.param_groups[0]["momentum"] = momentum
        optimizer.step()
    averaged = optimizer.state[weight]["momentum_buffer"]
    along = (averaged * summed).sum() / summed.square().sum()
    return float((averaged - along * summed).norm() / averaged.norm())

constant = unexplained([0.95] * 40)
rising = unexplained([0.85 + 0.1 * step / 39 for step in range(40)])
print(f"unexplained with constant momentum {constant:.2f}, with rising momentum {rising:.2f}")
raise SystemExit(0 if constant < 0.001 and rising > 0.05 else "CHANGED")
PY
venv/bin/python momentum.py
echo "as seen: equal while the momentum is constant, not while it rises"

#!/usr/bin/env bash
# heavyball 3.2.1: Muon of a vector is plain SGD: a thousandth of the gradient, a thousandth of the step.
#
# Muon's step does not depend on how large the gradient is, and learning rates of 0.02 are chosen for that. A network also has
# gains, biases and mixing weights with one axis. torch's Muon refuses them. heavyball's takes them and leaves out the
# orthogonalisation without a word: they move by learning rate times momentum, with the loss's own scale, so that a sum for a
# mean over tokens, a loss scale or the batch decides whether gains explode or stand still. pytorch_optimizer's takes a vector
# as one column: a step of the length 0.69 * sqrt(n), whatever the gradient, so 0.69 a gain where a square matrix of 256 moves
# by 0.06 a weight. Written as a column [64, 1], the same vector is a matrix to heavyball and moves by a step of length 8
# whatever the gradient, as a row [1, 64] by 1. Give vectors to Adam.
#
# Expected: an error, or Adam's step. Seen on 2026-11-30 with torch 2.13.0 and pytorch_optimizer 4.1.0, one step at lr=1 and
# random gradients of size 0.001, 1 and 1000; the step's length:
#   256 x 256   heavyball 16.2 16.2 16.2            pytorch_optimizer 14.48 14.48 14.48
#   64 x 1      heavyball 8 8 8                     pytorch_optimizer 5.48 5.48 5.71
#   1 x 64      heavyball 1 1 1                     pytorch_optimizer 0.685 0.685 0.714
#   64          heavyball 0.00892 8.92 8917         pytorch_optimizer 5.48 5.48 5.71      torch: ValueError
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 heavyball==3.2.1 pytorch_optimizer==4.1.0 numpy==2.4.6
cat > vector.py <<'PY'
import heavyball
import pytorch_optimizer
import torch

def length(make, shape, size):
    """Length of the first step at lr=1 from a random gradient of this size."""
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = make(weight)
    weight.grad = torch.randn(shape) * size
    optimizer.step()
    return float(weight.detach().norm())

heavyball.utils.compile_mode = None  # else it needs a compiler, and minutes
makers = {
    "heavyball": lambda weight: heavyball.Muon([weight], lr=1.0),
    "pytorch_optimizer": lambda weight: pytorch_optimizer.Muon([{"params": [weight], "use_muon": True, "lr": 1.0}]),
}
steps = {}
for name, make in makers.items():
    for shape in ((256, 256), (64, 1), (1, 64), (64,)):
        steps[name, shape] = [length(make, shape, size) for size in (1e-3, 1, 1e3)]
        print(name, shape, " ".join(f"{step:.3g}" for step in steps[name, shape]))
try:
    torch.optim.Muon([torch.nn.Parameter(torch.zeros(64))])
    refused = False
except ValueError as error:
    refused = True
    print("torch:", error)
growth = {key: value[2] / value[0] for key, value in steps.items()}
follows = {key for key, value in growth.items() if value > 1e5}
raise SystemExit(0 if refused and follows == {("heavyball", (64,))} and min(growth.values()) > 0.9 else "CHANGED")
PY
venv/bin/python vector.py
echo "as seen: a vector's step follows the gradient's size"

#!/usr/bin/env bash
# heavyball 3.2.1: the first step of Scion throws the model's weights away and draws others, the same for every seed.
#
# The method's authors begin from orthogonal matrices and zero biases. heavyball does that inside the optimizer's first step,
# for every weight, whatever its learning rate, and without a word. A trained model that is tuned further, or cooled down with
# a fresh optimizer, starts from nothing; an output layer set to zeros is random, and the gains of norms, which start at one,
# become zero, so that whole branches do. The matrices are drawn from a generator of its own, seeded with the place of
# the weight in its group: runs of three seeds start from one and the same point, and their spread is that of the data's order
# alone; with one group for each layer, layers of one shape start as copies. Nothing is lost when the optimizer's own state
# is loaded as well. Save the weights before the first step and copy them back after it; pytorch_optimizer's Scion
# leaves them until its init() is called.
#
# Expected: a step of the length that the learning rate gives. Seen on 2026-11-30 with torch 2.13.0, pytorch_optimizer 4.1.0
# and numpy 2.4.6, a layer and a norm trained by Adam, then one step at lr=1e-6; loss before and after it:
#   heavyball           0.0082 -> 1.04  0.0078 -> 1.03  0.0075 -> 1.01; gains of 1.1 are 3e-6; one matrix in all three seeds
#   pytorch_optimizer   0.0082 -> 0.0082  0.0078 -> 0.0078  0.0075 -> 0.0075
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 heavyball==3.2.1 pytorch_optimizer==4.1.0 numpy==2.4.6
cat > first.py <<'PY'
import copy

import heavyball
import pytorch_optimizer
import torch

heavyball.utils.compile_mode = None  # else it needs a compiler, and minutes

def loss_of(model, x, y):
    return (model(x) - y).square().mean()

def step(optimizer, model, x, y):
    optimizer.zero_grad()
    loss_of(model, x, y).backward()
    optimizer.step()

makers = {"heavyball": heavyball.Scion, "pytorch_optimizer": pytorch_optimizer.SCION}
as_seen, matrices = True, []
for seed in range(3):
    torch.manual_seed(seed)
    x = torch.randn(4096, 64)
    y = x @ torch.randn(64, 32) / 8
    trained = torch.nn.Sequential(torch.nn.RMSNorm(64), torch.nn.Linear(64, 32, bias=False))
    adam = torch.optim.Adam(trained.parameters(), lr=0.01)
    for _ in range(200):
        step(adam, trained, x, y)
    for name, make in makers.items():
        model = copy.deepcopy(trained)
        before = loss_of(model, x, y).item()
        optimizer = make(model.parameters(), lr=1e-6)
        step(optimizer, model, x, y)
        after = loss_of(model, x, y).item()
        gains = model[0].weight.detach()
        print(f"seed {seed}, {name}: loss {before:.4f} -> {after:.4f}; largest gain {float(gains.abs().max()):.2g}")
        if name == "heavyball":
            matrices.append(model[1].weight.detach())
            as_seen &= after > 10 * before and float(gains.abs().max()) < 0.01
        else:
            as_seen &= abs(after - before) < 0.01 * before
same = max(float((matrix - matrices[0]).abs().max()) for matrix in matrices)
print(f"largest difference between the three seeds' matrices: {same:.1g} of {float(matrices[0].abs().max()):.2g}")

torch.manual_seed(0)
layers = [torch.nn.Parameter(torch.randn(32, 32)) for _ in range(2)]
optimizer = heavyball.Scion([{"params": [layer]} for layer in layers], lr=1e-6)
for layer in layers:
    layer.grad = torch.randn(32, 32)
optimizer.step()
copies = float((layers[0] - layers[1]).detach().abs().max())
print(f"two layers in two groups: largest difference {copies:.1g}")
raise SystemExit(0 if as_seen and same < 1e-4 and copies < 1e-4 else "CHANGED")
PY
venv/bin/python first.py
echo "as seen: the first step draws new weights"

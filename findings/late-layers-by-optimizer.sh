#!/usr/bin/env bash
# pytorch_optimizer 4.1.0: a layer that joins late begins with three times the step in AdamP or AdEMAMix, thirty in LaProp.
#
# Adam's two averages begin at zero, and both are divided by what is still missing of them, counted from the first gradient of
# that weight. Many of this library's optimizers count the steps of the group. A layer whose gradients come later (unfrozen,
# an output layer untied from the embedding, a loop or a head that is switched on in mid-run, an expert without tokens so
# far) has averages that begin with nothing and are taken as complete: 0.1 of the gradient over the root of 0.001 of its square
# is 3.2, for the whole layer at once. Others begin with a tenth. Which of them does what, no name tells: AdamW here counts by
# weight, as torch's does, AdamP and AdamC do not. So what looks like the layer's own trouble at its start, or a better
# optimizer for it, is the count. Give the layer a group of its own with add_param_group() when it joins: then all are right.
#
# Expected: the first step of a weight is as long whenever it comes. Seen on 2026-11-30 with torch 2.13.0 and numpy 2.4.6: a
# layer joins after 2,000 steps of another one; its first step as a multiple of what it is at the start, three seeds alike:
#   29.4  laprop             2.94  adamp adabelief grams adams adamc flashadamw, ademamix 2.95
#   0.5   mars               0.1   stableadamw lamb, adan 0.2
#   1     adamw grokfastadamw lion adafactor, torch's AdamW; each of them in a group of its own
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 pytorch_optimizer==4.1.0 numpy==2.4.6
cat > late.py <<'PY'
import pytorch_optimizer
import torch

def first_step(make, seed, before, own_group=False):
    """Length of the second layer's first step, after so many steps of the first alone."""
    torch.manual_seed(seed)
    layers = [torch.nn.Parameter(torch.randn(32, 32) * 0.02) for _ in range(2)]
    gradient = torch.randn(32, 32)
    optimizer = make(layers[:1] if own_group else layers)
    for _ in range(before):
        layers[0].grad = torch.randn(32, 32)
        optimizer.step()
    if own_group:
        optimizer.add_param_group({"params": layers[1:]})
    start = layers[1].detach().clone()
    layers[1].grad = gradient
    optimizer.step()
    return float((layers[1].detach() - start).norm())

longer = ("laprop", "adamp", "adabelief", "grams", "adams", "adamc", "flashadamw", "ademamix")
shorter, as_long = ("mars", "adan", "stableadamw", "lamb"), ("adamw", "grokfastadamw", "lion", "adafactor")
makers = {name: lambda weights, make=pytorch_optimizer.load_optimizer(name): make(weights, lr=1e-4)
          for name in longer + shorter + as_long}
makers["torch AdamW"] = lambda weights: torch.optim.AdamW(weights, lr=1e-4)
as_seen = True
for name, make in makers.items():
    ratios = [first_step(make, seed, 2000) / first_step(make, seed, 0) for seed in range(3)]
    own = first_step(make, 0, 2000, own_group=True) / first_step(make, 0, 0)
    print(f"{name}:", " ".join(f"{ratio:.2f}" for ratio in ratios), f"; in a group of its own {own:.2f}", flush=True)
    as_seen &= abs(own - 1) < 0.01
    least, most = (2.5, 40) if name in longer else (0.05, 0.6) if name in shorter else (0.99, 1.01)
    as_seen &= least < min(ratios) <= max(ratios) < most
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python late.py
echo "as seen: a late layer's averages are taken as complete"

#!/usr/bin/env bash
# heavyball 3.2.1: a resumed run of bfloat16 weights goes on with bfloat16 state, where it had been float32, and is another run.
#
# Its optimizers keep their state in float32 (storage_dtype="float32", which the resumed one still says). load_state_dict is
# torch's: it casts every floating-point tensor to the type of its weight, and so it stays to the end of the run. The file on
# disk still holds float32. So momentum, second moments and SOAP's rotations have 8 bits from the first stop on, rounded by
# chance at each step, a memory reading falls by half, and a test that a stopped run ends like a whole one fails: by as
# much as two runs differ that round by other chances. Put the saved tensors back after loading, and it ends the same to the
# last bit. Float32 weights lose nothing, nor do torch's own optimizers, whose state has the weights' type from the start.
#
# Expected: the same weights as without a stop. Seen on 2026-11-30 with torch 2.13.0 and numpy 2.4.6, bfloat16, 20 steps, a stop,
# 20 more, three seeds; distance to the run without a stop as a share of the way gone; in brackets by another chance alone:
#   AdamW 0.051 0.048 0.050 (0.047 0.049 0.051)   Muon 0.36 0.36 0.37 (0.36 0.36 0.37)   SOAP 0.10 0.10 0.10 (0.09 0.10 0.10)
#   put back after loading 0 0 0                  torch's AdamW 0 0 0                     float32 weights 0 0 0
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 heavyball==3.2.1 numpy==2.4.6
cat > resumed.py <<'PY'
import copy

import heavyball
import torch

heavyball.utils.compile_mode = None  # else it needs a compiler, and minutes
makers = {
    "AdamW": lambda weight: heavyball.AdamW([weight], lr=0.01, betas=(0.9, 0.999)),
    "Muon": lambda weight: heavyball.Muon([weight], lr=0.01),
    "SOAP": lambda weight: heavyball.SOAP([weight], lr=0.01),
    "torch AdamW": lambda weight: torch.optim.AdamW([weight], lr=0.01),
}

def run(weight, optimizer, steps, chance=0):
    for at in steps:
        torch.manual_seed(at)
        weight.grad = (weight.detach().float() - 1 + torch.randn(64, 128)).to(weight.dtype)
        torch.manual_seed(1000 * chance + at)  # heavyball rounds bfloat16 by chance
        optimizer.step()

def types(state):
    if isinstance(state, dict):
        return set().union(*(types(value) for value in state.values()))
    return {state.dtype} if torch.is_tensor(state) and state.numel() > 1 else set()

as_seen = True
for dtype in (torch.bfloat16, torch.float32):
    for name, make in makers.items():
        shares = {"resumed": [], "put back": [], "rounded otherwise": []}
        for seed in range(3):
            torch.manual_seed(100 + seed)
            start = torch.randn(64, 128).to(dtype)
            whole = torch.nn.Parameter(start.clone())
            optimizer = make(whole)
            run(whole, optimizer, range(20))
            at_the_stop, saved = whole.detach().clone(), copy.deepcopy(optimizer.state_dict())
            run(whole, optimizer, range(20, 40))
            for way, found in shares.items():
                weight = torch.nn.Parameter(at_the_stop.clone())
                again = make(weight)
                again.load_state_dict(copy.deepcopy(saved))
                if way != "resumed":
                    again.state[weight] = copy.deepcopy(saved["state"][0])
                if way == "resumed":
                    as_seen &= types(dict(again.state[weight])) == {dtype}
                run(weight, again, range(20, 40), chance=int(way == "rounded otherwise"))
                found.append(float((weight - whole).detach().norm() / (whole - start).detach().norm()))
        print(f"{dtype}, {name}: saved {types(saved['state'])}; " + "; ".join(
            way + " " + " ".join(f"{share:.4f}" for share in found) for way, found in shares.items()))
        as_seen &= max(shares["put back"]) == 0
        lossy = dtype == torch.bfloat16 and name != "torch AdamW"
        as_seen &= min(shares["resumed"]) > 0.002 if lossy else max(shares["resumed"]) == 0

raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python resumed.py
echo "as seen: float32 until the first resume"

#!/usr/bin/env bash
# torch 2.13.0 on a CPU under bfloat16 autocast: gradients of LayerNorm's float32 gain and bias end at 256 times the threads.
#
# Master weights in float32 are the usual cure for bfloat16, and all else here is: the weights, the optimiser, the gradient's
# own type. But the input is bfloat16, and then the backward pass adds all positions up in bfloat16, one after the other in
# each thread; from 256 on, adding one changes nothing. More threads lose less, so the gradient depends on their number, not by a
# last bit but by a factor. RMSNorm, Linear's bias and the compiled graph add in float32, so that eager and compiled runs train
# on other gradients. Where positions pull both ways less is lost.
#
# Needs a C++ compiler, for the graph. Expected: 16,384, since the gain is float32. Seen on 2026-11-30 with numpy 2.4.6,
# 16,384 positions that all pull by one; gradients of gain and bias:
#   LayerNorm, threads 1, 2, 4   gain 256, 512, 1,024   bias 256, 512, 1,024
#   LayerNorm compiled 16,384   RMSNorm 16,384   Linear's bias 16,384   LayerNorm without autocast 16,384
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > gains.py <<'PY'
import torch

x = torch.ones(16384, 8)
x[:, ::2] = -1

def gradients(layer, threads=1, autocast=True, compiled=False):
    """Largest gradient of gain and bias where every position pulls by one."""
    torch.set_num_threads(threads)
    call = torch.compile(layer) if compiled else layer
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        given = x.bfloat16() if autocast else x  # what any matmul before the norm gives
        call(given).backward(given)
    found = [round(float(p.grad.abs().max())) for p in layer.parameters() if p.dim() == 1]
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    return found

norms = [gradients(torch.nn.LayerNorm(8), threads) for threads in (1, 2, 4)]
others = {
    "compiled": gradients(torch.nn.LayerNorm(8), compiled=True),
    "RMSNorm": gradients(torch.nn.RMSNorm(8)),
    "Linear's bias": gradients(torch.nn.Linear(8, 8)),
    "without autocast": gradients(torch.nn.LayerNorm(8), autocast=False),
}
print("LayerNorm, gain and bias, with 1, 2 and 4 threads:", norms)
print(others)
as_seen = norms[0] == [256, 256] and norms[1][0] < 1024 and norms[2][0] < 2048
raise SystemExit(0 if as_seen and all(set(found) == {16384} for found in others.values()) else "CHANGED")
PY
venv/bin/python gains.py
echo "as seen: the gradient of a float32 gain is a sum in bfloat16"

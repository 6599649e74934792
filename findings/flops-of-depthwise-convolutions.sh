#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts a depthwise convolution's backward pass C + 1 times its forward pass, not twice.
#
# Short convolutions over the last few tokens, one filter a channel (groups = channels = C), are the cheap part that goes in
# front of attention or of a recurrence. Their forward pass is counted rightly: 2 x positions x channels x taps. In the
# backward pass the gradient of the weights counts as that of a dense convolution, C times too much. So a model that
# has them seems to need far more FLOPs a step, and to use its machine far better, than it does. The meta device
# says the same: only shapes are read. Convolutions of one group are right.
# What to do: count the forward pass alone and take it three times.
#
# Expected: twice the forward pass. Seen on 2026-11-30 with numpy 2.4.6, 4 taps, 1,024 tokens, backward pass over
# forward pass: 64 channels 65, 512 channels 513, 64 channels in 4 groups 5, in one group 2
#   three depthwise convolutions beside twelve matrices of 512 x 512: 1.08 % more in the forward pass, 34.5 % in a step
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > count.py <<'PY'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TOKENS = 1024

def counted(module, x):
    """FLOPs of the forward pass and of the backward pass."""
    with FlopCounterMode(display=False) as forward:
        module(x)
    with FlopCounterMode(display=False) as both:
        module(x).sum().backward()
    return forward.get_total_flops(), both.get_total_flops() - forward.get_total_flops()

ratios = {}
for device in ("cpu", "meta"):
    for channels, groups in ((64, 64), (512, 512), (64, 4), (64, 1)):
        short = nn.Conv1d(channels, channels, 4, padding=3, groups=groups, bias=False, device=device)
        forward, backward = counted(short, torch.randn(1, channels, TOKENS, device=device, requires_grad=True))
        right = 2 * (TOKENS + 3) * channels * 4 * channels // groups
        ratios[channels, groups, device] = backward / forward
        print(f"{device}, {channels} channels in {groups} groups: forward {forward} ({right} by hand),", end=" ")
        print(f"backward {backward / forward:g} times")

def layer(convolved):
    short = [nn.Conv1d(512, 512, 4, padding=3, groups=512, bias=False) for _ in range(3 * convolved)]
    dense = [nn.Conv1d(512, 512, 1, bias=False) for _ in range(12)]
    return nn.Sequential(*short, *dense)

plain, convolved = (counted(layer(each), torch.randn(1, 512, TOKENS, requires_grad=True)) for each in (False, True))
more = [sum(convolved) / sum(plain) - 1, convolved[0] / plain[0] - 1]
print(f"three convolutions beside twelve matrices: {more[1]:.2%} more in the forward pass, {more[0]:.1%} in a step")
as_seen = all(abs(ratio - (groups + 1)) < 1e-6 for (_, groups, _), ratio in ratios.items())
raise SystemExit(0 if as_seen and more[0] > 0.1 and more[1] < 0.02 else "CHANGED")
PY
venv/bin/python count.py
echo "as seen: the backward pass counts as that of a dense convolution"

#!/usr/bin/env bash
# torch 2.13.0: on a CPU FlopCounterMode counts no FLOPs at all for attention, and on the meta device all of them.
#
# A run's FLOPs are counted where it is written, on a CPU, and set against what an accelerator can do. The CPU's kernel of
# scaled_dot_product_attention has no entry in the counter's table, and what has none counts as nothing, forward and
# backward, silently. What is missing grows with the length of the sequence: a third at 1,024 tokens and a width of 512,
# 70 % at 4,096. So longer contexts look free, and the same attention written out with matmuls looks dearer than the
# fused one. nn.MultiheadAttention counts half of its FLOPs in train(), and none in eval(), its projections included.
# What to do: count on the meta device, or under sdpa_kernel(SDPBackend.MATH). Causal or not makes no difference to it.
#
# Expected: 4 x heads x queries x keys x width of a head, forward. Seen on 2026-11-30 with numpy 2.4.6, one layer 512
# wide of 8 heads, 4 of keys and values, one text, forward and backward, GFLOPs:
#   256 tokens, by hand 3.22, cpu 2.82   1,024: 17.72, 11.27   4,096: 148.18, 45.10   meta and MATH: as by hand
#   MultiheadAttention 64 wide, 16,777,216 by hand: 8,388,608 in train(), 0 in eval()
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import relu, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(512, width, bias=False) for width in (512, 256, 256, 512))
        self.up, self.down = nn.Linear(512, 1024, bias=False), nn.Linear(1024, 512, bias=False)

    def forward(self, x):
        q, k, v = (each(x).unflatten(-1, (-1, 64)).transpose(1, 2) for each in (self.q, self.k, self.v))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(relu(self.up(x)).square())

def counted(length, device, kernels=(SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)):
    layer, x = Layer().to(device), torch.randn(1, length, 512, device=device, requires_grad=True)
    with sdpa_kernel(list(kernels)), FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    return counter.get_total_flops() / 1e9

seen = {}
for length in (256, 1024, 4096):
    right = 3 * (2 * length * (2 * 512 * 512 + 2 * 512 * 256 + 2 * 512 * 1024) + 4 * length * length * 512) / 1e9
    seen[length] = right, counted(length, "cpu"), counted(length, "meta"), counted(length, "cpu", [SDPBackend.MATH])
    _, cpu, meta, math = seen[length]
    print(f"{length} tokens: by hand {right:.2f}, cpu {cpu:.2f}, meta {meta:.2f}, MATH {math:.2f}")
ready, x = nn.MultiheadAttention(64, 4, batch_first=True), torch.randn(2, 128, 64)
heads = {}
for mode in (True, False):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ready.train(mode)(x, x, x, need_weights=False)
    heads[mode] = counter.get_total_flops()
right = 2 * 2 * 128 * 64 * 64 * 4 + 4 * 2 * 128 * 128 * 64
print("MultiheadAttention: by hand", right, "in train()", heads[True], "in eval()", heads[False])
as_seen = all(cpu < right - 1e-6 <= min(meta, math) for right, cpu, meta, math in seen.values())
raise SystemExit(0 if as_seen and seen[4096][1] < 0.6 * seen[4096][0] and heads[False] == 0 else "CHANGED")
PY
venv/bin/python count.py
echo "as seen: attention counts as nothing"

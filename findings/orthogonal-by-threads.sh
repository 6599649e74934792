#!/usr/bin/env bash
# torch.nn.init.orthogonal_ (torch 2.13.0, CPU): the same seed gives other weights with two threads than with one.
#
# The numbers drawn are the same; the QR decomposition behind them is not, because LAPACK divides it among torch's threads.
# So "the same seed, the same start" fails between a machine with one core for a process and one with two (torchrun sets
# OMP_NUM_THREADS=1 for every rank; the plain command does not). The differences are of the last bits, which training
# then spreads. Filled with one thread, the weights do not depend on what the machine offers; for matrices of these sizes it
# was not slower. nn.init.normal_ and uniform_ are drawn on one stream and do not differ.
#
# Seen on 2026-11-28 with torch 2.13.0+cpu on two cores:
#   orthogonal_   128x128, 512x512, 2048x512: not equal, largest difference 2e-7 to 2e-6
#   normal_       equal
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > threads.py <<'PY'
import torch

def filled(fill, threads, shape):
    torch.set_num_threads(threads)
    torch.manual_seed(1337)
    return fill(torch.empty(shape))

changed = False
for fill, differs in ((torch.nn.init.orthogonal_, True), (torch.nn.init.normal_, False)):
    for shape in ((128, 128), (512, 512), (2048, 512)):
        one, two = (filled(fill, threads, shape) for threads in (1, 2))
        print(fill.__name__, shape, "equal" if torch.equal(one, two) else f"differ by {(one - two).abs().max():.0e}")
        changed |= torch.equal(one, two) is differs
raise SystemExit("CHANGED" if changed else 0)
PY
venv/bin/python threads.py
echo "as seen: the number of threads enters the weights"

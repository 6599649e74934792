#!/usr/bin/env bash
# papers/findings/2026-11-22-steps-by-gradient.md: four to six minutes a seed on a free core. It needs the runs that
# 2026-11-22-five-records-local.sh and 2026-11-22-local-recipe.sh leave.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup
runs=runs/local_10min_1mb
frontier() { .venv/bin/python -m pgolf_core.lab.bench.frontier "$@" --targets 30720; }
frontier "$runs/local-pr315" --out runs/frontier/local-pr315 --shares 0.45,0.55,0.65,0.8
frontier "$runs/local" --out runs/frontier/local --shares 0.5,0.6,0.7,0.8,1.0
frontier "$runs/local" --out runs/frontier/local-corrected --shares 0.5,0.6,0.7,0.8,1.0 \
    --methods "steps by gradient,corrected steps by gradient"

#!/usr/bin/env bash
# papers/findings/2026-11-22-local-recipe.md, the three seeds of its end; its sweeps are not kept. Ten minutes of training
# a seed on two quiet cores, and about as long again for the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup
.venv/bin/pgolf data sotu
.venv/bin/pgolf record local --seeds 1337,1338,1339

#!/usr/bin/env bash
# papers/findings/2026-11-22-five-records-local.md: about 80 minutes on two quiet cores.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup
.venv/bin/pgolf data sotu
for number in 194 315 332 531 534; do
    .venv/bin/pgolf record "local-pr$number" --seeds 1337,1338,1339
done
.venv/bin/pgolf compare runs/local_10min_1mb/local-pr{194,315,332,531,534}

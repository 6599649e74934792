#!/usr/bin/env bash
# papers/findings/2026-11-22-speed.md: tables on the screen, JSON in runs/bench. Wants a machine on which nothing else runs.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup
.venv/bin/pgolf bench --recipes local
.venv/bin/pgolf bench --recipes pr315 --measures packing
.venv/bin/pgolf bench --recipes pr315 --measures step
.venv/bin/pgolf bench --recipes pr315 --measures newton_schulz

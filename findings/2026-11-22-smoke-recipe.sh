#!/usr/bin/env bash
# papers/findings/2026-11-22-smoke-recipe.md, the recipe that was chosen: what `make record` does, ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
make record

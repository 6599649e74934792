#!/usr/bin/env bash
# scipy 1.17.1: Dunnett's corrected p-value of a clear improvement is far below the uncorrected one, down to exactly zero.
#
# Dunnett's test compares several arms with one baseline, as a sweep does, and corrects for their number: its p can only be
# larger than the t test's with the same pooled spread. `scipy.stats.dunnett` integrates by random points, and what they
# miss is the tail of the spread's own distribution, which with three seeds a group is where all of a small p comes from. Down to
# 0.001 it is right within some percent; below, it is too small by any factor, another in every call, and nothing tells. At
# the effects of this field (d = 8 and more) a claim of 1e-10 or 0 is really 2e-6. Tukey's test (`tukey_hsd`) and the
# t test's p times the number of arms (Bonferroni) do not have it.
#
# Expected: 2e-6 within a tenth, or a warning. Seen on 2026-11-30 with numpy 2.4.6, two arms, three seeds each; smallest and
# largest p of five calls, the p by integration over the spread, and that of the t test without any correction:
#   t = -3.94    0.0134 to 0.0137      0.01356    0.00763      t = -10.29   3.5e-05 to 7.8e-05   8.97e-05   4.93e-05
#   t = -19.80   2.5e-10 to 2.8e-07    1.96e-06   1.07e-06     t = -64.23   0 to 0               1.75e-09   9.58e-10
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
cat > dunnett.py <<'PY'
import numpy as np
from scipy import integrate, special, stats

def by_integration(t, arms, freedom):
    """P(the largest of |t| over these arms is above t), groups of one size: over the spread, then over the baseline's mean."""
    z, spread = np.linspace(-12, 12, 4001), np.linspace(1e-6, 4, 4001)
    def beyond(s):
        outside = special.ndtr(-(z + t * s * 2**0.5)) + special.ndtr(z - t * s * 2**0.5)  # of one arm, given z
        return integrate.simpson(stats.norm.pdf(z) * (1 - (1 - outside) ** arms), x=z)
    density = stats.chi.pdf(spread * freedom**0.5, freedom) * freedom**0.5
    return integrate.simpson(density * np.array([beyond(s) for s in spread]), x=spread)

draw = np.random.default_rng(1)
baseline, noise = draw.normal(1.28, 0.0006, 3), draw.normal(0, 0.0006, (2, 3))
as_seen = []
for d in (2, 6, 12, 40):
    found = [stats.dunnett(1.28 - d * 0.0006 + noise[0], 1.28 + noise[1], control=baseline, rng=seed) for seed in range(5)]
    t, p = abs(found[0].statistic[0]), sorted(float(each.pvalue[0]) for each in found)
    right, uncorrected = by_integration(t, 2, 6), 2 * stats.t.sf(t, 6)
    print(f"d = {d}, t = {-t:.2f}: p {p[0]:.3g} to {p[-1]:.3g}; by integration {right:.3g}; uncorrected {uncorrected:.3g}")
    assert uncorrected < right < 2 * uncorrected
    as_seen.append(p[-1] < uncorrected / 3 if d >= 12 else abs(p[2] / right - 1) < 0.5)
raise SystemExit(0 if all(as_seen) else "CHANGED")
PY
venv/bin/python dunnett.py
echo "as seen: a correction for several arms makes p smaller"

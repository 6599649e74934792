#!/usr/bin/env bash
# scipy 1.17.1: rounding the scores of three seeds to thousandths makes their difference significant, 0.047 for 0.1.
#
# Where every score of one recipe is above every score of the other, three seeds each, a two-sided rank test can give no less
# than 2 / 20 = 0.1: there are twenty ways to deal six ranks. `mannwhitneyu` says so while no two scores are alike. With a tie
# it leaves the exact distribution without a word for the normal one, which at this size is far too small: the less one knows
# of the scores, the surer it gets. Tables of this field are rounded to 3 or 4 decimals and their spread is 0.0005, so
# ties are the rule. `kruskal`, the same test for two groups, has no exact form at all: 0.0495 without a tie. Exact also with
# ties: method=PermutationMethod(), or `permutation_test`.
#
# Expected: 0.1, or more where rounding takes something away. Seen on 2026-11-30 with numpy 2.4.6; p of 1.28013, 1.27991, 1.28044
# against 1.27912, 1.27921, 1.27883, with 5, 4 and 3 decimals:
#   mannwhitneyu 0.1, 0.1, 0.0469   kruskal 0.0495, 0.0495, 0.0253   mannwhitneyu by permutation 0.1, 0.1, 0.1
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
cat > ranks.py <<'PY'
import numpy as np
from scipy import stats

a, b = np.array([1.28013, 1.27991, 1.28044]), np.array([1.27912, 1.27921, 1.27883])
ps = {}
for decimals in (5, 4, 3):
    pair = a.round(decimals), b.round(decimals)
    exact = stats.mannwhitneyu(*pair, method=stats.PermutationMethod())
    ps[decimals] = [float(each.pvalue) for each in (stats.mannwhitneyu(*pair), stats.kruskal(*pair), exact)]
    print(decimals, "decimals: mannwhitneyu {:.4f}, kruskal {:.4f}, mannwhitneyu by permutation {:.4f}".format(*ps[decimals]))
as_seen = abs(ps[5][0] - 0.1) < 1e-9 and ps[3][0] < 0.05 and max(found[1] for found in ps.values()) < 0.05
raise SystemExit(0 if as_seen and all(abs(found[2] - 0.1) < 1e-9 for found in ps.values()) else "CHANGED")
PY
venv/bin/python ranks.py
echo "as seen: the rounder the scores, the smaller p"

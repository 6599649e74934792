#!/usr/bin/env bash
# statsmodels 0.15.0: one diverged run makes all Benjamini-Hochberg p-values nan, though `reject` is right.
#
# A sweep compares its arms with a baseline and corrects for their number. An arm that diverged has a nan for its p-value
# (scipy gives it for scores that hold one). `multipletests` takes it without a word. Bonferroni and Holm correct the others
# as one of four tests and leave nan in its place. The false-discovery methods and Simes-Hochberg run a minimum down from the
# largest p, where nan is sorted, and all four become nan; but their first answer, whom to reject, is found by another way and
# is right, so the two halves of one result contradict each other. With Hommel's the answer is lost as well: nobody is better.
# `p < 0.05` is False for nan, so a table made from the corrected p-values says that no arm is told from nothing. scipy's
# false_discovery_control raises instead. Take such arms out first.
#
# Expected: nan for the arm, numbers for the others. Seen on 2026-11-30 with scipy 1.17.1 and numpy 2.4.6, p = 0.001, 0.01,
# 0.2 and nan, how many are rejected and how many corrected p-values are nan:
#   bonferroni, holm 2 and 1; fdr_bh, fdr_by, simes-hochberg 2 and 4; hommel 0 and 4
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6
cat > nan.py <<'PY'
import warnings

import numpy
from scipy import stats
from statsmodels.stats.multitest import multipletests

warnings.simplefilter("error")
arms = [0.001, 0.01, 0.2, float(stats.ttest_ind([1.28, 1.281, 1.279], [1.27, 1.271, float("nan")]).pvalue)]
seen = {}
for method in ("bonferroni", "holm", "fdr_bh", "fdr_by", "simes-hochberg", "hommel"):
    reject, corrected = multipletests(arms, method=method)[:2]
    seen[method] = int(reject.sum()), int(numpy.isnan(corrected).sum())
    print(f"{method}: {seen[method][0]} rejected, corrected {corrected.round(4)}; without the nan", end=" ")
    print(multipletests(arms[:3], method=method)[1].round(4))
try:
    raised = stats.false_discovery_control(arms) is None
except ValueError as error:
    raised = True
    print("scipy's false_discovery_control:", error)
expected = {method: (2, 4) for method in seen} | {"bonferroni": (2, 1), "holm": (2, 1), "hommel": (0, 4)}
raise SystemExit(0 if raised and seen == expected else "CHANGED")
PY
venv/bin/python nan.py
echo "as seen: one nan takes the others along"

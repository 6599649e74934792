#!/usr/bin/env bash
# pingouin 0.7.0: the confidence interval of a difference of 0.0014 bits per byte is [0.0, 0.0], in the numbers themselves.
#
# Its tables come with their intervals rounded to two decimals. Not for the eye: what stands in the cell is rounded, and
# neither pandas' display options nor `.loc` bring it back. The other columns (T, p, effect size) keep all digits, so nothing
# looks amiss, and in a field whose improvements are thousandths every interval reads as zero, and an interval that
# leaves zero out cannot be told from one that does not. compute_bootci rounds too, unless given decimals=. ttest
# takes no such argument: it needs `pingouin.options["round.column.CI95"] = None` for the whole process.
#
# Expected: [0.00004, 0.00269] as scipy gives it. Seen on 2026-11-29 with scipy 1.17.1, two recipes of three
# seeds, means 1.2801 and 1.2787:
#   ttest, CI95 [0.0, 0.0]   with the option [4.16e-05, 0.00269]   compute_bootci of the first mean [1.28, 1.28]
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check pingouin==0.7.0 scipy==1.17.1 numpy==2.4.6
cat > interval.py <<'PY'
import pingouin
from scipy import stats

here, there = [1.2801, 1.2795, 1.2807], [1.2789, 1.2781, 1.2792]

def interval():
    return [float(end) for end in pingouin.ttest(here, there)["CI95"].iloc[0]]

rounded = interval()
boots = [float(end) for end in pingouin.compute_bootci(here, func="mean", seed=1)]
pingouin.options["round.column.CI95"] = None
whole = interval()
right = stats.ttest_ind(here, there).confidence_interval()
print("rounded:", rounded, "with the option:", whole, "scipy:", float(right.low), float(right.high))
print("bootstrap of the mean of", here, boots)
same = abs(whole[0] - right.low) < 1e-9 and abs(whole[1] - right.high) < 1e-9
raise SystemExit(0 if rounded == [0.0, 0.0] and boots == [1.28, 1.28] and same and right.low > 0 else "CHANGED")
PY
venv/bin/python interval.py
echo "as seen: the interval itself is rounded to hundredths"

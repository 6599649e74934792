#!/usr/bin/env bash
# baycomp 1.0.3: one pair of scores makes a recipe better with probability 1; of equal recipes a quarter are told apart.
#
# It is the package to the Bayesian tests that are put in the place of p-values (Benavoli and others, 2017).
# `two_on_multiple`, and the classes SignedRankTest and SignTest behind it, draw how the data weigh against one invented pair
# whose difference is 0, half as heavy as a real one. With a region of equivalence the invented pair lies in it, and few data
# leave doubt. With rope=0, which is what is asked for when nothing is given, the invented pair counts half for either side; a
# sample says "better" as soon as more than half of its weight does, so where all real pairs lean one way every sample says
# so, be it one pair. Three paired seeds lean one way by chance in a quarter of all cases, and the answer is then exactly 1,
# without a warning. Five seeds are little better. Give a rope. The t test for one data set, CorrelatedTTest, does not have
# it.
#
# Expected: about 0.1 of equal recipes above 0.95 on one side or the other. Seen on 2026-11-30 with numpy 2.4.6 and scipy
# 1.17.1, 400 pairs of equal recipes, their seeds' standard deviation 0.0005, share that gets above 0.95 for either side:
#   one pair, 1.2801 and 1.2800: probability 1, with rope=0.00001 0.84
#   three seeds, rope=0: SignedRankTest 25 %, SignTest 25 %, all of them exactly 1; CorrelatedTTest 5 %
#   five seeds, rope=0: SignedRankTest 21 %, SignTest 16 %, half of them exactly 1; CorrelatedTTest 6 %
#   rope=0.0002: SignedRankTest 10 and 7 %, SignTest 0 and 3 %
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check baycomp==1.0.3 scipy==1.17.1 numpy==2.4.6
cat > pairs.py <<'PY'
import baycomp
import numpy

def told_apart(test, seeds, rope, cases=400):
    """Share of equal recipes of which one gets more than 0.95, and share that gets exactly 1."""
    draw = numpy.random.default_rng(seeds)
    surest = []
    for case in range(cases):
        here, there = 1.28 + draw.normal(0, 5e-4, (2, seeds))
        more = {} if test is baycomp.CorrelatedTTest else {"nsamples": 500, "random_state": case}
        answer = test.probs(here, there, rope=rope, **more)
        surest.append(max(answer[0], answer[-1]))
    return float(numpy.mean(numpy.array(surest) > 0.95)), float(numpy.mean(numpy.array(surest) == 1))

here, there = numpy.array([1.2801]), numpy.array([1.2800])
one = float(baycomp.two_on_multiple(here, there)[0])
doubt = float(baycomp.two_on_multiple(here, there, rope=1e-5)[0])
print(f"one pair: probability {one}, with a rope {doubt:.2f}")
shares = {}
for test in (baycomp.SignedRankTest, baycomp.SignTest, baycomp.CorrelatedTTest):
    for seeds in (3, 5):
        for rope in (0, 2e-4):
            shares[test.__name__, seeds, rope], certain = told_apart(test, seeds, rope)
            share = shares[test.__name__, seeds, rope]
            print(f"{test.__name__}, {seeds} seeds, rope {rope}: above 0.95 {share:.3f}, exactly 1 {certain:.3f}")
as_seen = one == 1 and doubt < 0.95 and min(shares["SignedRankTest", 3, 0], shares["SignTest", 3, 0]) > 0.19
raise SystemExit(0 if as_seen and shares["CorrelatedTTest", 3, 0] < 0.1 else "CHANGED")
PY
venv/bin/python pairs.py
echo "as seen: certain of one pair"

#!/usr/bin/env bash
# optuna 5.0.0: a random search with a seed that goes on in its storage tries the same values again: 24 trials are 8.
#
# A seed makes a search repeatable; a storage lets it go on later, or several processes share it. With both, each process
# makes the sampler anew, and RandomSampler(seed=0) begins its draws at the first, whatever trials the study holds. Three
# sittings of eight trials, or three workers of eight, are eight recipes three times over, and nothing says so. Where
# the score depends on the recipe alone, two thirds of the time buy nothing; where it does not (a seed of its own, another
# machine), the best of three runs of one recipe stands as the best of 24 recipes. TPE repeats the rest of its random
# start; QMCSampler counts in the storage and repeats nothing.
# What to do: a seed from the number of trials that are there, one for each worker, or the pickled sampler.
#
# Expected: 24 values. Seen on 2026-11-30, three processes of eight trials each on one SQLite storage, distinct values:
#   RandomSampler(seed=0) 8   TPESampler(seed=0) 22   QMCSampler(seed=0) 24   RandomSampler(seed=trials) 24
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check optuna==5.0.0 scipy==1.17.1 numpy==2.4.6
cat > sitting.py <<'PY'
"""sitting.py NAME SAMPLER SEED: eight more trials of a study in its storage; -1 as the seed: the trials there are."""
import sys
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
name, sampler, seed = sys.argv[1], getattr(optuna.samplers, sys.argv[2]), int(sys.argv[3])
study = optuna.create_study(storage="sqlite:///trials.db", study_name=name, load_if_exists=True)
study.sampler = sampler(seed=len(study.trials) if seed < 0 else seed)
study.optimize(lambda trial: abs(trial.suggest_float("lr", 1e-5, 1e-1, log=True) - 1e-3), n_trials=8)
PY
for seed in 0 1 -1; do
    for sampler in RandomSampler TPESampler QMCSampler; do
        for _ in 1 2 3; do venv/bin/python sitting.py "$sampler, seed $seed" $sampler $seed; done
    done
done
cat > count.py <<'PY'
import optuna

distinct = {}
for study in optuna.get_all_study_summaries("sqlite:///trials.db"):
    trials = optuna.load_study(storage="sqlite:///trials.db", study_name=study.study_name).trials
    distinct[study.study_name] = len({trial.params["lr"] for trial in trials})
    print(f"{study.study_name}: {len(trials)} trials, {distinct[study.study_name]} distinct learning rates")
as_seen = all(distinct[f"RandomSampler, seed {seed}"] == 8 for seed in (0, 1)) and distinct["QMCSampler, seed 0"] == 24
raise SystemExit(0 if as_seen and distinct["RandomSampler, seed -1"] == 24 else "CHANGED")
PY
venv/bin/python count.py
echo "as seen: each sitting begins the draws again"

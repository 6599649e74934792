#!/usr/bin/env bash
# torchdata 0.11.0: a loader resumed within an epoch ends it rightly, and shuffles the next epochs unlike the unbroken run.
#
# StatefulDataLoader is for runs that are stopped: its state_dict() keeps the place and the order of the epoch. Given
# shuffle=True and a generator of one's own, with num_workers=0, the resumed loader gives the rest of the epoch exactly, so
# that a test of the resumed epoch passes. But it is left with another state of the generator, and every later epoch is in
# another order than that of the run that was not stopped: the two runs do not train alike, though nothing is lost or given
# twice. With two workers they do, and also where the sampler has the generator (sampler=RandomSampler(data, generator=g)).
#
# Expected: the same order to the end. Seen on 2026-11-30 with torch 2.13.0 and numpy 2.4.6, 1,000 examples, five seeds, stopped
# after 1, 17 and 49 batches of 20, three epochs; resumed runs that go on as the unbroken one, of fifteen:
#   shuffle=True and generator, no workers: the stopped epoch 15, the next two 0 and 0; two workers, or a sampler: 15, 15, 15
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchdata==0.11.0 numpy==2.4.6
cat > resumed.py <<'PY'
import torch
from torch.utils.data import RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

DATA, BATCH, EPOCHS = list(range(1000)), 20, 3

def loader(way, seed, workers):
    generator = torch.Generator().manual_seed(seed)
    if way == "sampler":
        return StatefulDataLoader(DATA, BATCH, sampler=RandomSampler(DATA, generator=generator), num_workers=workers)
    return StatefulDataLoader(DATA, BATCH, shuffle=True, generator=generator, num_workers=workers)

def epoch(batches):
    return [int(x) for batch in batches for x in batch]

def resumed(way, seed, workers, stop):
    first = loader(way, seed, workers)
    seen = []
    for batch in first:
        seen += batch.tolist()
        if len(seen) == stop * BATCH:
            break
    second = loader(way, seed, workers)
    second.load_state_dict(first.state_dict())
    return [seen + epoch(second), *(epoch(second) for _ in range(EPOCHS - 1))]

alike = {}
for way, workers in (("loader", 0), ("loader", 2), ("sampler", 0)):
    counts = [0] * EPOCHS
    for seed in range(5):
        unbroken = loader(way, seed, workers)
        orders = [epoch(unbroken) for _ in range(EPOCHS)]
        assert all(sorted(order) == DATA for order in orders) and orders[0] != orders[1]
        for stop in (1, 17, 49):
            again = resumed(way, seed, workers, stop)
            assert all(sorted(order) == DATA for order in again)
            counts = [count + (here == there) for count, here, there in zip(counts, orders, again)]
    alike[way, workers] = counts
    print(f"generator of the {way}, {workers} workers: alike in epochs 1, 2, 3: {counts}")
as_seen = alike["loader", 0] == [15, 0, 0] and alike["loader", 2] == alike["sampler", 0] == [15] * EPOCHS
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python resumed.py
echo "as seen: the resumed epoch is right, the next ones are others"

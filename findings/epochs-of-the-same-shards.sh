#!/usr/bin/env bash
# webdataset 1.0.2: with loader workers every epoch drawn by a seed is the first one: ten epochs see 15 shards of 64.
#
# ResampledShards draws shards with replacement, as is usual for training on several nodes; with_epoch(n) says how many
# samples are called an epoch. With deterministic=True the draws depend on a seed, the worker and the epoch. The epoch is counted
# in the object itself, and a worker of torch's DataLoader gets a fresh copy of it each epoch: it is 0 for ever. So the first n
# samples come again and again, and a model is trained on as many shards as one epoch draws. Without workers, or with
# persistent_workers=True, it is as said. `detshuffle` counts alike: the same order each epoch. And plain `shardshuffle`, which has
# no epoch but draws its seed once, gives one order of shards for all epochs whatever the workers; only the samples
# in the buffer of .shuffle() move. No warning; the documentation calls detshuffle "a reproducible shuffling mechanism
# based on a seed and epoch". For detshuffle an issue tells of it since 2022, for shardshuffle since 2026.
#
# Expected: other draws and orders each epoch. Seen on 2026-11-30 with torch 2.13.0 and numpy 2.4.6, 64 shards of 20 samples, ten
# epochs, drawn ones of 320 samples in all; different epochs, shards seen at all, with no worker, two, two that persist:
#   ResampledShards(deterministic=True)   10, 56    1, 15    10, 63      without a seed    10 and about 60, whatever the workers
#   shardshuffle=64                        1, 64    1, 64     1, 64      with detshuffle   10, 64    1, 64    10, 64
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 webdataset==1.0.2 numpy==2.4.6
cat > epochs.py <<'PY'
import torch
import webdataset

for shard in range(64):
    with webdataset.TarWriter(f"shard-{shard:02d}.tar") as tar:
        for sample in range(20):
            tar.write({"__key__": f"{shard:02d}-{sample:02d}", "txt": "some text"})
shards = "shard-{00..63}.tar"

def drawn(workers, deterministic):
    source = webdataset.ResampledShards(shards, seed=1, deterministic=deterministic)
    return webdataset.DataPipeline(source, webdataset.tarfile_to_samples()).with_epoch(320 // max(workers, 1))

makers = {
    "drawn by a seed": lambda workers: drawn(workers, True),
    "drawn by chance": lambda workers: drawn(workers, False),
    "shardshuffle": lambda workers: webdataset.WebDataset(shards, shardshuffle=64),
    "detshuffle": lambda workers: webdataset.WebDataset(shards, shardshuffle=64, detshuffle=True, seed=1),
}
seen = {}
for name, make in makers.items():
    for workers, persistent in ((0, False), (2, False), (2, True)):
        loader = torch.utils.data.DataLoader(make(workers), None, num_workers=workers, persistent_workers=persistent)
        epochs = [[sample["__key__"] for sample in loader] for _ in range(10)]
        different = len({tuple(epoch) for epoch in epochs})
        shards_seen = len({key[:2] for epoch in epochs for key in epoch})
        seen[name, workers, persistent] = different, shards_seen
        print(f"{name}, {workers} workers{' that persist' * persistent}: {different} different epochs of 10, "
              f"{len(epochs[0])} samples each, {shards_seen} shards of 64 seen")
once = {("drawn by a seed", 2, False), ("detshuffle", 2, False)} | {key for key in seen if key[0] == "shardshuffle"}
as_seen = all(different == (1 if key in once else 10) for key, (different, _) in seen.items())
few, many = seen["drawn by a seed", 2, False][1], min(seen["drawn by a seed", 2, True][1], seen["drawn by a seed", 0, False][1])
raise SystemExit(0 if as_seen and few <= 20 and many > 50 else "CHANGED")
PY
venv/bin/python epochs.py 2> log || { tail -5 log; exit 1; }
echo "as seen: every epoch is the first one"

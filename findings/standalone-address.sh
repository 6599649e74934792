#!/usr/bin/env bash
# torchrun 2.13.0 --standalone: the ranks do not meet at localhost but at this machine's own name.
#
# The help says that --standalone starts "a local standalone rendezvous backend", and its endpoint is localhost:0. But
# that is only where the launcher meets itself: each rank gets MASTER_ADDR from socket.getfqdn(). On a machine whose name
# nothing resolves (a container, a laptop off its network) the launcher waits 300 seconds for itself and then fails with
# DistNetworkError. With --local-addr=localhost beside it, ranks meet at localhost, and such a machine trains at once.
#
# Needs unshare (util-linux) with user namespaces, to call the machine something else for a moment. Seen on 2026-11-28 with
# torch 2.13.0 (CPU):
#   --standalone                             MASTER_ADDR = the machine's name
#   --standalone --local-addr=localhost      MASTER_ADDR = localhost
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
echo 'import os; print(os.environ["MASTER_ADDR"])' > rank.py
called() { unshare --user --map-root-user --uts sh -c 'hostname "$0"; exec "$@"' "$@"; }
run() { called "$name" venv/bin/python -m torch.distributed.run "$@" rank.py 2>/dev/null; }
name=127.0.0.2 # a name that every machine can resolve, so that nothing has to wait
plain=$(run --standalone)
local=$(run --standalone --local-addr=localhost)
echo "on a machine called $name: --standalone $plain; with --local-addr=localhost $local"
[ "$plain" = "$name" ] && [ "$local" = localhost ] || { echo "CHANGED"; exit 1; }
echo "as seen: --standalone alone goes by the machine's name"

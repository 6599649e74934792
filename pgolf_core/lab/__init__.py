"""Everything around the core: corpora, run folders, notebooks, statistics, figures, reports, the command line.

ROOMS is the one list of the order: a room imports only rooms above it, and the core. `pgolf X` is the room X.
"""

ROOMS = (
    "shared", "recipes", "export", "data", "compare", "report", "slurm", "record", "sweep", "status", "gallery", "look",
    "plan", "submission", "bench", "verify", "eval", "lab", "cli",
)  # fmt: skip

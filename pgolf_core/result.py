"""What a finished seed says of itself: result.json, one dataclass, read without waiting for torch to be imported."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.base.names import SEED_RESULT
from pgolf_core.base.strict import build


@dataclass(frozen=True)
class Result:
    """What result.json says of a seed. Bpb is bits per byte, losses are nats per token, seconds are wall time."""

    recipe: str
    track: str
    seed: int
    roundtrip_bpb: float
    roundtrip_loss: float
    sliding_bpb: float
    sliding_loss: float
    artifact_bytes: int
    code_bytes: int
    total_bytes: int
    cap_bytes: int
    parameters: int
    steps: int
    tokens: int
    stopped_by: str
    """clock or iterations."""
    resumed_at_steps: list[int]
    seconds: dict[str, float]
    """By part, with their sum as `total`; `train` alone counts against the training cap."""
    val_targets: int
    val_bytes: int
    sliding_stride: int
    window: int
    recipe_sha256: str
    data_sha256: str
    """Of the dataset's manifest; empty where there is none, as for a script that was given shards alone."""
    core_sha256: str
    """Of the package's sources; empty in a script, whose own text is `script_sha256`."""
    script_sha256: str
    raw_bpb: float | None = None
    """This and the four below: of weights in memory, by notebook 04; a script does not take them."""
    raw_loss: float | None = None
    averaged_bpb: float | None = None
    averaged_loss: float | None = None
    raw_targets: int | None = None
    ranks: int = 1
    scores_sha256: str | None = None
    """Of scores.npz, the nats of each window, by which a sample of them can be checked."""
    adapted_bpb: float | None = None
    """This and the two below: where the recipe adapts the packed weights to what has been scored."""
    adapted_loss: float | None = None
    adapt_sha256: str | None = None
    """Of adapt.npz: what was scored under which weights."""
    over_cap_seconds: float | None = None
    """By how much training passed the recipe's `max_seconds`, where it did: such a run does not count."""
    correction: dict[str, Any] | None = None
    """What correcting the rounding did, where the recipe asks for it."""

    def to_dict(self) -> dict[str, Any]:
        """The values that are known, in the order above, ready for JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def read(cls, path: Path | str) -> "Result":
        """A result.json; UserError names the file, the key and what is wrong with it."""
        values = read_json(path)
        try:
            return build(cls, values, str(path))
        except UserError as error:
            raise UserError(f"{error}; run the seed again with --fresh") from None

    def write(self, folder: Path) -> None:
        """As `folder`/result.json."""
        write_json(folder / SEED_RESULT, self.to_dict())

"""A profile: whose time counts, and a table of operators that fits 80 columns."""

from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from pgolf_core.lab.bench.profile import by_time, profile_text


def row(key: str, where: str, cpu: float, device: float, is_note: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        key=key, count=1, device_type=getattr(DeviceType, where), is_user_annotation=is_note,
        self_cpu_time_total=cpu, self_device_time_total=device,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("cuda", [("gemm", 0.75), ("copy", 0.25)]), ("cpu", [("aten::copy_", 0.8), ("aten::mm", 0.2)])],
)
def test_shares_are_of_kernels_on_a_gpu_where_what_launches_them_has_their_time_too(kind: str, expected: list) -> None:
    rows = [row("aten::mm", "CPU", 1, 3), row("aten::copy_", "CPU", 4, 1), row("gemm", "CUDA", 0, 3)]
    rows += [row("copy", "CUDA", 0, 1), row("ProfilerStep#1", "CUDA", 0, 4, is_note=True)]
    assert [(one["name"], one["share"]) for one in by_time(rows, kind)] == expected


def test_a_profile_is_a_sentence_and_a_table() -> None:
    operator = {"name": "aten::" + "mm" * 60, "calls": 3, "self_seconds": 0.25, "share": 0.5}
    seconds = {"micro_batch": 1.0, "update": 0.5, "muon": 0.25}
    about = {"recipe": "tiny", "arm": "fast", "micro_batch_tokens": 1024, "path": "p", "by": "self cpu time"}
    text = profile_text({**about, "step_seconds": seconds, "operators": [operator]})
    assert max(map(len, text.splitlines())) <= 80
    for part in ("step of tiny, fast arm", "1,024 tokens", "update 0.500", "50.0%", "0.2500"):
        assert part in text, part

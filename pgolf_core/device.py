"""Every choice that depends on the machine: device, autocast, compilation, threads. One line says what is active."""

from __future__ import annotations

import contextlib
import shutil
import sysconfig
from pathlib import Path

import torch


def pick_device() -> torch.device:
    """The CUDA device of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def has_bfloat16_hardware(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware (AVX512-BF16 or AMX on a CPU, Ampere or later on CUDA)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast_dtype(device: torch.device, mode: str) -> torch.dtype:
    """bfloat16 if `mode` is auto and the hardware has it, else float32."""
    return torch.bfloat16 if mode == "auto" and has_bfloat16_hardware(device) else torch.float32


def autocast(device: torch.device, mode: str) -> contextlib.AbstractContextManager:
    """Autocast context for a forward pass; `mode` is schedule.autocast (auto or off)."""
    if autocast_dtype(device, mode) is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype that the residual stream has on x's device: autocast's where it is on, else float32."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def why_not_compile(device: torch.device) -> str:
    """Empty if torch.compile can work on this machine, else the reason in a few words."""
    if device.type == "cuda":
        return ""
    compilers = torch._inductor.config.cpp.cxx
    if not any(name and shutil.which(name) for name in compilers):
        return "no C++ compiler found"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's C headers not found"
    return ""


def describe(device: torch.device, autocast_mode: str, compile_mode: str, attention: str) -> str:
    """One line naming the active path, for logs: device, threads, dtype, compiled or eager and why, attention."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    dtype = str(autocast_dtype(device, autocast_mode)).removeprefix("torch.")
    reason = "schedule.compile = off" if compile_mode == "off" else why_not_compile(device)
    graph = f"eager ({reason})" if reason else "compiled"
    return f"device: {name} | compute: {dtype} | graph: {graph} | attention: {attention}"

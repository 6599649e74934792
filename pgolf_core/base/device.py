"""Every choice that depends on the machine: device, autocast, compilation, threads. One line says what is active."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

GLIBC_KEEPS = {-3: 2**30, -1: 2**31 - 1}
"""mallopt's M_MMAP_THRESHOLD (blocks from here on are mapped) and M_TRIM_THRESHOLD (free bytes before any go back)."""


def pick_device() -> torch.device:
    """The CUDA device of this process if there is one, its float32 matrix products in TF32; else the CPU."""
    if not torch.cuda.is_available():
        keep_freed_memory()
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")  # the way that Inductor asks about, too
    return torch.device("cuda", torch.cuda.current_device())


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees; returns whether it does (other C libraries are left as they are).

    By default every large tensor's pages go back to the system and come back zeroed, an eighth of a small CPU step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, at_least_bytes) for option, at_least_bytes in GLIBC_KEEPS.items())


def give_back_freed_memory() -> None:
    """Have glibc return what is kept after all: what needed much once, as a compiler, leaves its pages to others."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread while inside: for many small products, which several wait for longer than they work, and
    for numbers that must not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def pool_of(workers: int) -> Iterator[ThreadPoolExecutor]:
    """That many threads, each with its share of torch's own, which are one's own again afterwards."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch on `device`; CUDA copies it from pinned memory while the program goes on."""
    return (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True)


def has_bfloat16_hardware(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware (AVX512-BF16 or AMX on a CPU, Ampere or later on CUDA)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast_dtype(device: torch.device, mode: str) -> torch.dtype:
    """bfloat16 if `mode` is auto and the hardware has it, else float32."""
    return torch.bfloat16 if mode == "auto" and has_bfloat16_hardware(device) else torch.float32


def autocasting(device: torch.device, mode: str) -> torch.autocast:
    """Autocast context for a forward pass; `mode` is schedule.autocast (auto or off)."""
    return torch.autocast(device.type, torch.bfloat16, autocast_dtype(device, mode) is torch.bfloat16)


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype that the residual stream has on x's device: autocast's where it is on, else float32."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


@functools.cache
def why_not_compile(device: torch.device) -> str:
    """Empty if torch.compile works on this machine, which is tried, else torch's reason without paths."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=device))
    except Exception as error:
        return " ".join(word for word in str(error).split() if "/" not in word)[:80] or type(error).__name__
    return ""


def describe(device: torch.device, autocast_mode: str, compile_mode: str, attention: str) -> str:
    """One line naming the active path, for logs: device, threads, dtype, compiled or eager (and why), attention."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    dtype = str(autocast_dtype(device, autocast_mode)).removeprefix("torch.")
    reason = "off" if compile_mode == "off" else why_not_compile(device)
    graph = f"eager ({reason})" if reason else "compiled"
    return f"device: {name} | compute: {dtype} | graph: {graph} | attention: {attention}"


def peak_memory(device: torch.device) -> str:
    """The line on the most memory that CUDA tensors have held, as the field logs it; empty on a CPU."""
    if device.type != "cuda":
        return ""
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return f"peak memory allocated: {allocated >> 20} MiB reserved: {reserved >> 20} MiB"

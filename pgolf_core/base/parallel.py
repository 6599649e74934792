"""Ranks: the processes that torchrun starts and that train together. One process alone needs none of this.

Every rank holds all weights, moments and averages. What is shared out is a step's tokens, the matrices that
Newton-Schulz works on, and the windows that are scored; what travels is gradients, updates and a few numbers.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pgolf_core.base.files import UserError

ALONE_SAYS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
"""The variables by which torchrun tells a rank its place, as they would be without it."""
BUCKET_ELEMENTS = 2**22
"""Gradients travel together up to this many numbers (16 MiB of float32): small ones cost no trip of their own."""
PATIENCE = datetime.timedelta(seconds=600)
"""How long a rank waits for another that lives but does not answer: longer than ranks differ in compiling."""


@dataclass(frozen=True)
class World:
    """This process among the ranks. Alone (the default), every method hands back what it was given, untouched."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the logs and files."""
        return self.rank == 0

    @property
    def backend(self) -> str:
        """What carries the tensors, for logs: nccl or gloo."""
        return "nccl" if torch.cuda.is_available() else "gloo"

    def mean_(self, tensors: list[Tensor]) -> None:
        """Average tensors of one dtype in place over the ranks, in buckets that are all on their way at once."""
        if self.size == 1:
            return
        travelling = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            travelling.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in travelling:
            work.wait()
            flat.div_(self.size)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def shared_out(self, work: Callable[[Tensor], Tensor], stack: Tensor) -> Callable[[], Tensor]:
        """Begin `work` on a stack [n, ...], each rank on its share of the n; the call that returns ends it.

        `work` must treat the n apart and keep the shape. It is done here and now; only its results are still under way,
        so that the caller can go on. Shares are equal: where the ranks do not divide n, the last are filled with zeros.
        """
        if self.size == 1:
            done = work(stack)
            return lambda: done
        share = -(-len(stack) // self.size)
        mine = stack[self.rank * share : (self.rank + 1) * share]
        padding = stack.new_zeros(share - len(mine), *stack.shape[1:])
        part = work(torch.cat((mine, padding))).contiguous()
        whole = part.new_empty(share * self.size, *part.shape[1:])
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # before torch 2.13
        gathering = gather(whole, part, async_op=True)

        def finish() -> Tensor:
            gathering.wait()
            return whole[: len(stack)]

        return finish

    def largest(self, *values: float) -> tuple[float, ...]:
        """The largest of each value over the ranks, which also meet here. Travels on the CPU: no wait for a GPU."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return tuple(numbers.tolist())

    def meet(self) -> None:
        """Wait until every rank is here."""
        self.largest(0.0)

    def fill_(self, values: Tensor) -> None:
        """Give every rank all of a vector of which each rank has written some places and left the others NaN.

        A place that no rank has written becomes -inf; so does a NaN that was written.
        """
        if self.size > 1:
            values.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            dist.all_reduce(values, op=dist.ReduceOp.MAX)

    @torch.no_grad()
    def copy_first_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite every rank's tensors with the first rank's."""
        if self.size > 1:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


ALONE = World()


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Cut the list, in order, wherever the next tensor would make a bucket larger than BUCKET_ELEMENTS."""
    bucket: list[Tensor] = []
    elements = 0
    for tensor in tensors:
        if bucket and elements + tensor.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, elements = [], 0
        bucket.append(tensor)
        elements += tensor.numel()
    if bucket:
        yield bucket


@contextlib.contextmanager
def join() -> Iterator[World]:
    """Join the ranks that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK) and leave them in the end; else be alone.

    Each rank takes the CUDA device of its number on its machine; tensors on the CPU always travel by gloo.
    """
    try:
        rank, size, local_rank = (int(os.environ.get(name, default)) for name, default in ALONE_SAYS.items())
    except ValueError as error:
        raise UserError(f"{', '.join(ALONE_SAYS)}: {error}; unset what torchrun did not set") from None
    device = None
    if torch.cuda.is_available():
        devices = torch.cuda.device_count()
        if local_rank >= devices:
            raise UserError(
                f"torchrun started more processes than this machine's {devices} CUDA devices; lower --nproc"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if size == 1:
        yield ALONE
        return
    backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=PATIENCE, device_id=device)
    except ValueError as error:  # WORLD_SIZE left over from elsewhere: nothing says where the others are
        raise UserError(f"WORLD_SIZE is {size}: {error}; unset what torchrun did not set") from None
    yield World(rank, size)
    dist.destroy_process_group()  # not after an error: with a rank missing it would wait


def leave(world: World) -> None:
    """End the process of a rank whose work is done and written; alone, do nothing.

    The interpreter's ordinary end can abort in a library's thread (seen with gloo, once in some hundred runs), and
    torchrun would then report a finished run as failed.
    """
    if world.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

"""Blocks on the threads of this machine. Decoders and kernels release the interpreter lock, so threads are enough."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from firstlight.sources import Block

Result = TypeVar("Result")


def run(work: Callable[[Block], Result], blocks: Iterable[Block], workers: int) -> Iterator[Result]:
    """Results of `blocks`, in their order, computed by `workers` threads, at most two blocks ahead per thread."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="firstlight") as pool:
        try:
            for block in blocks:
                pending.append(pool.submit(work, block))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

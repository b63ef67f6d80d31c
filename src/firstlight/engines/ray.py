"""Blocks on the machines of a Ray cluster (extra ``ray``). Every worker opens the source for itself."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from firstlight._extras import require
from firstlight.sources import Block, Reader

Result = TypeVar("Result")


def run(work: Callable[[Block], Result], blocks: Iterable[Block], workers: int) -> Iterator[Result]:
    """Results of `blocks`, in their order, each computed by a Ray task.

    Connects to the cluster that Ray is initialized for, or starts one of `workers` processes on this machine.
    Paths must mean the same on every node. At most two blocks per processor of the cluster are ahead.
    """
    ray = require("ray", extra="ray")
    if not ray.is_initialized():
        ray.init(num_cpus=workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    task = ray.remote(_worked)
    work_reference = ray.put(work)
    sources: dict[int, Any] = {}  # each source travels once, not with every block
    ahead = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
    pending: deque[Any] = deque()
    for block in blocks:
        samples: Any = block.samples
        if isinstance(samples, Reader):
            if id(samples.source) not in sources:
                sources[id(samples.source)] = ray.put(samples.source)
            reference = sources[id(samples.source)]
            pending.append(task.remote(work_reference, list(block.names), reference, list(samples.indices)))
        else:
            pending.append(task.remote(work_reference, list(block.names), samples, None))
        if len(pending) >= ahead:
            yield ray.get(pending.popleft())
    while pending:
        yield ray.get(pending.popleft())


def _worked(work: Callable[[Block], Result], names: list[str], samples: Any, indices: list[int] | None) -> Result:
    return work(Block(names, samples if indices is None else Reader(samples, indices)))

"""Memory for models that were built without any, and the buffers' own start."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from firstlight.errors import FirstlightError

_STATISTICS = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


def check_buffers(model: nn.Module) -> None:
    """Refuse a buffer on the meta device whose values nothing brings back.

    Raises:
        FirstlightError: slug ``values-without-rule``.
    """
    lost = [name for name, buffer in model.named_buffers() if buffer.is_meta and not _statistic(name)]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise FirstlightError(
            f"the buffer {lost[0]}{more} is on the meta device, and only the code that built it knows its values",
            "build the model on a real device, or give these buffers memory and values first",
            slug="values-without-rule",
            call="apply(plan, model)",
        )


def materialize(model: nn.Module, device: torch.device | str | None = None) -> None:
    """Give every tensor on the meta device memory, without values; tied parameters stay tied.

    Args:
        model: changed in place.
        device: where; by default the CPU, or for a DTensor the device of its mesh.
    """
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    made[id(parameter)] = _with_memory(parameter, device)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = _empty(buffer, device or "cpu")


def _with_memory(parameter: nn.Parameter, device: torch.device | str | None) -> nn.Parameter:
    where = device or (parameter.device_mesh.device_type if isinstance(parameter, DTensor) else "cpu")
    made = nn.Parameter(_empty(parameter.detach(), where), requires_grad=parameter.requires_grad)
    made.__dict__.update(parameter.__dict__)
    return made


def _empty(like: Tensor, device: torch.device | str) -> Tensor:
    if type(like) is Tensor and like.is_contiguous():
        return torch.empty(like.shape, dtype=like.dtype, device=device)
    return torch.empty_like(like, device=device)  # slow from meta, where it is Python; keeps strides and shards


def fresh_buffers(model: nn.Module) -> tuple[str, ...]:
    """Running statistics as they are before the first batch: those of other weights say nothing of these.

    Returns:
        The names of the buffers that were set.
    """
    found = {name: buffer for name, buffer in model.named_buffers() if _statistic(name)}
    for name, buffer in found.items():
        buffer.fill_(_STATISTICS[name.rpartition(".")[2]])
    return tuple(found)


def _statistic(name: str) -> bool:
    return name.rpartition(".")[2] in _STATISTICS

"""Sums that never round: NumPy object arrays of Python integers, and their way into a file."""

import base64
import dataclasses
import zlib
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Exact = NDArray[np.object_]
"""An array of Python integers, of any size."""


def exact_sum(values: NDArray[Any]) -> Exact:
    """Sum int64 values over the first axis without overflow.

    The high and low halves are added apart: 2³¹ rows cannot overflow either of them.
    """
    if values.dtype == object:
        return np.asarray(values.sum(axis=0), object)
    high = (values >> 32).sum(axis=0).astype(object)
    low = (values & 0xFFFFFFFF).sum(axis=0).astype(object)
    return np.asarray(high * (1 << 32) + low, object)


def to_float(numerator: Exact, denominator: Exact) -> NDArray[np.float64]:
    """numerator / denominator, correctly rounded to float64; nan where the denominator is 0.

    Python divides integers of any size with a single rounding, so nothing is lost before the last step.
    """
    pairs = np.broadcast(numerator, denominator)
    flat = [a / b if b else float("nan") for a, b in pairs]
    return np.array(flat, np.float64).reshape(pairs.shape)


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """An array as plain JSON values: integers as they are, everything else compressed and in base64."""
    if array.dtype == object:
        return {"integers": array.tolist()}
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(little.tobytes(), 6)).decode("ascii")
    return {"dtype": little.dtype.str, "shape": list(array.shape), "zlib": data}


def unpack(value: dict[str, Any]) -> NDArray[Any]:
    """The inverse of `pack`."""
    if "integers" in value:
        return np.array(value["integers"], object)
    data = zlib.decompress(base64.b64decode(value["zlib"]))
    array = np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"])
    return array.astype(array.dtype.newbyteorder("="))


class Packed:
    """A dataclass of arrays and plain values that can travel through JSON, field by field."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: pack(value) if isinstance(value, np.ndarray) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{name: unpack(field) if isinstance(field, dict) else field for name, field in value.items()})

"""The train-split guard: statistics for training are computed on training images only, unless told otherwise."""

import re

from firstlight.errors import FirstlightError
from firstlight.sources.source import Source, Subset

_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

_SHARD = re.compile(r"^(?:.*[-_])?(train|validation|valid|val|dev|test)[-_.]")


def splits_of(source: Source) -> dict[str, list[int]]:
    """Indices per split, where the names show at least two; else an empty dict.

    A split shows as a folder called train, val, test … at one common depth, or in the file names of shards
    and Parquet files (``train-00000-of-00002.parquet#7``). One such name alone means nothing: there are
    classes called "train".
    """
    found: dict[int, dict[str, list[int]]] = {}
    for index, name in enumerate(source.names):
        path = name.split("/")
        for depth in range(len(path)):
            split = _split_at(path, depth)
            if split is not None:
                found.setdefault(depth, {}).setdefault(split, []).append(index)
    return next((found[depth] for depth in sorted(found) if len(found[depth]) > 1), {})


def guard(source: Source, split: str | None, all_splits: bool, call: str) -> tuple[Source, str]:
    """The part of the source to use, and what provenance says of it.

    Raises:
        FirstlightError: slugs ``several-splits`` (none was named), ``no-such-split`` and ``split-or-all`` (both).
    """
    if split is not None and all_splits:
        raise FirstlightError(
            f"split {split!r} and all splits were asked for at once", "choose one", slug="split-or-all", call=call
        )
    splits = splits_of(source)
    if split is not None:
        wanted = _SPLITS.get(split.lower(), split.lower())
        if wanted not in splits:
            shown = ", ".join(sorted(splits)) or "no splits"
            raise FirstlightError(
                f"there is no split {split!r}: the names show {shown}",
                "name one of them, or leave the split out",
                slug="no-such-split",
                call=call,
            )
        return Subset(source, splits[wanted]), wanted
    if splits and not all_splits:
        sizes = ", ".join(f"{name} ({len(indices):,})" for name, indices in splits.items())
        raise FirstlightError(
            f"the names show several splits: {sizes}; statistics over test images would leak into training",
            'name one with split="train" (--split train), or take all with all_splits=True (--all-splits)',
            slug="several-splits",
            call=call,
        )
    return source, "all" if splits else ""


def _split_at(path: list[str], depth: int) -> str | None:
    if depth < len(path) - 1 and path[depth].lower() in _SPLITS:
        return _SPLITS[path[depth].lower()]
    inside_shard = depth < len(path) and (".tar" in path[depth] or ".parquet#" in path[depth])
    match = _SHARD.match(path[depth].lower()) if inside_shard else None
    return _SPLITS[match.group(1)] if match else None

"""Statistics and a few sample images → the report of a scan."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.report.document import (
    Bars,
    Block,
    Code,
    Document,
    Gallery,
    Picture,
    Section,
    Swatches,
    Table,
    Text,
    number,
    numbers,
    plural,
)
from firstlight.report.pictures import thumbnail
from firstlight.report.recipe_page import RecipeViews, recipe_section
from firstlight.statistics import Statistics

Sample = tuple[str, NDArray[Any]]
"""A name and its pixels H×W×C as counted."""

_LISTED = 200
_PANELS = 12


def scan_document(statistics: Statistics, samples: Sequence[Sample] = (), views: RecipeViews | None = None) -> Document:
    """The report of a scan."""
    verdict, tone = scan_verdict(statistics)
    location = " + ".join(str(source["location"]) for source in statistics.provenance.sources)
    sections = data_sections(statistics, samples, views)
    return Document(f"Statistics of {location}", verdict, tone, sections, footer(statistics))


def data_sections(
    statistics: Statistics, samples: Sequence[Sample], views: RecipeViews | None = None
) -> tuple[Section, ...]:
    """Everything that is said about the images."""
    sections = [
        Section("Numbers", tuple(_numbers(statistics))),
        Section("Constants to paste", tuple(_constants(statistics))),
        Section("Images", tuple(_images(statistics, samples))),
        Section("Distribution of values", tuple(_distribution(statistics))),
    ]
    if statistics.channels > 1:
        sections.append(Section("Covariance of the channels", tuple(_covariance(statistics))))
    if views is not None:
        sections.append(recipe_section(views))
    sections.append(Section("How well the mean is known", tuple(_confidence(statistics))))
    sections.append(Section("Not counted", tuple(_not_counted(statistics))))
    return tuple(sections)


def scan_verdict(statistics: Statistics) -> tuple[str, str]:
    """One line, and its tone."""
    bad = len(statistics.quarantine)
    counted = f"{plural(statistics.count, 'image')} counted exactly"
    if statistics.provenance.sample:
        counted += f" ({statistics.provenance.sample})"
    kept = "none left out" if not bad else f"{bad:,} left out with a reason"
    known = (
        f"mean known to ±{number(float(np.max(statistics.confidence)))}" if statistics.count > 1 else "one image only"
    )
    return f"{counted}, {kept}; {known}.", "warn" if bad else "good"


def footer(statistics: Statistics) -> tuple[str, ...]:
    """Provenance, one fact per line."""
    p = statistics.provenance
    sources = [f"{s['kind']} {s['location']} ({s['images']:,} images, names {s['names_hash'][:12]})" for s in p.sources]
    return (
        f"Source: {'; '.join(sources)}",
        f"Split: {p.split or 'none named'}. Transform: {p.transform}. Sample: {p.sample or 'every image'}.",
        f"Pixels: {statistics.kind}, channels {p.channel_order}, {p.orientation}; alpha: {p.alpha}; "
        f"nodata: {'none declared' if p.nodata is None else f'{p.nodata:g}'}.",
        f"Decoders: {p.decoders}. firstlight {p.version}.",
    )


def channel_names(statistics: Statistics) -> list[str]:
    """What to call the channels."""
    if statistics.channels == 3 and statistics.provenance.channel_order == "RGB":
        return ["red", "green", "blue"]
    return ["gray"] if statistics.channels == 1 else [f"band {k + 1}" for k in range(statistics.channels)]


def _numbers(s: Statistics) -> list[Block]:
    scale = s.full_scale
    rows = [
        ("mean", s.mean, "over all pixels of all images"),
        ("± 95 %", s.confidence, "half-width for the mean; the image is the unit"),
        ("std, pooled", s.std, "the standard deviation of the pixels: divide by this one"),
        ("std, mean of per-image", s.per_image_std, "what 0.229/0.224/0.225 is: without what differs between images"),
        ("minimum", s.min, ""),
        ("median", s.percentile(50), ""),
        ("maximum", s.max, ""),
    ]  # fmt: skip
    names = tuple(channel_names(s))
    table = tuple((label, *(number(float(v), 5) for v in values), note) for label, values, note in rows)
    unit = "values as stored (floats)" if scale == 1 else f"full scale = 1 (raw value {scale:,})"
    head = ("", *names, "")
    return [Table(head, table, frozenset(range(1, len(names) + 1)), f"Units: {unit}")]


def _constants(s: Statistics) -> list[Block]:
    def listed(values: NDArray[np.float64], digits: int) -> str:
        return "[" + ", ".join(f"{v:.{digits}f}" for v in values) + "]"

    blocks: list[Block] = []
    if s.full_scale == 1:
        return [Code(f"mean = {[float(v) for v in s.mean]}\nstd  = {[float(v) for v in s.std]}", "Values as stored")]
    blocks.append(
        Code(
            f"mean = {listed(s.mean, 4)}\nstd  = {listed(s.std, 4)}",
            "0 to 1 (torchvision, timm, Hugging Face, Albumentations)",
        )
    )
    raw = (listed(s.mean * s.full_scale, 3), listed(s.std * s.full_scale, 3))
    blocks.append(Code(f"mean = {raw[0]}\nstd  = {raw[1]}", f"0 to {s.full_scale} (mmengine, detectron2)"))
    order = f"Order of channels as counted: {', '.join(channel_names(s))}."
    if s.count > 1:
        order += f" As an estimate for images not seen here, {plural(s.digits, 'decimal')} of the mean can be trusted."
    blocks.append(Text(order))
    return blocks


def _images(s: Statistics, samples: Sequence[Sample]) -> list[Block]:
    blocks: list[Block] = []
    if samples:
        blocks.append(Gallery(tuple(thumbnail(pixels, name) for name, pixels in samples)))
    else:
        blocks.append(Text("No sample images: the source could be read only once."))
    if s.mean_image is not None and s.std_image is not None:
        h, w, _ = s.mean_image.shape
        pictures = (
            _full_scale_picture(s.mean_image, s, f"mean image, {h}×{w} (AlexNet)"),
            _full_scale_picture(s.std_image, s, "standard deviation of each position"),
        )
        blocks.append(Gallery(pictures, 160))
    else:
        blocks.append(Text("No mean image: the images differ in size (a resize or crop gives them one)."))
    heights, widths = s.tally.heights, s.tally.widths
    sizes = f"Heights {min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)} pixels as stored."
    modes = tuple((mode, f"{count:,}") for mode, count in s.tally.modes.most_common())
    blocks += [Text(sizes), Table(("stored as", "images"), modes, frozenset({1}))]
    return blocks


def _full_scale_picture(image: NDArray[np.float64], s: Statistics, caption: str) -> Picture:
    if s.full_scale == 1:
        return thumbnail(image, caption)
    return thumbnail(np.rint(255 * np.nan_to_num(image)).astype(np.uint8), caption)


def _distribution(s: Statistics) -> list[Block]:
    names, bars = channel_names(s), 64
    if s.full_scale == 1:
        low, high = float(np.nanmin(s.percentile(0.1))), float(np.nanmax(s.percentile(99.9)))
        if not high > low:
            return [Text("All values are equal.")]
        edges = np.linspace(low, high, bars + 1)
        group = np.clip(np.searchsorted(edges, s.bins, side="right") - 1, 0, bars - 1)
        inside = (s.bins >= low) & (s.bins <= high)
        heights = np.stack([np.bincount(group[inside], row[inside], minlength=bars) for row in s.histogram])
    else:
        edges = np.linspace(0, 1, bars + 1)
        heights = s.histogram.reshape(s.channels, bars, -1).sum(axis=2).astype(np.float64)
    shares = heights / np.maximum(heights.sum(axis=1, keepdims=True), 1)
    tones = names if names[0] in ("red", "gray") else ["violet"] * len(names)
    series = tuple(
        (name, tone, tuple(float(v) for v in row))
        for name, tone, row in zip(names[:_PANELS], tones, shares, strict=False)
    )
    clipped = [(int(row[0]), int(row[-1]), int(row.sum())) for row in s.histogram]
    blocks: list[Block] = [
        Bars(tuple(float(e) for e in edges), series, "Share of values per bar, all channels on one scale.")
    ]
    if s.channels > _PANELS:
        blocks.append(Text(f"The first {_PANELS} of {s.channels} channels are drawn; the file holds all."))
    if s.full_scale > 1:
        shown = "; ".join(
            f"{name} {100 * low / max(n, 1):.2f} % at 0 and {100 * high / max(n, 1):.2f} % at full scale"
            for name, (low, high, n) in zip(names, clipped, strict=True)
        )
        blocks.append(Text(f"Clipped values: {shown}."))
    rows = tuple((f"{q:g} %", *(number(float(v), 5) for v in s.percentile(q))) for q in (0.5, 5, 25, 50, 75, 95, 99.5))
    blocks.append(Table(("percentile", *names), rows, frozenset(range(1, len(names) + 1)), "Percentiles", folded=True))
    return blocks


def _covariance(s: Statistics) -> list[Block]:
    names = channel_names(s)
    numeric = frozenset(range(1, len(names) + 1))
    rows = tuple((name, *(number(float(v), 5) for v in row)) for name, row in zip(names, s.covariance, strict=True))
    blocks: list[Block] = [Table(("covariance", *names), rows, numeric)]
    if not np.isfinite(s.covariance).all():
        return [*blocks, Text("No pixel is valid in every channel, so there are no axes.")]
    values, vectors = s.eigen
    share = values / max(values.sum(), 1e-300)
    axes = tuple(
        (f"axis {k + 1}", number(float(values[k]), 6), f"{100 * share[k]:.1f} %", numbers(vectors[:, k], 4))
        for k in range(len(values))
    )
    blocks.append(Table(("", "eigenvalue", "of the variance", "eigenvector"), axes, frozenset({1, 2, 3})))
    if names[0] == "red" and s.full_scale > 1:
        steps = np.linspace(-2, 2, 25)
        strips = tuple(
            (
                f"axis {k + 1}: {100 * share[k]:.1f} % of the variance",
                tuple(tuple(float(c) for c in s.mean + t * np.sqrt(values[k]) * vectors[:, k]) for t in steps),
            )
            for k in range(3)
        )
        blocks.append(
            Swatches(strips, "From two standard deviations below the mean colour to two above, along each axis.")
        )
    return blocks


def _confidence(s: Statistics) -> list[Block]:
    if s.count < 2:
        return [Text("One image says nothing about how images differ; there is no interval.")]
    width, needed = float(np.max(s.confidence)), s.images_for_next_digit
    text = (
        f"Pixels of one image are alike, so the interval treats the image as the unit: ±{number(width, 5)} at 95 % "
        f"for the widest channel, if these {plural(s.count, 'image')} are a random sample of those to come. "
    )
    if needed is not None:
        text += (
            f"That fixes {plural(s.digits, 'decimal')}; the next one would need about {needed - s.count:,} more images "
            f"({needed:,} in all)."
        )
    return [Text(text)]


def _not_counted(s: Statistics) -> list[Block]:
    blocks: list[Block] = []
    rows = tuple((name, reason) for name, reason in s.quarantine[:_LISTED])
    if rows:
        blocks.append(Table(("image", "why it was left out"), rows, caption=plural(len(s.quarantine), "image")))
    else:
        blocks.append(Text("Every image was read and counted."))
    if len(s.quarantine) > _LISTED:
        blocks.append(Text(f"The first {_LISTED} are shown; the JSON file lists all {len(s.quarantine):,}."))
    remarks = tuple((remark, f"{count:,}") for remark, count in s.tally.remarks.most_common())
    if remarks:
        blocks.append(Table(("what was done on the way", "images"), remarks, frozenset({1})))
    others = sum(source["other_files"] for source in s.provenance.sources)
    if others:
        blocks.append(
            Text(f"{plural(others, 'other file')} in the source are not images by their suffix and were not opened.")
        )
    return blocks

"""FL105."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from firstlight._typing import Floats
from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.door import first_layer
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.pixels import channels_are_last, has_convolutions, pixels
from firstlight.diagnosis.rule import Rule
from firstlight.graph.vocabulary import CONVOLUTION

_DIP = np.log(1.1)
_BY_CHANCE = 0.05
_DOUBT = 0.001
_ALIKE = 0.5
"""Correlation of the edges of two channels, below which they are no colours of one picture; see the page."""


class SwappedLayout(Rule):
    """Images that lie in memory as H×W×C are read as C×H×W.

    **Measured.** The mean squared difference of values k places apart in a row, D(k). In images that were reshaped
    instead of permuted, neighbours in a row are red, green and blue of one pixel, so values C places apart are more
    alike than those C−1 or C+1 apart: a dip of D at C. Then the "channels" are different thirds of the picture, and
    hardly correlate at one place. Also the shape: ``[N, H, W, 3]`` in front of a convolution.

    **Expected.** D grows with distance in every image that has some smoothness, and in white noise it is flat; over 100
    photographs at three sizes log √(D(C−1)·D(C+1))/D(C) had a median of −0.08, and above 0.1 in one. After a reshape
    its median is above 1. The dip must be there in so many images that chance (5 % each) explains it with
    p < 0.001, *and* the channels must correlate by less than 0.5.

    **Usual causes.** ``torch.from_numpy(batch).reshape(n, 3, h, w)`` or ``.view`` on arrays from OpenCV, Pillow or an
    ``.npz``, where ``permute`` is meant; a transform that was left out.

    **Mends it.** ``images.permute(0, 3, 1, 2)``, from the array as it was. Shapes agree with either, so nothing else
    will complain; a network of linear layers can do with it, a convolution cannot.
    """

    code = "FL105"
    name = "swapped-layout"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        images = case.images
        if images is None:
            raise NotChecked("no input is a batch of images with four axes")
        if channels_are_last(images):
            if not has_convolutions(case.model) or (
                case.measured is not None and not _taken_for_channels(case, images)
            ):
                return  # it ran, so it turns the axes itself
            yield self._by_shape(images)
            return
        seen = pixels(case)
        if seen.channels == 1:
            return
        if len(seen.values) < 3 or seen.values.shape[3] <= seen.channels + 1:
            raise NotChecked("it takes three images and a width of a few pixels to know")
        dips, alike = _dips(seen.values), _correlation(seen.values)
        if alike >= _ALIKE or _chance(int((dips > _DIP).sum()), len(dips)) >= _DOUBT:
            return
        yield self.finding(
            "fail" if has_convolutions(case.model) else "warn",
            "input",
            f"values {seen.channels} places apart in a row are more alike than neighbours: H×W×C read as C×H×W",
            evidence=f"their difference is smaller by a factor of {np.exp(np.median(dips)):.3g} there, "
            f"in {(dips > _DIP).sum()} of {len(dips)} images, and channels correlate by {alike:.2f} at one place; in "
            "images the difference grows with distance, and channels correlate by 0.9",
            cause="reshape or view, which keep the order in memory, where permute is meant",
            fix="images = torch.from_numpy(array).permute(0, 3, 1, 2), not .reshape(n, channels, height, width)",
        )

    def _by_shape(self, images: Tensor) -> Finding:
        shape = "×".join(map(str, images.shape))
        return self.finding(
            "fail",
            "input",
            f"the images are {shape}: channels last, where convolutions take channels second",
            evidence=f"{images.shape[1]} channels and a width of {images.shape[3]} would be a strange image; "
            f"{images.shape[3]} channels are what images have",
            cause="arrays from NumPy, OpenCV and Pillow are H×W×C",
            fix="images = images.permute(0, 3, 1, 2)",
        )


def _taken_for_channels(case: Case, images: Tensor) -> bool:
    """Whether the first layer is a convolution over the axis that holds the height."""
    node = first_layer(case)
    if node is None or node.function not in CONVOLUTION:
        return False
    weight = dict(node.parameters).get("weight")
    if weight is None:
        return False
    inputs = case.model.get_parameter(weight).shape[1] * int(node.arguments.get("groups", 1))
    return inputs == images.shape[1] and node.inputs[0] in {n.name for n in case.graph.nodes if n.kind == "input"}


def _dips(values: Floats) -> Floats:
    """Of each image: log of how much smaller D(C) is than its neighbours D(C−1) and D(C+1)."""
    channels = values.shape[1]
    before, at, after = (
        np.square(values[..., k:] - values[..., :-k]).mean(axis=(1, 2, 3))
        for k in (channels - 1, channels, channels + 1)
    )
    tiny = np.finfo(np.float64).tiny
    return np.asarray(0.5 * (np.log(before + tiny) + np.log(after + tiny)) - np.log(at + tiny))


def _correlation(values: Floats) -> float:
    """Mean over images of the correlation of neighbouring channels' edges at one place.

    Differences C places apart: where the width is a multiple of C, a reshape puts the same stripes into every channel,
    and this takes them away.
    """
    channels = values.shape[1]
    edges = values[..., channels:] - values[..., :-channels]
    size = np.sqrt(np.square(edges).mean(axis=(2, 3)))
    both = (edges[:, 1:] * edges[:, :-1]).mean(axis=(2, 3))
    return float(np.mean(both / np.maximum(size[:, 1:] * size[:, :-1], np.finfo(np.float64).tiny)))


def _chance(hits: int, images: int) -> float:
    """Probability of so many dips among healthy images."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, images, _BY_CHANCE))

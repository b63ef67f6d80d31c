"""Constants that are copied from project to project, and where they come from. RGB or gray, for pixels in 0…1."""

from dataclasses import dataclass

import numpy as np

from firstlight._typing import Floats


@dataclass(frozen=True)
class Known:
    """Published constants of one data set.

    Attributes:
        name: of the data set, or of the habit.
        mean, std: per channel; std None where only a mean is published.
        source: where they come from.
        remark: what is known about them.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...] | None
    source: str
    remark: str = ""

    def agrees(self, mean: Floats | None, std: Floats | None) -> bool:
        """Whether given constants are these, up to the digits that are usually printed (±0.0006)."""
        pairs = [(mean, self.mean), (std, self.std)]
        given = [(a, b) for a, b in pairs if a is not None]
        return bool(given) and all(
            b is not None and len(a) == len(b) and np.abs(a - np.array(b)).max() <= 6e-4 for a, b in given
        )


KNOWN = (
    Known(
        "ImageNet",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        "fb.resnet.torch datasets/imagenet.lua; pytorch/vision#1439",
        "its std is the average of each image's own, about a fifth below that of the pixels",
    ),
    Known(
        "ImageNet, all pixels after 256/224",
        (0.4845, 0.4541, 0.4025),
        (0.2724, 0.2637, 0.2761),
        "pytorch/vision#1439",
        "pooled std",
    ),
    Known(
        "CIFAR-10",
        (0.49139968, 0.48215827, 0.44653124),
        (0.24703233, 0.24348505, 0.26158768),
        "kuangliu/pytorch-cifar#129; akamaster/pytorch_resnet_cifar10#9",
        "pooled std",
    ),
    Known(
        "CIFAR-10 with averaged std",
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
        "kuangliu/pytorch-cifar#16; chenyaofo/image-classification-codebase#5",
        "its std is the average of each image's own",
    ),
    Known(
        "CIFAR-100",
        (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761),
        "weiaicunzai/pytorch-cifar100 conf/global_settings.py",
    ),
    Known("MNIST", (0.1307,), (0.3081,), "pytorch/examples#653"),
    Known("Fashion-MNIST", (0.2860,), (0.3530,), "zalandoresearch/fashion-mnist#161"),
    Known(
        "SVHN",
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        "VICO-UoE/DatasetCondensation#36",
        "kind of std unknown",
    ),
    Known(
        "COCO",
        (0.47026115, 0.44719302, 0.40789654),
        (0.27809835, 0.27408164, 0.28863828),
        "princeton-vl/CornerNet-Lite#106",
        "published in the order BGR; from 5,000 random images",
    ),
    Known(
        "CLIP",
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        "timm/data/constants.py (OpenAI CLIP)",
    ),
    Known(
        "Inception", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "timm/data/constants.py", "maps 0…1 to −1…1, fitted on nothing"
    ),
    Known(
        "DPN",
        (124 / 255, 117 / 255, 104 / 255),
        (1 / (0.0167 * 255),) * 3,
        "timm/data/constants.py",
    ),
    Known(
        "VGG",
        (123.68 / 255, 116.779 / 255, 103.939 / 255),
        None,
        "keras/src/applications/imagenet_utils.py",
        "used as BGR, 0…255",
    ),
    Known(
        "Caffe ILSVRC12",
        (122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255),
        None,
        "BVLC Caffe's ilsvrc_2012_mean",
        "used as BGR, 0…255",
    ),
)
"""Every entry that `audit` compares with."""

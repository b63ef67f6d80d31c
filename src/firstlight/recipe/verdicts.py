"""What an audit can say: one title and one fix per fault."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """One thing an audit says.

    Attributes:
        code: short name, "right", "known" or a fault of `TITLES`.
        wrong: whether it is a fault.
        title: the fault in one sentence.
        evidence: the numbers it rests on.
        fix: what to do.
        confidence: 0…1.
    """

    code: str
    wrong: bool
    title: str
    evidence: str
    fix: str
    confidence: float


TITLES: dict[str, tuple[str, str]] = {
    "right": ("these constants fit this data", ""),
    "unexplained": (
        "these constants are not those of this data, in no way that is known",
        "use the measured ones, or find out which images and which transform they come from",
    ),
    "another-dataset": (
        "these are another data set's constants, and this data differs",
        "use the measured ones, unless a pretrained network was trained with these",
    ),
    "averaged-std": (
        "the std is the average of each image's own, not that of all pixels",
        "use the pooled std (stats.std), or keep this one on purpose: Recipe.resnet(stats, std='per-image')",
    ),
    "bgr-for-rgb": ("the channels are given in the reverse order", "turn the constants around, or the images"),
    "channels-mixed": (
        "mean and std are given in different orders of channels",
        "turn one of the two around",
    ),
    "channels-alike": (
        "one number stands for all channels, which differ here",
        "give every channel its own mean and std",
    ),
    "range-0-255-for-0-1": ("the constants are for pixels in 0…255, the data is in 0…1", "divide them by 255"),
    "range-0-1-for-0-255": ("the constants are for pixels in 0…1, the data is in 0…255", "multiply them by 255"),
    "range-raw-for-0-1": ("the constants are for raw 16-bit values, the data is in 0…1", "divide them by 65535"),
    "range-minus-1-to-1": ("the constants are for pixels in −1…1", "mean → (mean + 1)/2 and std → std/2"),
    "sixteen-bit-by-255": (
        "the constants come from 16-bit pixels that were divided by 255",
        "divide 16-bit pixels by 65535; these constants by 257",
    ),
    "divided-twice": ("the pixels were scaled to 0…1 twice when these were computed", "scale once"),
    "by-255-more": ("the constants are smaller by 255: pixels were scaled once too often", "multiply them by 255"),
    "divided-by-65535": ("the constants are for pixels divided by 65535, the data is not", "divide neither, or both"),
    "variance-for-std": ("the std is a variance", "take its square root"),
    "root-of-std": ("the std is the root of a std: it was taken for a variance", "square it"),
    "inverse-of-std": ("the std is 1/std, a factor to multiply by", "give its inverse"),
    "mean-and-std-swapped": ("mean and std are swapped", "swap them"),
    "mean-and-std-ranges-differ": (
        "mean and std are in different ranges, one in 0…1 and one in raw values",
        "bring both to 0…1",
    ),
    "eigen-contradicts-std": (
        "the eigenvalues contradict the std: √diag(VΛVᵀ) should be it",
        "fit both on the same pixels; a smaller std is usually the averaged one",
    ),
    "eigen-not-orthonormal": (
        "the eigenvectors are not orthogonal unit vectors",
        "give them as columns, at least four digits each",
    ),
    "eigen-roots": ("the eigenvalues are roots, stds along the axes instead of variances", "square them"),
    "eigen-range": (
        "the eigenvalues belong to another range of pixels; they grow with its square",
        "divide those of 0…255 by 255², and scale the augmentation with them",
    ),
    "eigen-bgr-for-rgb": ("the rows of the eigenvectors are in the reverse order of channels", "turn the rows around"),
    "eigen-transposed": ("the eigenvectors are given as rows", "transpose: a row for each channel"),
    "eigen-of-other-data": (
        "eigenvalues and eigenvectors are not those of this data",
        "fit them on this data: ColourShift.fit(stats)",
    ),
}
"""Title and fix of every fault."""

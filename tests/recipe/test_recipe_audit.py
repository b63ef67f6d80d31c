"""Injected faults are named, right constants leave the audit silent, and published constants are what they are."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from recipe_images import correlated_images

import firstlight as fl
from firstlight.recipe import ColourShift, audit, implied_std
from firstlight.recipe.known import KNOWN
from firstlight.recipe.verdicts import TITLES

FACEBOOK = (
    np.array([0.2175, 0.0188, 0.0045]),
    np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]),
)
COCO = (
    np.array([0.2141788, 0.01817699, 0.00341571]),
    np.array(
        [
            [-0.58752847, -0.69563484, 0.41340352],
            [-0.5832747, 0.00994535, -0.81221408],
            [-0.56089297, 0.71832671, 0.41158938],
        ]
    ),
)
DATA = Path(__file__).parents[3] / "shared" / "data"


def scanned(name):
    """Statistics of data beside the project, or a skip."""
    for folder in (DATA, Path(__file__).parents[2] / "shared" / "data", Path(__file__).parents[3] / "data"):
        if (folder / name).exists():
            options = {"resize": 256, "crop": 224} if name == "photos.zip" else {"split": "train", "sample": 4000}
            return fl.scan(folder / name, **options)
    return pytest.skip(f"{name} is not beside the project")


@pytest.fixture(
    scope="module",
    params=[
        "drawn",
        pytest.param("cifar10.zip", marks=pytest.mark.realdata),
        pytest.param("photos.zip", marks=pytest.mark.realdata),
    ],
)
def data(request):
    if request.param == "drawn":
        return fl.scan(correlated_images(count=400, size=10), workers=1)
    return scanned(request.param)


FAULTS = {
    "averaged-std": lambda s: (s.mean, s.per_image_std),
    "bgr-for-rgb": lambda s: (s.mean[::-1], s.std[::-1]),
    "channels-mixed": lambda s: (s.mean, s.std[::-1]),
    "range-0-255-for-0-1": lambda s: (s.mean * 255, s.std * 255),
    "divided-twice": lambda s: (s.mean / 255, s.std / 255),
    "variance-for-std": lambda s: (s.mean, s.std**2),
    "root-of-std": lambda s: (s.mean, np.sqrt(s.std)),
    "inverse-of-std": lambda s: (s.mean, 1 / s.std),
    "mean-and-std-swapped": lambda s: (s.std, s.mean),
    "mean-and-std-ranges-differ": lambda s: (s.mean * 255, s.std),
    "range-minus-1-to-1": lambda s: (2 * s.mean - 1, 2 * s.std),
    "channels-alike": lambda s: (np.full(3, s.mean.mean()), np.full(3, s.std.mean())),
    "another-dataset": lambda s: (KNOWN[7].mean, KNOWN[7].std),
    "unexplained": lambda s: (s.mean + 0.3 * s.std, s.std * 0.6),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("digits", [3, 8])
def test_injected_faults_are_named(data, fault, digits):
    mean, std = FAULTS[fault](data)
    small = fault == "divided-twice"
    found = audit(data, mean=np.round(mean, digits + 3 * small), std=np.round(std, digits + 3 * small))
    assert not found.ok
    assert found.faults == (fault,)
    assert found.verdicts[0].confidence > 0.5
    assert found.verdicts[0].evidence


@pytest.mark.parametrize("digits", [3, 4, 8])
def test_right_constants_are_right(data, digits):
    found = audit(data, mean=np.round(data.mean, digits), std=np.round(data.std, digits))
    assert found.ok, str(found)
    assert found.unknown
    assert audit(data, mean=np.round(data.mean, digits)).ok
    assert audit(data, std=np.round(data.std, digits)).ok


def test_two_faults_at_once(data):
    found = audit(data, mean=data.mean[::-1] * 255, std=data.per_image_std[::-1] * 255)
    assert set(found.faults) == {"bgr-for-rgb", "range-0-255-for-0-1", "averaged-std"}


def test_another_sample_of_the_same_kind_is_right():
    whole = correlated_images(count=800, size=10, seed=3)
    one, other = fl.scan(whole[:400], workers=1), fl.scan(whole[400:], workers=1)
    assert audit(one, mean=other.mean, std=other.std).ok


def test_sixteen_bits():
    stats = fl.scan(correlated_images(dtype=np.uint16), workers=1)
    assert audit(stats, mean=stats.mean * 257, std=stats.std * 257).faults == ("sixteen-bit-by-255",)
    assert audit(stats, mean=stats.mean * 65535, std=stats.std * 65535).faults == ("range-raw-for-0-1",)
    assert audit(stats, mean=stats.mean, std=stats.std).ok


def test_floats_in_0_255():
    stats = fl.scan(correlated_images().astype(np.float32), workers=1)
    assert audit(stats, mean=stats.mean / 255, std=stats.std / 255).faults == ("range-0-1-for-0-255",)


class TestEigen:
    def test_right_ones(self, data):
        values, vectors = data.eigen
        found = audit(data, std=data.std, eigval=values, eigvec=-vectors)
        assert found.ok, str(found)

    @pytest.mark.parametrize(
        ("fault", "make"),
        [
            ("eigen-roots", lambda values, vectors: (np.sqrt(values), vectors)),
            ("eigen-range", lambda values, vectors: (values * 255**2, vectors)),
            ("eigen-range", lambda values, vectors: (values * 255, vectors)),
            ("eigen-bgr-for-rgb", lambda values, vectors: (values, vectors[::-1])),
            ("eigen-transposed", lambda values, vectors: (values, vectors.T)),
            ("eigen-of-other-data", lambda values, vectors: (values[::-1], vectors)),
        ],
    )
    def test_faults(self, data, fault, make):
        found = audit(data, eigval=make(*data.eigen)[0], eigvec=make(*data.eigen)[1])
        assert fault in found.faults, str(found)

    def test_contradiction_and_bad_vectors(self, data):
        values, vectors = data.eigen
        assert "eigen-contradicts-std" in audit(data, std=data.per_image_std, eigval=values, eigvec=vectors).faults
        assert "eigen-not-orthonormal" in audit(data, eigval=values, eigvec=vectors * 1.2).faults


class TestPublished:
    def test_facebook_contradicts_itself(self):
        assert_allclose(implied_std(*FACEBOOK), [0.2837, 0.2763, 0.2897], atol=5e-5)

    def test_coco_agrees_with_itself(self):
        assert_allclose(implied_std(*COCO), [0.28863828, 0.27408165, 0.27809835], atol=2e-8)

    def test_facebook_is_the_covariance_of_imagenet(self):
        """theano_alexnet's covariance of 1.2 million images, 0…255, gives Facebook's eigenvalues in 0…1."""
        upper = [
            [5092.20548764, 4433.19480634, 3994.61330229],
            [0, 4832.88253809, 4575.09578822],
            [0, 0, 5332.67691264],
        ]
        covariance = np.triu(upper) + np.triu(upper, 1).T
        values, vectors = np.linalg.eigh(covariance / 255**2)
        assert_allclose(values[::-1], [0.21156, 0.01870, 0.00438], atol=5e-6)
        assert_allclose(np.abs(vectors[:, ::-1]), np.abs(FACEBOOK[1]), atol=0.02)
        assert_allclose(np.sqrt(np.diag(covariance)) / 255, [0.2798, 0.2726, 0.2864], atol=5e-5)

    def test_facebooks_shift_is_the_papers(self, stats):
        shift = ColourShift(fl.recipe.Input("uint8", 3), *FACEBOOK)
        drawn = shift.shifts(100_000, 0)
        assert drawn.std(axis=0) == pytest.approx(0.1 * np.sqrt(FACEBOOK[1] ** 2 @ FACEBOOK[0] ** 2), rel=0.02)

    @pytest.mark.realdata
    def test_cifar10(self):
        stats = scanned("cifar10.zip")
        known = {entry.name: entry for entry in KNOWN}
        right = audit(stats, mean=known["CIFAR-10"].mean, std=known["CIFAR-10"].std)
        assert right.ok, str(right)
        averaged = known["CIFAR-10 with averaged std"]
        assert audit(stats, mean=averaged.mean, std=averaged.std).faults == ("averaged-std",)
        for name in ("ImageNet", "CLIP", "COCO", "CIFAR-100", "SVHN"):
            found = audit(stats, mean=known[name].mean, std=known[name].std)
            assert found.faults == ("another-dataset",), (name, str(found))
            assert name in found.verdicts[0].evidence

    @pytest.mark.realdata
    def test_photographs(self):
        stats = scanned("photos.zip")
        found = audit(stats, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        assert found.faults == ("averaged-std",)
        assert any("ImageNet" in verdict.title for verdict in found.verdicts)


def test_refusals(stats):
    for call, slug in {
        (lambda: audit(stats)): "nothing-to-audit",
        (lambda: audit(stats, eigval=[1, 1, 1])): "nothing-to-audit",
        (lambda: audit(stats, mean=[0.5])): "wrong-channels",
        (lambda: audit(stats, std=[-1, 1, 1])): "bad-constants",
        (lambda: audit(stats, eigval=[1, 1, 1], eigvec=[[1]])): "bad-constants",
    }.items():
        with pytest.raises(fl.FirstlightError) as caught:
            call()
        assert caught.value.slug == slug


def test_every_fault_has_a_way_out(data):
    assert all(title and (fix or code == "right") for code, (title, fix) in TITLES.items())
    text = str(audit(data, mean=data.mean, std=data.per_image_std))
    assert text.startswith("wrong")
    assert "averaged-std" in text

"""Rasters that only GDAL reads, their masks, and what is said where rasterio is missing."""

import warnings

import numpy as np
import pytest

import firstlight as fl

rasterio = pytest.importorskip("rasterio")


def write(path, pixels, **profile):
    height, width, bands = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no place on earth
        with rasterio.open(path, "w", height=height, width=width, count=bands, dtype=pixels.dtype, **profile) as raster:
            raster.write(np.moveaxis(pixels, 2, 0))


@pytest.mark.parametrize(("driver", "suffix"), [("HFA", "img"), ("NITF", "ntf")])
def test_all_bands_are_counted_at_their_depth(tmp_path, driver, suffix):
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 5), dtype=np.uint16)
    write(tmp_path / f"scene.{suffix}", pixels, driver=driver)
    stats = fl.scan(tmp_path)
    assert stats.channels == 5
    np.testing.assert_allclose(stats.mean, pixels.mean(axis=(0, 1)) / 65535, rtol=1e-13)


def test_nodata_of_the_file_is_left_out(tmp_path):
    pixels = np.full((4, 4, 2), 1000, np.uint16)
    pixels[0, :, 0] = 0
    write(tmp_path / "scene.img", pixels, driver="HFA", nodata=0)
    stats = fl.scan(tmp_path)
    assert stats.pixels.tolist() == [12, 16]
    np.testing.assert_allclose(stats.mean, 1000 / 65535)


def test_without_rasterio_the_reason_names_the_extra(tmp_path, monkeypatch):
    write(tmp_path / "scene.img", np.zeros((4, 4, 1), np.uint8), driver="HFA")
    monkeypatch.setitem(__import__("sys").modules, "rasterio.io", None)
    with pytest.raises(fl.FirstlightError, match=r"firstlight\[geo\]"):
        fl.scan(tmp_path)

"""A Ray cluster counts the same bits as one thread."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")

PROGRAM = """
import sys, zipfile, numpy as np, firstlight as fl
folder, archive = sys.argv[1:]
for source in (folder, archive, np.random.default_rng(0).random((40, 5, 5, 3))):
    options = {"masks": folder} if source is archive else {}
    one = fl.scan(source, workers=1, **options)
    many = fl.scan(source, workers=2, engine="ray", **options)
    assert one.to_json() == many.to_json(), source
    assert one.count == 40
print("same")
"""


def test_the_same_file_from_ray(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for k in range(40):
            path = tmp_path / "images" / f"{k:02d}.png"
            Image.fromarray(rng.integers(1, 256, (9, 8 + k % 3, 3), dtype=np.uint8)).save(path)
            archive.write(path, path.name)
    # In a process of its own: Ray warns, starts threads and leaves them.
    arguments = [str(tmp_path / "images"), str(tmp_path / "images.zip")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr[-2000:]

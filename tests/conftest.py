"""What every test may ask for: images in a folder, and the real data beside the project when it is there."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

# Compiling a kernel on first use takes seconds, so no deadline; examples are the same on every machine.
settings.register_profile("firstlight", deadline=None, database=None, derandomize=True)
settings.load_profile("firstlight")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """Writes files, by relative name, into a new folder and returns it."""

    def write(files: Mapping[str, bytes], folder: str = "images") -> Path:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root

    return write


@pytest.fixture
def realdata() -> Callable[[str], Path]:
    """The path of a file of real data: in $FIRSTLIGHT_DATA, or in shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("FIRSTLIGHT_DATA", beside))

    def find(name: str) -> Path:
        path = root / name
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        return path

    return find

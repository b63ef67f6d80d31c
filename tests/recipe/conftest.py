import pytest
from recipe_images import correlated_images

import firstlight as fl


@pytest.fixture(scope="session")
def images():
    return correlated_images()


@pytest.fixture(scope="session")
def stats(images):
    return fl.scan(images, workers=1)

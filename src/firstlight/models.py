"""From the name of a network to the network: ``timm:resnet18``, ``my.package:build``, ``net.py:build``."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from firstlight._extras import require
from firstlight.errors import FirstlightError

_FORMS = "name it timm:NAME, torchvision:NAME, package.module:CALLABLE or FILE.py:CALLABLE"


def open_model(name: str) -> nn.Module:
    """Build the network called `name`, with the weights its code draws; nothing is ever downloaded.

    Args:
        name: ``timm:resnet18``, ``torchvision:resnet50``, ``package.module:callable`` or ``file.py:callable``; the
            callable takes no arguments and returns the network.

    Raises:
        FirstlightError: slug ``model-name`` (not of these forms), ``model-not-found`` (no such module, file, attribute
            or name in the library), ``model-does-not-build`` (the code raises), ``not-a-module`` (it returns something
            else), ``missing-extra`` (timm or torchvision is not installed).
    """
    source, separator, attribute = name.rpartition(":")
    if not separator or not source or not attribute:
        raise _error(name, f"{name!r} does not name a model", _FORMS, "model-name")
    if source == "timm":
        build = _timm(name, attribute)
    elif source == "torchvision":
        build = _torchvision(name, attribute)
    else:
        build = open_callable(name)
    with _building(name):
        model = build()
    if not isinstance(model, nn.Module):
        raise _error(
            name,
            f"{attribute} returned a {type(model).__name__}, not a torch.nn.Module",
            "name a callable that takes no arguments and returns the network itself",
            "not-a-module",
        )
    return model


def open_callable(name: str) -> Callable[..., Any]:
    """What ``package.module:callable`` or ``file.py:callable`` names: a loss, or what builds a network.

    Raises:
        FirstlightError: as `open_model` does.
    """
    source, _, attribute = name.rpartition(":")
    return _attribute(name, _file(name, Path(source)) if source.endswith(".py") else _module(name, source), attribute)


def small_cnn(channels: int = 3, classes: int = 10) -> nn.Module:
    """A plain network for 32×32 images: six 3×3 convolutions with ReLU, no normalization, and one linear head.

    Without normalization the weights alone decide whether the signal survives, which is what it is here to show.
    Its parameters are called ``conv1.weight`` to ``conv6.bias``, ``head.weight`` and ``head.bias``.

    Args:
        channels: of the images.
        classes: outputs of the head.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = [channels, 32, 32, 64, 64, 128, 128]
    for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        layers[f"relu{i}"] = nn.ReLU()
        if i % 2 == 0:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(layers)


def _timm(name: str, model: str) -> Callable[[], Any]:
    timm = require("timm", extra="zoo")
    if not timm.is_model(model):
        raise _unknown(name, "timm", model, timm.list_models())
    return lambda: timm.create_model(model, pretrained=False)


def _torchvision(name: str, model: str) -> Callable[[], Any]:
    models = require("torchvision", extra="zoo").models
    if model not in models.list_models():
        raise _unknown(name, "torchvision", model, models.list_models())
    builder = models.get_model_builder(model)
    # Detectors and segmenters download the weights of their backbone unless told not to.
    accepted = inspect.signature(builder).parameters
    nothing = {option: None for option in ("weights", "weights_backbone") if option in accepted}
    return lambda: builder(**nothing)


def _module(name: str, source: str) -> ModuleType:
    with _building(name), _importable_from_here():
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not (source == error.name or source.startswith(error.name + ".")):
                raise
    raise _error(
        name,
        f"there is no module {source!r} to import",
        f"install the package, run from the folder that holds it, or name the file: {source.replace('.', '/')}.py:...",
        "model-not-found",
    )


@contextmanager
def _importable_from_here() -> Iterator[None]:
    """Look in the current folder too, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _file(name: str, path: Path) -> ModuleType:
    """Run a file as a module of its own: its folder need not be importable, and no bytecode is written beside it."""
    if not path.is_file():
        raise _error(
            name, f"there is no file {str(path)!r}", "check the path; it is relative to here", "model-not-found"
        )
    spec = importlib.util.spec_from_file_location(f"firstlight_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise _error(name, f"{str(path)!r} cannot be read as Python", _FORMS, "model-not-found")
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    try:
        with _building(name):
            spec.loader.exec_module(module)
    except FirstlightError:
        del sys.modules[spec.name]
        raise
    finally:
        sys.dont_write_bytecode = written
    return module


def _attribute(name: str, module: ModuleType, attribute: str) -> Callable[[], Any]:
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            own = [key for key, item in vars(module).items() if callable(item) and not key.startswith("_")]
            raise _unknown(name, module.__file__ or module.__name__, attribute, own)
        value = getattr(value, part)
    if callable(value) and not isinstance(value, nn.Module):
        found: Callable[[], Any] = value
        return found
    return lambda: value


@contextmanager
def _building(name: str) -> Iterator[None]:
    try:
        yield
    except FirstlightError:
        raise
    except Exception as error:
        raise _error(
            name,
            f"its code raised {type(error).__name__}: {error}",
            "name a callable that needs no arguments and whose file runs on its own",
            "model-does-not-build",
        ) from error


def _unknown(name: str, where: str, wanted: str, known: list[str]) -> FirstlightError:
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    way_out = f"did you mean {' or '.join(close)}?" if close else f"it has {len(known)} others, none of a like name"
    return _error(name, f"{where} has no {wanted!r}", way_out, "model-not-found")


def _error(name: str, cause: str, way_out: str, slug: str) -> FirstlightError:
    return FirstlightError(cause, way_out, slug=slug, call=f"open_model({name!r})")

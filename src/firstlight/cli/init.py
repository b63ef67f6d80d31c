"""``firstlight init MODEL``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from firstlight.cli.shared import print_json

if TYPE_CHECKING:
    from firstlight.initialization import Head, InitReport
    from firstlight.report.document import Document


@click.command("init")
@click.argument("model")
@click.option("--input", "shape", default="3x224x224", show_default=True, metavar="CxHxW", help="Shape of one image.")
@click.option("--scheme", default="auto", show_default=True, help="How the scales are chosen.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--class-counts", metavar="N,N,...", help="Images of each class: the head starts out predicting their frequencies."
)
@click.option(
    "--head",
    type=click.Choice(["softmax", "sigmoid"]),
    default="softmax",
    show_default=True,
    help="What makes probabilities of the outputs, for --class-counts.",
)
@click.option("--samples", type=float, help="Images in all, for --head sigmoid; by default the sum of the counts.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Write the weights (.safetensors), the page (.html) or the report (.json); may be given several times.",
)
@click.option("--audit", is_flag=True, help="Explain the weights MODEL is built with instead of drawing new ones.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
def command(
    model: str, shape: str, scheme: str, seed: int, class_counts: str | None, head: "Head", samples: float | None,
    output: tuple[Path, ...], audit: bool, as_json: bool,
) -> int:  # fmt: skip
    """Initialize MODEL from its graph: one line per parameter with rule, fan, gain, std and reason."""
    sides = parse_shape(shape)
    _check_suffixes(output, {".html", ".json"} if audit else {".safetensors", ".html", ".json"})

    import torch

    from firstlight.models import open_model
    from firstlight.report.init_page import init_document
    from firstlight.workflows import initialize
    from firstlight.workflows.initializing import save_weights

    network = open_model(model)
    # Different images: what only equal inputs make equal is no finding, and LSUV has something to measure.
    example = torch.randn(2, *sides, generator=torch.Generator().manual_seed(0))
    if audit:
        return _audit(model, network, example, output, as_json=as_json)
    report = initialize(
        network, example, scheme=scheme, seed=seed, class_counts=_counts(class_counts), head=head, samples=samples
    )
    value = _plain(report, output)
    again = f"firstlight init {model} --input {shape} --scheme {scheme} --seed {seed}"
    again += f" --class-counts {class_counts} --head {head}" if class_counts else ""
    again += f" --samples {samples:g}" if samples else ""
    for path in output:
        if path.suffix == ".safetensors":
            save_weights(network, path, report)
    _write(output, init_document(model, report, command=f"{again} -o weights.safetensors"), value)
    _show(str(report), value, output, as_json=as_json)
    return 1 if report.uncovered or report.warnings else 0


def _plain(report: "InitReport", output: tuple[Path, ...]) -> dict[str, Any]:
    measured = (
        (p.decision, {"measured_mean": p.measured_mean, "measured_std": p.measured_std}) for p in report.parameters
    )
    return {
        "format": "firstlight.init/1",
        "scheme": report.plan.scheme,
        "seed": report.seed,
        "parameters": [dataclasses.asdict(decision) | numbers for decision, numbers in measured],
        "uncovered": list(report.uncovered),
        "buffers": list(report.buffers),
        "warnings": list(report.warnings),
        "files": [str(path) for path in output],
    }


def _audit(model: str, network: Any, example: Any, output: tuple[Path, ...], *, as_json: bool) -> int:
    from firstlight.initialization import audit_init
    from firstlight.report.init_page import audit_document

    found = audit_init(network, example)
    value = {
        "format": "firstlight.init-audit/1",
        **dataclasses.asdict(found),
        "findings": list(found.findings),
        "files": [str(path) for path in output],
    }
    _write(output, audit_document(model, found), value)
    last = "\n".join(found.findings) or "Nothing that should not be there."
    _show(f"{found}\n{last}", value, output, as_json=as_json)
    return 1 if found.findings else 0


def _check_suffixes(output: tuple[Path, ...], known: set[str]) -> None:
    for path in output:
        if path.suffix not in known:
            raise click.BadParameter(
                f"{path.name!r} says no form: name a file that ends in {', '.join(sorted(known))}",
                param_hint="--output",
            )


def _write(output: tuple[Path, ...], document: "Document", value: dict[str, Any]) -> None:
    from firstlight._files import to_json, write_atomically
    from firstlight.report.html import to_html

    for path in output:
        if path.suffix == ".html":
            write_atomically(path, to_html(document))
        elif path.suffix == ".json":
            write_atomically(path, to_json(value) + "\n")


def _show(text: str, value: dict[str, Any], output: tuple[Path, ...], *, as_json: bool) -> None:
    if as_json:
        print_json(value)
        return
    click.echo(text)
    for path in output:
        click.echo(f"Wrote {path}")


def parse_shape(text: str) -> tuple[int, ...]:
    """ "3x224x224" → (3, 224, 224)."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdigit() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{text!r} is not a shape: give CxHxW, such as 3x224x224", param_hint="--input")
    return tuple(int(side) for side in sides)


def _counts(text: str | None) -> list[float] | None:
    """ "10,20,30" → [10, 20, 30]."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers: give N,N,...", param_hint="--class-counts") from None

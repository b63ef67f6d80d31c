"""Run tools on the faults, their healthy twins, or a zoo of healthy networks.

    python benchmarks/faults/run.py --half development|report [--tools NAME …] [--only WORD] [--out FILE]
    python benchmarks/faults/run.py --zoo --half development|report [--seeds N] [--size PIXELS] [--out FILE]
    python benchmarks/faults/run.py --list

Every run is a line of JSON in FILE; a run that is there already is not made again. One thread.
"""

import argparse
import contextlib
import io
import itertools
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from faults import catalogue
from faults.peers import PEERS, available
from faults.photographs import kind
from faults.score import Alarm, Row, by_alarm, by_fault, faults_table, healthy_table
from faults.setting import Places, Setting
from firstlight.errors import FirstlightError

Tool = Callable[[Setting], list[Alarm]]


def firstlight(setting: Setting) -> list[Alarm]:
    """What `firstlight.check` says."""
    import firstlight as fl

    batch = (setting.images, setting.labels)
    result = fl.check(setting.model, batch, setting.loss, optimizer=setting.optimizer, **setting.declared)
    return [Alarm(f.code, f.where, f.severity, f.title) for f in result.findings]


TOOLS: dict[str, Tool] = {"firstlight": firstlight, **PEERS}


def measured(tool: Tool, setting: Setting) -> tuple[list[Alarm], float, str]:
    """What a tool says, how long it takes, and what it raises."""
    start = time.perf_counter()
    error, said = "", []
    torch.manual_seed(0)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            said = tool(setting)
        except FirstlightError as reason:
            error = f"FirstlightError {reason.slug}: {reason.cause}"
        except Exception as reason:  # one run must not end the table
            last = traceback.extract_tb(reason.__traceback__)[-1]
            error = f"{type(reason).__name__}: {str(reason)[:200]} ({Path(last.filename).name}:{last.lineno})"
    return said, time.perf_counter() - start, error


class Log:
    """Rows in a file, one a line."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path and path.is_file() else []
        self.rows = {(row.name, row.tool): row for row in (Row(**json.loads(line)) for line in lines)}

    def run(self, name: str, tool: str, make: Callable[[], Row]) -> Row:
        """The row that is there, or a new one."""
        if (name, tool) not in self.rows:
            self.rows[name, tool] = row = make()
            if self.path:
                with self.path.open("a") as file:
                    file.write(json.dumps(row.to_dict()) + "\n")
        return self.rows[name, tool]


def on_fault(case: catalogue.Case, tool: str, seed: int, setting: Setting, places: Places) -> Row:
    """One tool on one fault; a peer's alarm counts only where it is new, or twice as frequent, beside the twin."""
    said, seconds, error = measured(TOOLS[tool], setting)
    if tool != "firstlight":
        said = news(said, on_twin(tool, case.architecture, case.fault.tags, seed)[0])
    return Row.judged(case, places, tool, said, seconds, error)


@cache
def on_twin(tool: str, architecture: str, tags: bool, seed: int) -> tuple[list[Alarm], float, str]:
    """One tool on one healthy twin."""
    return measured(TOOLS[tool], _twin(architecture, tags, seed))


@lru_cache(maxsize=2)
def _twin(architecture: str, tags: bool, seed: int) -> Setting:
    return catalogue.healthy(architecture, tags=tags, seed=seed)


def news(said: list[Alarm], twin: list[Alarm]) -> list[Alarm]:
    """Alarms of rules that are silent on the twin, or speak at least twice as often."""

    def times(alarms: list[Alarm], title: str) -> int:
        return sum(alarm.title == title for alarm in alarms)

    return [a for a in said if times(said, a.title) >= 2 * max(times(twin, a.title), 0.5)]


def on_twins(half: catalogue.Half, tool: str, log: Log) -> Iterator[Row]:
    """One tool on every healthy twin."""
    for name, tags, seed in itertools.product(catalogue.ARCHITECTURES, (False, True), SEEDS[half]):
        title = f"healthy@{name}{' with tags' if tags else ''}, seed {seed}"
        yield log.run(title, tool, lambda t=title, which=(name, tags, seed): Row.of(t, tool, *on_twin(tool, *which)))


# Other weights and other photographs in either half; faults take the first.
SEEDS: dict[catalogue.Half, tuple[int, ...]] = {"development": (0, 2), "report": (1, 3)}


def run_faults(options: argparse.Namespace, log: Log) -> None:
    seed = SEEDS[options.half][0]
    rows, twins = [], []
    tools = [tool for tool in options.tools if available(tool)]
    for case in itertools.islice(catalogue.cases(options.half), 0, None, options.every):
        if options.only in case.name:
            setting = cache(lambda case=case: case.faulty(seed))  # made once, and only where a tool has not run yet
            for tool in tools:
                make = lambda case=case, tool=tool, setting=setting: on_fault(case, tool, seed, *setting())  # noqa: E731
                rows.append(log.run(case.name, tool, make))
            if options.verbose:
                print(line(rows[-1]), flush=True)
    if not options.only and options.every == 1:
        twins = [row for tool in tools for row in on_twins(options.half, tool, log)]
    own = [row for row in rows if row.tool == "firstlight"]
    print(f"\n{kind()}, {options.half} half, {torch.get_num_threads()} thread\n\n{by_fault(own)}\n")
    print("\n".join(line(row) for row in own if not row.place))
    print(f"\n{faults_table(rows)}\n")
    if twins:
        print(healthy_table(twins, "healthy twins"))
        print(by_alarm([row for row in twins if row.tool == "firstlight"]))


def line(row: Row) -> str:
    """A row for people: what was wanted and what was said."""
    verdict = "right" if row.place else "right code, elsewhere" if row.code else "missed"
    text = f"{row.name}: {verdict}; wanted {row.expected}"
    if not row.place:
        text += "".join(f"\n    {said}" for said in [*row.said[:6], row.error] if said) or "\n    nothing was said"
    return text


def run_zoo(options: argparse.Namespace, log: Log) -> None:
    from faults import zoo

    rows = []
    names = [name for name in zoo.names() if catalogue.half(name) == options.half and options.only in name]
    for name in names:
        for seed in range(options.seeds):
            for tool in filter(available, options.tools):

                def make(name: str = name, seed: int = seed, tool: str = tool) -> Row:
                    title = f"{name}, seed {seed}"
                    try:
                        setting = zoo.healthy(name, options.size, options.batch, seed)
                    except Exception as error:
                        return Row(title, tool, error=f"does not build: {type(error).__name__}: {str(error)[:200]}")
                    return Row.of(title, tool, *measured(TOOLS[tool], setting))

                rows.append(row := log.run(f"{name}, seed {seed}", tool, make))
                if row.said or row.error:
                    said = "".join(f"\n    {line}" for line in [*row.said, row.error] if line)
                    print(f"{row.name} ({row.seconds:.0f} s){said}", flush=True)
    print(f"\n{healthy_table(rows, 'healthy zoo', zoo.is_true)}")
    print(by_alarm([row for row in rows if row.tool == "firstlight"]))


def print_list() -> None:
    for case in catalogue.cases():
        print(f"{case.half:12s} {case.name:45s} {'/'.join(case.fault.codes)}: {case.fault.why}")
    for name, why in catalogue.excluded():
        print(f"{'no fault':12s} {name:45s} {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", choices=("development", "report"), default="development")
    parser.add_argument("--tools", nargs="*", choices=list(TOOLS), default=["firstlight"])
    parser.add_argument("--only", default="", help="cases or models with this in their name")
    parser.add_argument("--every", type=int, default=1, help="take only one fault in so many, for slow tools")
    parser.add_argument("--out", type=Path, help="file of JSON lines to add to")
    parser.add_argument("--list", action="store_true", help="print every combination, and go")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--zoo", action="store_true", help="healthy networks of timm and torchvision instead")
    parser.add_argument("--seeds", type=int, default=1, help="of the zoo's weights and images")
    parser.add_argument("--size", type=int, default=64, help="of the zoo's images, where the model leaves it free")
    parser.add_argument("--batch", type=int, default=8, help="of the zoo's images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.list:
        print_list()
    else:
        (run_zoo if options.zoo else run_faults)(options, Log(options.out))


if __name__ == "__main__":
    main()

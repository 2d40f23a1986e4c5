"""A part of the benchmark: a function that yields tables, the figures in them and the promises held against those."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

from bench.client import WrongAnswer
from bench.peers import PEERS

Part = Callable[["Run"], Iterable["Table"]]
PARTS: dict[str, Part] = {}


@dataclass
class Target:
    """A promise: the median of the samples is at least, or at most, the limit."""

    text: str
    samples: list[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Return whether the promise is kept."""
        value = median(self.samples)
        return (self.at_least or value) <= value <= (value if self.at_most is None else self.at_most)


@dataclass
class Table:
    """The figures of a part: for each row (a peer's name, or words) and column the samples of all rounds."""

    title: str
    how: str
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, figures: dict[str, float]) -> None:
        """Add a sample to each of these columns of a row."""
        for column, value in figures.items():
            self.rows.setdefault(row, {}).setdefault(column, []).append(value)

    def promise(self, text: str, column: str, row: str = "dyno", of: str | list[str] = "", **limit: float) -> None:
        """Hold a figure, or its ratio to that of the row `of` round by round, against a limit; see Target.

        of several rows, which may be missing, the one that is lowest in a round counts.
        """
        names = [name for name in ([of] if isinstance(of, str) else of) if name in self.rows]
        samples, *others = (self.rows.get(name, {}).get(column, []) for name in (row, *names))
        if of:
            samples = [mine / min(theirs) for mine, *theirs in zip(samples, *others, strict=False) if theirs]
        if samples:
            self.targets.append(Target(text, samples, **limit))


@dataclass
class Run:
    """What a part is given: the names of the peers, the number of rounds, the seconds of load in each."""

    peers: list[str]
    rounds: int
    seconds: float

    def chosen(self, *names: str) -> list[str]:
        """Return those of the names that are compared; what is no peer by itself always is."""
        return [name for name in names if name in self.peers or name not in PEERS]

    def in_turns(self, table: Table, names: Iterable[str], once: Callable[[str], None], rounds: int = 0) -> None:
        """Call once(name) for each name, round after round; a peer that gives a wrong answer is out from then on."""
        for name in list(names) * (rounds or self.rounds):
            if name not in table.failures:
                try:
                    once(name)
                except (WrongAnswer, OSError) as error:
                    table.failures[name] = f"{type(error).__name__}: {error}"


def part(measure: Part) -> Part:
    """Make a function a part of the benchmark; its docstring is what --help says of it."""
    PARTS[measure.__name__] = measure
    return measure

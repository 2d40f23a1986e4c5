"""No regular expression takes a time that grows faster than its text: a visitor could freeze a worker with such a one.

The patterns are collected from the sources and from the rendered routing, so a new one is tested without a line here.
The texts that may take long are derived from each pattern: what leads to one of its repeated parts, that part many
times over, and an end that makes it fail.
"""

from __future__ import annotations

import ast
import itertools
import logging
import os
import re
import string
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from dyno_under_test import ROOT

from bokeh_dyno.shared.log import Discreet

if sys.version_info >= (3, 11):
    from re import _compiler, _parser
else:
    import sre_compile as _compiler
    import sre_parse as _parser

METHODS = {"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
HOLE = "x"  # what stands for a value that is not known before the program runs
ALPHABET = string.printable + "".join(map(chr, range(256))) + "\u0663\u2013\u2028\U0001f40c"
# two lengths of a text; exponential time shows at the first pair, and would never end at the last
LENGTHS = [(10, 20), (20, 40), (40, 80), (250, 500), (1000, 2000)]
LONG = [(10_000, 20_000), (50_000, 100_000)]
# seconds, for a text and for each of its characters: what takes less says nothing about its growth. Quadratic time is
# above it at some of the lengths, linear time is a tenth of it at most
NOISE, NOISE_OF_A_CHARACTER = 0.004, 1e-6
CERTAIN = 0.3  # seconds, of tries that all say that it grows; each may have been disturbed by something else
GROWTH = 2.8  # for twice the text, linear time is twice as long, and quadratic four times
SLOWEST = 3  # attacks on each pattern that go on to the lengths of LONG


class Pattern(NamedTuple):
    """A regular expression, where it stands, and the method of `re` that the program uses it with."""

    place: str
    text: str | bytes
    flags: int
    method: str

    def run(self, text: str) -> object:
        """Do with a text what the program does."""
        compiled = re.compile(self.text, self.flags)
        subject = text.encode("latin-1") if isinstance(self.text, bytes) else text
        if self.method in ("match", "fullmatch", "search"):
            return getattr(compiled, self.method)(subject)
        return compiled.sub(subject[:0], subject)  # the others go through all of the text, too


# --- collecting them --------------------------------------------------------------------------------------------------


class Source:
    """A Python file, and the patterns in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(ROOT)
        self.nodes = list(ast.walk(ast.parse(path.read_text())))
        self.values = defaultdict(list)  # by name, what is assigned to it
        self.parameters = defaultdict(list)  # by name, the functions that have one of that name, and its place
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self.values[_name(target)].append(node.value)
            if isinstance(node, ast.FunctionDef):
                for place, argument in enumerate(node.args.args):
                    self.parameters[argument.arg].append((node.name, place))

    def patterns(self, uses: dict[str, set[str]]) -> Iterator[Pattern]:
        """Find them; uses has by name the methods that are called on it, for those that are compiled first."""
        for call in self.nodes:
            if not isinstance(call, ast.Call) or not ast.unparse(call.func).startswith("re."):
                continue
            if (function := call.func.attr) not in {*METHODS, "compile"}:
                continue
            flags = 0
            for node in ast.walk(call):
                if ast.unparse(node).startswith("re.") and isinstance(node, ast.Attribute):
                    flag = getattr(re, node.attr)
                    flags |= flag if isinstance(flag, re.RegexFlag) else 0
            names = [name for name, values in self.values.items() if call in values]
            methods = set().union(*(uses[name] for name in names)) or {"sub"}
            for text in self.texts(call.args[0]):
                for method in methods if function == "compile" else {function}:
                    yield Pattern(f"{self.path}:{call.lineno}", text, int(flags), method)

    def texts(self, node: ast.expr) -> list[str | bytes]:
        """Return what a pattern may be. Raises AssertionError when that cannot be told."""
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
            return [node.value]
        if isinstance(node, ast.JoinedStr):
            return ["".join(parts) for parts in itertools.product(*map(self.fillings, node.values))]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return [_fill(text, value) for text in self.texts(node.left) for value in self.fillings(node.right)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [a + b for a in self.texts(node.left) for b in self.texts(node.right)]
        if isinstance(node, ast.Name) and node.id in self.values:
            return [text for value in self.values[node.id] for text in self.texts(value)]
        if isinstance(node, ast.Name) and node.id in self.parameters:  # what it is given, all over the file
            given = [
                call.args[place]
                for function, place in self.parameters[node.id]
                for call in self.nodes
                if isinstance(call, ast.Call) and _name(call.func) == function
            ]
            return [text for argument in given if _name(argument) != node.id for text in self.texts(argument)]
        raise AssertionError(f"{self.path}:{node.lineno}: this test cannot tell what {ast.unparse(node)} is")

    def fillings(self, node: ast.expr) -> list[str | bytes]:
        """Return what may fill a hole of a pattern: its text where that can be told, HOLE where not."""
        try:
            return self.texts(node.value if isinstance(node, ast.FormattedValue) else node)
        except AssertionError:
            return [HOLE]


def _name(node: ast.expr) -> str:
    """Return the name in NAME and in anything.NAME."""
    return getattr(node, "id", getattr(node, "attr", ""))


def _fill(text: str | bytes, value: str | bytes) -> str | bytes:
    """Put `value` into every hole of a % format."""
    if isinstance(text, bytes):
        return re.sub(rb"%[bs]", lambda hole: value if isinstance(value, bytes) else value.encode(), text)
    return re.sub(r"%[sd]", lambda hole: value, text)


def patterns_of_python() -> list[Pattern]:
    """Return those in all files of the machinery, of the site and of the apps."""
    paths = [path for name in ("bokeh_dyno", "flask_app", "bokeh_app") for path in sorted((ROOT / name).rglob("*.py"))]
    sources = [Source(path) for path in paths]
    uses = defaultdict(set)
    for node in itertools.chain.from_iterable(source.nodes for source in sources):
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            uses[_name(node.value)].add(node.attr)
    return sorted({pattern for source in sources for pattern in source.patterns(uses)}, key=repr)


def patterns_of_nginx() -> list[Pattern]:
    """Return those of the routing, with all that config vars may add to it."""
    env = {
        "PATH": os.environ["PATH"],
        "BOKEH_ALLOW_WS_ORIGIN": "friend.example,*.partner.example:*",
        "FORCE_HTTPS": "1",
    }
    command = ["erb", "config/nginx.conf.erb"]
    text = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    words = [quoted or plain for quoted, plain in re.findall(r'#[^\n]*|"([^"]*)"|([^\s"{};]+)', text)]
    found = set()
    for word, following in itertools.pairwise(words):
        if begins := re.match(r"~\*?", word):
            # `~ pattern` in a location and in an `if`, `~pattern` in a map; PCRE's names of groups are not Python's
            pattern = re.sub(r"\(\?<(?=\w)", "(?P<", word[begins.end() :] or following)
            found.add(Pattern("nginx.conf", pattern, int(re.IGNORECASE) * (begins[0] == "~*"), "search"))
    return sorted(found)


# --- texts that may take long -----------------------------------------------------------------------------------------


class Attack(NamedTuple):
    """What leads to a repeated part of a pattern, what it repeats, and an end that makes it fail."""

    prefix: str
    unit: str
    end: str

    def text(self, length: int) -> str:
        """Return the attack with as many units as `length` characters hold."""
        return self.prefix + self.unit * (length // len(self.unit)) + self.end


class Parsed:
    """A pattern taken apart: its repeated parts, and the characters that it tells from each other."""

    def __init__(self, pattern: Pattern) -> None:
        self.binary = isinstance(pattern.text, bytes)
        self.alphabet = [one for one in ALPHABET if not self.binary or one < "\u0100"]
        self.tree = _parser.parse(pattern.text, pattern.flags)
        self.groups: dict[int, object] = {}
        self.repeats: dict[str, list] = {}  # what leads to it, and the parts that are repeated
        self.singles: list[Callable[[str], object]] = []  # whether a character is one that a part stands for
        self.shortest(self.tree, "")
        characters: dict[tuple, str] = {}
        for one in self.alphabet:
            characters.setdefault(tuple(bool(accepts(one)) for accepts in self.singles), one)
        self.characters = list(characters.values())

    def accepts(self, parts: object) -> Callable[[str], object]:
        """Return a function that says whether a text is one that parts of the pattern stand for."""
        tree = _parser.SubPattern(self.tree.state, list(parts))
        compiled = _compiler.compile(tree, self.tree.state.flags)
        return lambda text: compiled.fullmatch(text.encode("latin-1") if self.binary else text)

    def shortest(self, parts: object, before: str) -> str:
        """Return a short text that parts of the pattern stand for, and note what is in them; before leads to them."""
        text = ""
        for kind, value in parts:
            match str(kind):
                case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                    accepts = self.accepts([(kind, value)])
                    self.singles.append(accepts)
                    text += chr(value) if str(kind) == "LITERAL" else next(filter(accepts, self.alphabet))
                case "BRANCH":
                    text += min((self.shortest(branch, before + text) for branch in value[1]), key=len)
                case "SUBPATTERN":
                    self.groups[value[0]] = value[-1]
                    text += self.shortest(value[-1], before + text)
                case "ATOMIC_GROUP":
                    text += self.shortest(value, before + text)
                case "GROUPREF":
                    text += self.shortest(self.groups[value], before + text)
                case "ASSERT" | "ASSERT_NOT":
                    direction, body = value
                    seen = self.shortest(body, before + text)
                    text += seen if str(kind) == "ASSERT" and direction < 0 else ""
                case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                    least, most, body = value
                    if most > 1:
                        self.repeats.setdefault(before + text, []).append(body)
                    text += self.shortest(body, before + text) * least
        return text

    def attacks(self) -> Iterator[Attack]:
        """Make every text that is worth a try."""
        pairs = ["".join(pair) for pair in itertools.product(self.characters, repeat=2)]
        for unit in [*self.characters, *pairs]:
            yield Attack("", unit, "")
        for before, bodies in list(self.repeats.items()):
            for body in bodies:
                accepts = self.accepts(body)
                units = {self.shortest(body, before), *filter(accepts, self.characters), *filter(accepts, pairs)} - {""}
                for unit in sorted(units):
                    for end in ["", *self.characters]:
                        yield Attack(before, unit, end)
                        if before:
                            yield Attack("", before + unit, end)


# --- the verdict ------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[str], object], text: str) -> float:
    """Return what `run` takes of this thread's CPU."""
    began = time.thread_time()
    run(text)
    return time.thread_time() - began


def growth(
    run: Callable[[str], object], text: Callable[[int], str], lengths: list[tuple[int, int]]
) -> tuple[str, float]:
    """Return the lengths, and the times at both, at which `run` takes much more than twice the time, or nothing.

    Beside it stands what it took of the last length, in seconds.
    """
    once = 0.0
    for short, long in lengths:
        once = seconds(run, text(long))
        if once < max(NOISE, NOISE_OF_A_CHARACTER * long):
            continue
        at_short = at_long = float("inf")
        spent = 0.0
        while spent < CERTAIN:
            at_short = min(at_short, seconds(run, text(short)))
            at_long = min(at_long, seconds(run, text(long)))
            at_short = min(at_short, seconds(run, text(short)))
            if at_long < GROWTH * at_short:
                break
            spent += at_long
        else:
            return f"{short:,} characters: {at_short * 1000:.1f} ms, {long:,}: {at_long * 1000:.1f} ms", once
    return "", once


def fault(pattern: Pattern) -> str:
    """Return what is wrong with a pattern, and a text that shows it; nothing when its time is linear."""
    taken = {}
    for attack in Parsed(pattern).attacks():
        found, taken[attack] = growth(pattern.run, attack.text, LENGTHS)
        if found:
            return f"{pattern.place} {pattern.method}({pattern.text!r}) with {attack}: {found}"
    for attack in sorted(taken, key=taken.get)[-SLOWEST:]:
        found, _ = growth(pattern.run, attack.text, LONG)
        if found:
            return f"{pattern.place} {pattern.method}({pattern.text!r}) with {attack}: {found}"
    return ""


@pytest.mark.parametrize("pattern", patterns_of_python(), ids=lambda pattern: f"{pattern.place}-{pattern.method}")
def test_a_pattern_takes_twice_the_time_for_twice_the_text(pattern: Pattern) -> None:
    assert fault(pattern) == ""


def test_a_pattern_of_the_routing_takes_twice_the_time_for_twice_the_text() -> None:
    patterns = patterns_of_nginx()
    assert len(patterns) > 10
    assert list(filter(None, map(fault, patterns))) == []


def test_all_patterns_are_found() -> None:
    """As many as a plain search finds, and more: some are put together from several."""
    written = [
        line
        for name in ("bokeh_dyno", "flask_app", "bokeh_app")
        for path in (ROOT / name).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\bre\.(compile|match|fullmatch|search|subn?|split|findall|finditer)\(", line)
    ]
    assert len({pattern.place for pattern in patterns_of_python()}) == len(written) > 20


MESSAGES = ["a", "G", "?", "-", ".", "a.", "a?", "?a", "a-", "a" * 44 + ".", "a" * 50 + "." + "a" * 50 + " ", "\n", "ä"]


@pytest.mark.parametrize("unit", MESSAGES, ids=lambda unit: unit.encode("unicode_escape").decode()[:12])
def test_a_long_message_is_logged_in_a_time_that_is_linear(unit: str) -> None:
    formatter = Discreet("%(levelname)s %(message)s")

    def log(message: str) -> None:
        formatter.format(logging.LogRecord("tornado", logging.ERROR, "", 0, message, None, None))

    for end in ("", ".", "!"):
        found, _ = growth(log, Attack("", unit, end).text, [*LENGTHS[-2:], *LONG])
        assert found == ""


# --- the test itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("a*a*b", "match"),
        (r"\d+\.?\d*", "fullmatch"),
        (r"x+y", "search"),  # begun anew at each x
        (r"(a+)+b", "match"),
        (r"(a|b|ab)*c", "match"),
        (r"begin (\w\s?)+end", "search"),
        (rb"(?<=;)[^,]*[^;]*,", "sub"),
        (r"^[^=]*= *.* *\n!", "match"),
    ],
)
def test_a_pattern_that_is_not_linear_is_found(text: str | bytes, method: str) -> None:
    assert fault(Pattern("here", text, 0, method))


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("a*b", "match"),
        (r"\d+(\.\d*)?", "fullmatch"),
        (r"(?<!x)x+y", "search"),
        (r"([ab]|cd)*e", "match"),
        ("q{2}", "sub"),
    ],
)
def test_a_pattern_that_is_linear_passes(text: str, method: str) -> None:
    assert fault(Pattern("here", text, 0, method)) == ""

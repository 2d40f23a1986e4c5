"""What the site says of each Bokeh app: read from the app's own file, which is not run, so that nothing else lists the apps.

It is the docstring of its main.py (the first text of a notebook). Its first paragraph is the sentence on the app's card;
these lines may follow, each until the next of them or an empty line:

    Try: type a title of your own.
    - Move a slider.                what a visitor may do with it; `- ` begins another
    Tags: sliders, callbacks
    Source: shown                   its page shows the files of its folder, which without this line nobody sees
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from pygments import token
from pygments.lexers import get_lexer_for_filename

from bokeh_dyno.shared import apps

PICTURES = Path(__file__).parent / "static" / "apps"  # by bin/pictures
FIELDS = ("Try", "Tags", "Source")
SUFFIXES = {".py", ".js", ".ts", ".css", ".html", ".yaml"}  # of files that are source
MAX_SOURCE = 100_000  # bytes of a file
# the first that fits is a piece's class in site.css
CLASSES = {
    token.Comment: "c",
    token.String.Doc: "c",
    token.String: "s",
    token.Keyword: "k",
    token.Number: "n",
    token.Name.Decorator: "f",
    token.Name.Function: "f",
    token.Name.Class: "f",
}


class Source(NamedTuple):
    """A file of an app, its text as HTML with a span for each piece that has a colour."""

    name: str
    lines: int
    html: Markup


class App(NamedTuple):
    """A Bokeh app, as its own file describes it."""

    name: str
    sentence: str = ""
    tries: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    is_shown: bool = False  # its source

    @property
    def title(self) -> str:
        """Return the name as a title: sea_surface, Sea surface."""
        words = self.name.replace("_", " ")
        return words[:1].upper() + words[1:]

    @property
    def has_picture(self) -> bool:
        """Return whether there are pictures of it, light and dark."""
        return all((PICTURES / f"{self.name}-{scheme}.webp").is_file() for scheme in ("light", "dark"))

    def sources(self) -> list[Source]:
        """Return the files of the app that its page shows, what is run for every visitor first."""
        path = _path(self.name)
        main = apps.main(path)
        if not self.is_shown or main.suffix not in SUFFIXES:
            return []
        others = sorted(path.rglob("*")) if path.is_dir() else []
        found = [main, *(other for other in others if other != main and _is_source(other, path))]
        base = path if path.is_dir() else path.parent
        return [_highlighted(one, str(one.relative_to(base)), one.stat().st_mtime_ns) for one in found]


def app(name: str) -> App:
    """Return the app of that name, which there must be."""
    main = apps.main(_path(name))
    return described(name, _text(main, main.stat().st_mtime_ns) if main.is_file() else "")


def described(name: str, text: str) -> App:
    """Return app `name` as `text` describes it."""
    first, *others = text.split("\n\n")
    fields: dict[str, list[str]] = {}
    for paragraph in others:
        field: list[str] = []  # of no name, at first
        for line in paragraph.splitlines():
            word, colon, rest = line.partition(":")
            if colon and word in FIELDS:
                field = fields.setdefault(word, [])
                line = f"- {rest.strip()}" if rest.strip() else ""
            if line.startswith("- "):
                field.append(line[2:].strip())
            elif field:
                field[-1] += f" {line.strip()}"
    return App(
        name,
        " ".join(first.split()),
        tuple(text[:1].upper() + text[1:] for text in fields.get("Try", ())),
        tuple(tag.strip() for tag in " ".join(fields.get("Tags", ())).split(",") if tag.strip()),
        fields.get("Source") == ["shown"],
    )


def _path(name: str) -> Path:
    return next(path for path in apps.paths() if apps.name(path) == name)


@functools.lru_cache
def _text(main: Path, _changed: int) -> str:
    """Return the text in which the file of an app describes it, "" when it has none or cannot be read."""
    try:
        if main.suffix != ".ipynb":
            return ast.get_docstring(ast.parse(main.read_bytes())) or ""
        cell = json.loads(main.read_bytes())["cells"][0]
        text = "".join(cell["source"]) if cell["cell_type"] == "markdown" else ""
        return text.partition("\n\n")[2] if text.startswith("#") else text
    except (OSError, SyntaxError, ValueError, LookupError, TypeError):
        return ""


def _is_source(path: Path, folder: Path) -> bool:
    """Return whether a file is one that a page shows: no cache, no empty __init__.py, no link to what is elsewhere."""
    hidden = any(part[0] in "._" for part in path.relative_to(folder).parts)
    if hidden or path.suffix not in SUFFIXES or path.is_symlink() or not path.is_file():
        return False
    return 0 < path.stat().st_size <= MAX_SOURCE


@functools.lru_cache
def _highlighted(path: Path, name: str, _changed: int) -> Source:
    text = path.read_text(errors="replace")
    pieces = get_lexer_for_filename(path.name, stripnl=False).get_tokens(text)
    html = Markup("")
    for letter, group in itertools.groupby(pieces, lambda piece: _class(piece[0])):
        piece = "".join(value for _, value in group)
        html += Markup('<span class="{}">{}</span>').format(letter, piece) if letter else piece
    return Source(name, text.count("\n"), html)


def _class(kind: token._TokenType) -> str:
    return next((letter for known, letter in CLASSES.items() if kind in known), "")

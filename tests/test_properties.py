"""Bokeh's models say of themselves with bokeh_dyno/bokeh/properties.py what they say without it."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import bokeh.models  # noqa: F401 (all of them)
import pytest
from bokeh.core.has_props import HasProps, is_abstract
from bokeh.core.properties import Int, List, Override, Required, String
from bokeh.core.property.descriptors import AliasPropertyDescriptor, UnsetValueError
from bokeh.document import Document
from bokeh.model import Model
from bokeh.models import Slider
from bokeh.themes import Theme, built_in_themes
from dyno_under_test import ROOT

from bokeh_dyno.bokeh import properties

MODELS = {name: cls for name, cls in Model.model_class_reverse_map.items() if not is_abstract(cls)}
DOCUMENTS = """
{patch}
from bokeh.application import Application
from bokeh.application.handlers.directory import DirectoryHandler
from bokeh.protocol import Protocol

for folder in {folders!r}:
    document = Application(DirectoryHandler(filename=folder)).create_document()
    for view in range(2):
        print(Protocol().create("PULL-DOC-REPLY", "1", document).content_json)
"""


def said(query, model: Model) -> object:
    """Return what a way to query a model says without its defaults; an array is compared by what it prints."""
    try:
        found = query(model, lambda descriptor: descriptor.serialized, include_defaults=False)
        return [(name, repr(value)) for name, value in found.items()]
    except UnsetValueError as error:
        return str(error)


def assert_it_says_the_same(model: Model) -> None:
    ours, bokehs = properties.query_properties_with_values, properties._query_properties_with_values
    assert said(ours, model) == said(bokehs, model)
    assert type(model)._overridden_defaults() == properties._overridden_defaults(type(model))
    assert model.themed_values() == getattr(model, "__themed_values__", None)
    for name in model.properties():
        descriptor = model.lookup(name)
        if isinstance(descriptor, AliasPropertyDescriptor):  # it asks the other one
            continue
        assert descriptor.has_unstable_default(model) == properties._has_unstable_default(descriptor, model), name


def test_bokeh_does_as_it_is_told() -> None:
    assert HasProps.query_properties_with_values is properties.query_properties_with_values


@pytest.mark.filterwarnings("ignore::bokeh.util.warnings.BokehDeprecationWarning")
@pytest.mark.parametrize("theme", [None, "dark_minimal"])
def test_every_model_says_of_itself_what_it_says_without(theme: str | None) -> None:
    made = 0
    for cls in MODELS.values():
        try:
            model = cls()
        except (ValueError, TypeError):  # it needs to be told something
            continue
        if theme:
            built_in_themes[theme].apply_to_model(model)
        assert_it_says_the_same(model)
        for name in model.properties():  # what was asked for may come to be said
            with contextlib.suppress(UnsetValueError):
                getattr(model, name)
        assert_it_says_the_same(model)
        made += 1
    assert made > 300


def test_a_model_of_an_app_says_of_itself_what_it_says_without() -> None:
    attributes = {"start": Override(default=5), "many": List(Int, default=[1]), "word": Required(String)}
    first = type("First", (Slider,), attributes)
    second = type("Second", (first,), {"start": Override(default=6)})
    for cls, default in ((first, 5), (second, 6)):
        without, own = cls(value=7, end=8), cls(value=7, end=8, word="said")
        assert "word" in said(properties.query_properties_with_values, without)
        for model in (without, own):
            assert_it_says_the_same(model)
        own.many.append(2)
        assert_it_says_the_same(own)
        assert own.start == default
        assert ("many", "[1, 2]") in said(properties.query_properties_with_values, own)
        document = Document(theme=Theme(json={"attrs": {"Slider": {"bar_color": "red", "many": [3]}}}))
        document.add_root(own)
        document.add_root(unchanged := cls(value=7, end=8, word="said"))
        assert_it_says_the_same(unchanged)
        assert own.themed_values()["bar_color"] == "red"
        assert_it_says_the_same(own)


def test_documents_stay_what_they_were() -> None:
    folders = [str(path.parent) for path in sorted(ROOT.glob("*/site/bokeh_app/*/main.py"))]

    def printed(patch: str) -> str:
        program = [sys.executable, "-c", DOCUMENTS.format(patch=patch, folders=folders)]
        return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with_it = printed("import bokeh_dyno.bokeh.properties")
    assert with_it == printed("")
    assert len(with_it.splitlines()) == 2 * len(folders)
    assert len(with_it) > 20_000

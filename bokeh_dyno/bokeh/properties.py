"""What Bokeh works out anew for every property of every model, once per class: a third of what a view costs its worker.

Imported for its effect, before the apps are run, where Bokeh is as expected (bokeh_dyno/shared/private.py).

Bokeh makes some 40 models for one plot, with 600 properties, and asks each of these for its default when a model is made
and once more when its document is sent, only to throw it away there. Documents stay what they were, to the byte:
tests/test_properties.py compares every model there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bokeh.core.has_props import HasProps
from bokeh.core.property.descriptors import PropertyDescriptor
from bokeh.core.property.singletons import Undefined
from bokeh.core.property.wrappers import PropertyValueContainer

from bokeh_dyno.shared import private

HAS_PROPS, DESCRIPTOR = "bokeh.core.has_props:HasProps", "bokeh.core.property.descriptors:PropertyDescriptor"
T = TypeVar("T")

_has_unstable_default = PropertyDescriptor.has_unstable_default
_overridden_defaults = private.find(f"{HAS_PROPS}._overridden_defaults")
_query_properties_with_values = HasProps.query_properties_with_values


def _kept(cls: type[HasProps], name: str, make: Callable[[type[HasProps]], T]) -> T:
    """Return what is made of a class once; it goes when the class does, for an app may define models at every run."""
    if name not in cls.__dict__:
        setattr(cls, name, make(cls))
    return cls.__dict__[name]


def has_unstable_default(descriptor: PropertyDescriptor, model: HasProps) -> bool:
    """Do as Bokeh's: return whether the default of a property is made anew for each model."""
    cls = type(model)
    try:
        return cls.__dict__["_unstable_defaults"][descriptor.name]
    except KeyError:
        kept: dict[str, bool] = _kept(cls, "_unstable_defaults", lambda _: {})
        return kept.setdefault(descriptor.name, _has_unstable_default(descriptor, model))


def overridden_defaults(cls: type[HasProps]) -> dict[str, object]:
    """Do as Bokeh's `_overridden_defaults`: return what the class and those above it say in Override."""
    return _kept(cls, "_all_overridden", _overridden_defaults)


def themed_values(model: HasProps) -> dict[str, object] | None:
    """Do as Bokeh's, without an AttributeError for each model that has none."""
    return model.__dict__.get("__themed_values__")


def query_properties_with_values(
    model: HasProps,
    query: Callable[[PropertyDescriptor], bool],
    *,
    include_defaults: bool = True,
    include_undefined: bool = False,
) -> dict[str, object]:
    """Do as Bokeh's, which asks for all defaults, also those that it leaves out.

    What has neither a value nor a default is asked, and raises UnsetValueError.
    """
    if include_defaults or include_undefined:
        return _query_properties_with_values(
            model, query, include_defaults=include_defaults, include_undefined=include_undefined
        )
    themed, unstable = model.themed_values() or {}, model._unstable_default_values
    asked = {*model._property_values, *unstable, *themed, *_kept(type(model), "_without_default", _without_default)}
    values = {}
    for name in model.properties(_with_props=True):
        if name in asked and query(descriptor := model.lookup(name)):
            value = descriptor.get_value(model)
            if name in unstable and name not in themed and isinstance(value, PropertyValueContainer):
                continue  # a list, say, that nobody has changed since it was made
            values[name] = value
    return values


def _without_default(cls: type[HasProps]) -> set[str]:
    overridden, names = cls._overridden_defaults(), cls.properties(_with_props=True)
    defaults = {name: overridden.get(name, cls.lookup(name).property._default) for name in names}
    return {name for name, default in defaults.items() if default is Undefined}


private.replace(f"{DESCRIPTOR}.has_unstable_default", has_unstable_default)
private.replace(f"{HAS_PROPS}.themed_values", themed_values)
private.replace(f"{HAS_PROPS}.query_properties_with_values", query_properties_with_values)
if not hasattr(HasProps, "__property_info__"):  # where Bokeh 3.10 has them
    private.replace(f"{HAS_PROPS}._overridden_defaults", classmethod(overridden_defaults))

"""An app's own page: Bokeh's, or the app's template, with our script in the place of Bokeh's, and with a policy."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.application.handlers.handler import Handler
from bokeh.core.has_props import HasProps
from bokeh.core.templates import FILE
from bokeh.core.templates import get_env as bokeh_templates
from bokeh.document import Document
from bokeh.document.document import DEFAULT_TITLE
from bokeh.embed.bundle import Bundle
from jinja2 import Environment, Template

from bokeh_dyno.bokeh import gate
from bokeh_dyno.page import needs, policy, static
from bokeh_dyno.shared import apps, private
from bokeh_dyno.shared.settings import Settings

# What an own page is that has no template: Bokeh's, for whoever reads it with other than two eyes at a desk
DEFAULT = """
{% block postamble %}
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <style>
      main { display: flow-root; height: 100%; }
      .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
    </style>
{% endblock %}
{% block contents %}
  <main>
    <h1 class="unseen">{{ title | e }}</h1>
    <noscript><p>This plot needs JavaScript.</p></noscript>
    {{ super() }}
  </main>
{% endblock %}
"""


class _Page(Template):
    """The template of an app's own page, whose answer gets a policy with what this very document needs."""

    def render(self, variables: dict[str, Any]) -> str:
        found = variables["needs"]()
        html = super().render({**variables, "needs": lambda: found})
        fresh = policy.nonce()
        if handler := gate.answering.get():
            for name, value in variables["policy"](fresh).items():
                handler.set_header(name, value)
        return html.replace(policy.MARK, fresh)


class PageScript(Handler):
    """Has bokeh_dyno/page/page.js show an app's own page, whatever its template, as it shows an app in a page of the site.

    It takes the place of Bokeh's script, and only what the document needs that of all of BokehJS. A template that has the tags
    of BokehJS itself leaves `bokeh_js` out: so the script stands a second time where Bokeh's would be.
    """

    ENVIRONMENT = Environment()
    ENVIRONMENT.template_class = _Page
    TEMPLATE = ENVIRONMENT.from_string("""
{%- extends app_page -%}
{%- set found = needs() -%}
{%- set script -%}
<script{{ page_script | xmlattr }} data-bokeh-app="{{ app_path }}" data-bokeh-token="{{ doc.token }}"
  data-bokeh-roots="{{ roots | map(attribute="elementid") | join(" ") }}"
  data-bokeh-later="{{ all_scripts | reject("in", found.scripts) | list | tojson | forceescape }}"></script>
{%- endset -%}
{%- set bokeh_js -%}
{%- if is_default() %}
<meta name="color-scheme" content="light dark">
{%- endif %}
{{ script }}
{%- for style in found.styles %}
<link rel="stylesheet" href="{{ style | e }}">
{%- endfor %}
{%- for tag in found.scripts %}
<script{{ tag | xmlattr }}></script>
{%- endfor %}
{%- endset -%}
{%- set plot_script = script -%}
""")

    def __init__(self, values: Settings, path: str, all_scripts: list[dict[str, str]]) -> None:
        super().__init__()
        self._values = values
        self._name = path.rpartition("/")[2]
        self._variables = {
            "app_path": path,
            "page_script": static.page_script_tag(values.bokeh_prefix, values.max_upload_mb),
            "all_scripts": all_scripts,
        }

    def modify_document(self, doc: Document) -> None:
        this = weakref.ref(doc)  # a reference to it from itself would keep it until the garbage collector comes
        if doc.title == DEFAULT_TITLE:
            doc.title = apps.title(self._name)
        is_bokehs = doc.template in (None, FILE)
        page = DEFAULT if is_bokehs else doc.template
        if isinstance(page, str):
            page = _with_blocks(page)
        doc.template_variables.update(
            self._variables,
            needs=lambda: self._needs(this()),
            policy=lambda fresh: self._policy(this(), fresh),
            app_page=page,
            # nobody else has a say in its colours: no author's template, no models such as Panel's, which are light
            is_default=lambda: is_bokehs and (known := this()) is not None and not needs.has_own(known),
        )
        doc.template = self.TEMPLATE

    def _needs(self, doc: Document | None) -> needs.Needs:
        # what is to be compiled comes with the document: the worker has others to answer
        return needs.of(self._values, doc) if doc is not None and needs.is_known(doc) else needs.of(self._values)

    def _policy(self, doc: Document | None, fresh: str) -> Mapping[str, str]:
        further = needs.sources_of_app(self._values.run_dir, self._name) + needs.sources(doc.models if doc else [])
        return policy.headers(self._values, fresh, further, of_app=True)


@functools.lru_cache
def _with_blocks(blocks: str) -> Template:
    """Return Bokeh's page with these blocks, as a document's template may be text."""
    return bokeh_templates().from_string("{% extends base %}\n" + blocks)


def _bundle_of_page(_objects: object, _resources: object) -> Bundle:
    """Return nothing, in the place of what Bokeh finds for an app's own page: all classes' scripts, compiled now.

    What the page needs is in our template.
    """
    return Bundle()


def _script_of(classes: Sequence[type[HasProps]] | None) -> str | None:
    """Do as Bokeh's; but for autoload.js, which has that of all classes, return none when one cannot be compiled."""
    try:
        return _compiled(classes)
    except SystemExit:  # Bokeh ends the process
        if classes is None:
            return None
        raise


if private.has("pages"):
    private.replace("bokeh.embed.server:bundle_for_objs_and_resources", _bundle_of_page)
    _compiled = private.replace("bokeh.embed.bundle:bundle_models", _script_of)

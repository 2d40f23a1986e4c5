"""Sphinx's settings for the site that bin/docs makes: the Markdown of this repository as it is, and a search.

The pages stay where they are, so that a link leads to the same place in a checkout, on a code host and in the site.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The order of the pages; a page that is missing here fails the build
CONTENTS = {
    "Begin": ["docs/start", "docs/develop", "docs/embed", "docs/existing-site"],
    "Make it yours": [
        "docs/bring-your-own",
        "docs/bokeh-serve",
        "docs/sessions",
        "docs/state",
        "docs/settings",
        "docs/routing",
        "docs/accessibility",
    ],
    "Run it": ["docs/deploy", "docs/scale", "docs/containers", "docs/platforms/README", "docs/operate", "docs/limits"],
    "Help": ["docs/troubleshooting"],
    "Behind it": ["docs/why", "docs/promises", "bench/RESULTS", "CONTRIBUTING", "CHANGELOG"],
}

project = "bokeh-dyno"
version = release = re.search(r'__version__ = "(.+)"', (ROOT / "bokeh_dyno" / "__init__.py").read_text())[1]
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "bench/RESULTS.md"]
exclude_patterns = [".*", "build", "logs", "run", "tests"]
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3  # `#` names of headings, as code hosts make them
highlight_language = "sh"  # of indented blocks, which are commands: tests/test_docs.py
html_theme = "furo"
html_title = project
html_static_path, html_css_files = ["site.css"], ["site.css"]
html_favicon = "../flask_app/static/favicon.svg"
suppress_warnings = ["myst.header"]  # bench/RESULTS.md begins its tables one level lower
html_copy_source = html_show_copyright = html_show_sphinx = False
html_permalinks_icon = "#"


def with_contents(app, name: str, source: list[str]) -> None:
    """Add the list of pages to the first one, where no reader of the file has to see it."""
    if name == root_doc:
        for caption, pages in CONTENTS.items():
            source[0] += "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"])
    if name == "docs/platforms/README":
        platforms = sorted(path.stem for path in (ROOT / "docs" / "platforms").glob("[a-z]*.md"))
        source[0] += "\n".join(["\n\n```{toctree}", ":hidden:", "", *platforms, "```"])


def with_index(app, error: Exception | None) -> None:
    """Have the site begin with README, whatever serves it."""
    if not error and app.builder.name == "html":
        shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app) -> None:
    """Register the two above."""
    app.connect("source-read", with_contents)
    app.connect("build-finished", with_index)

"""Sphinx: `make docs` builds docs/ into build/docs, and takes warnings for errors."""

from __future__ import annotations

from sentpool._version import __version__
from sentpool.commands import VERBS

project, author, copyright = "sentpool", "the sentpool authors", "the sentpool authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence", "substitution"]
myst_substitutions = {
    "verbs": "\n\n".join(
        f"## {name}\n\n{verb.PURPOSE[0].upper()}{verb.PURPOSE[1:]}.\n\n```sh\n{verb.EXAMPLE}\n```"
        for name, verb in VERBS.items()
    )
}
myst_heading_anchors = 3
# Single backquotes in docstrings are names, not all of which are pages.
default_role = "code"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
html_theme = "furo"
html_title = f"sentpool {version}"

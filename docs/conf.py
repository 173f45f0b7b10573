"""The site: every page of docs/, the pages beside the README, and the names of Python. scripts/docs builds it.

The checkout is the root, so a link is the same on the site and in a viewer of the repository. A link to a
file that is no page becomes a download.
"""

from __future__ import annotations

import zapq

project = "zapq"
author = "the authors of zapq"
release = version = zapq.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "examples/README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
# Environments hold pages of others.
exclude_patterns = [".*", "build", "dist", "**/node_modules"]
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]

# It would make a dash of the two hyphens of a flag.
smartquotes = False
# As GitHub makes them, and tests/test_readme.py.
myst_heading_anchors = 6
# What docstrings have between single backticks is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"zapq {release}"
html_additional_pages = {"index": "to-docs.html"}
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
# Nothing is loaded from elsewhere.
html_use_opensearch = ""

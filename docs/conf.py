"""The documentation as a site: `make docs`. A link that leads nowhere fails the build."""

from __future__ import annotations

import sys
from pathlib import Path

import etcdlock

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE / "reference"))

from generate import write_reference  # noqa: E402 - found beside this file

write_reference(_HERE / "reference" / "made")

project = "etcdlock"
author = "the etcdlock authors"
version = release = etcdlock.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["site"]

myst_heading_anchors = 4        # links name headings as they do on a code forge
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"etcdlock {release}"
html_copy_source = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
copybutton_prompt_text = r"\$ |# "
copybutton_prompt_is_regexp = True

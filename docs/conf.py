"""The site's settings for Sphinx: `make docs` (docs/build.py). Nothing in the site is loaded from elsewhere."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

import mdlm_cfg

project = "mdlm_cfg"
version = mdlm_cfg.__version__
html_title = project
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # it fetches pages, which a browser refuses for pages opened as files
html_show_copyright = False
html_math_renderer = "mathml"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
add_module_names = False
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

suppress_warnings = ["ref.python"]  # a type in a signature that two modules define

MARKED = re.compile(
    r"\$\$(?P<displayed>.+?)\$\$|\$(?P<inline>[^$]+)\$|`+(?P<code>[^`]+)`+|(?P<other>[*|\\]|_(?=\W))", re.DOTALL
)
THIN = '<mspace width="0.17em"/>'
TEX_SPACING = (  # between the name of a function and a letter: w log p
    (re.compile(r"(<mi>(?:log|ln|exp)</mi>)\s*<mo>&ApplyFunction;</mo>(?=\s*<m(?!o))"), rf"\1{THIN}"),
    (re.compile(r"(</mi>|</msub>|\)</mo>)(?=\s*<mi>(?:log|ln|exp)</mi>)"), rf"\1{THIN}"),
)


def escape_docstring(app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and $mathematics$: nothing else in them is reStructuredText."""

    def escaped(match: re.Match[str]) -> str:
        if match["other"]:
            return "\\" + match["other"]
        text = " ".join((match["displayed"] or match["inline"] or match["code"]).split())
        if match["displayed"]:
            return f".. math:: {text}"
        end = "\\ " if match.string[match.end() :][:1].isalnum() else ""  # reStructuredText wants a boundary there
        return (f"``{text}``" if match["code"] else f":math:`{text}`") + end

    lines[:] = MARKED.sub(escaped, "\n".join(lines)).split("\n")


def skip_fields(app: Sphinx, what: str, name: str, of: object, skip: bool, options: object) -> bool | None:
    """A field of a named tuple has nothing to say beyond the tuple's docstring."""
    return True if (of.__doc__ or "").startswith("Alias for field number") else None


def mathml(node: nodes.Element, displayed: bool) -> str:
    """A formula as MathML."""
    try:
        formula = tex2mathml(node.astext(), as_block=displayed)
    except MathError as error:
        logging.getLogger(__name__).warning("%s In the formula: %s", error, node.astext(), location=node)
        return ""
    for pattern, spaced in TEX_SPACING:
        formula = pattern.sub(spaced, formula)
    return formula.replace("\N{REVERSE SOLIDUS OPERATOR}", "\N{SET MINUS}")  # which more fonts have


def inline_mathml(writer: HTML5Translator, node: nodes.Element) -> None:
    """A formula in a line, as MathML, which browsers draw without a script."""
    writer.body.append(mathml(node, displayed=False))
    raise nodes.SkipNode


def displayed_mathml(writer: HTML5Translator, node: nodes.Element) -> None:
    """A displayed formula, as MathML."""
    writer.body.append(f'<div class="math">{mathml(node, displayed=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register what is above."""
    app.add_html_math_renderer("mathml", (inline_mathml, None), (displayed_mathml, None))
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before napoleon reads the sections
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

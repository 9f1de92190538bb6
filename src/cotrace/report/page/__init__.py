"""The HTML report: what it is made of, and the page."""

from cotrace.report.page.examples import EXAMPLES, Example, Examples, Piece, examples_of
from cotrace.report.page.material import Material
from cotrace.report.page.page import report_html

__all__ = ["EXAMPLES", "Example", "Examples", "Material", "Piece", "examples_of", "report_html"]

"""The HTML report: what it is made of, and the page."""

from cotrace.report.page.inputs import EXAMPLES, Example, Examples, Piece, ReportInputs, examples_of
from cotrace.report.page.plain import EDIT, LANGUAGES, PLAIN, Edited, Plain, plain_of

__all__ = [
    "EDIT",
    "EXAMPLES",
    "LANGUAGES",
    "PLAIN",
    "Edited",
    "Example",
    "Examples",
    "Piece",
    "Plain",
    "ReportInputs",
    "examples_of",
    "plain_of",
    "report_html",
]


def report_html(inputs: ReportInputs) -> bytes:
    """The report, without texts where it would be too large with them. Raises InputError where it still is.

    Args:
        inputs: The results of a run.
    """
    from cotrace.report.page.page import page_of  # the chart library takes a while to load, and most commands draw none

    return page_of(inputs)

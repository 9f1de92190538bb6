"""What a model does with a task before any search: where an audit begins."""

from cotrace.measurement.measure import measure
from cotrace.measurement.result import Measurement, Row

__all__ = ["Measurement", "Row", "measure"]

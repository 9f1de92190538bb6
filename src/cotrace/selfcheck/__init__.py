"""The self-check: before a search believes a patch, the patch is shown to be right on this very model."""

from cotrace.selfcheck.report import CheckReport, Finding
from cotrace.selfcheck.run import CheckFailed, check, check_reading, ensure

__all__ = ["CheckFailed", "CheckReport", "Finding", "check", "check_reading", "ensure"]

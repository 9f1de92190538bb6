"""The self-check: before a search believes a patch, the patch is shown to be right on this very model."""

from cotrace.selfcheck._run import CheckFailed, check, check_reading, ensure
from cotrace.selfcheck.finding import CheckReport, Finding

__all__ = ["CheckFailed", "CheckReport", "Finding", "check", "check_reading", "ensure"]

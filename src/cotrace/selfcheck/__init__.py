"""The self-check: before a search believes a patch, the patch is shown to be right on this very model."""

from cotrace.selfcheck.report import CheckReport, Finding
from cotrace.selfcheck.run import CheckFailed, check, ensure

__all__ = ["CheckFailed", "CheckReport", "Finding", "check", "ensure"]

"""What a look at the machine comes to: one finding for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct


class Verdict(StrEnum):
    """`not_now`: it keeps the agent from working and may pass by itself. `problem`: a person has to see to it."""

    OK = "ok"
    WARNING = "warning"
    NOT_NOW = "not_now"
    PROBLEM = "problem"


EXIT_CODES = {Verdict.OK: 0, Verdict.WARNING: 0, Verdict.NOT_NOW: 75, Verdict.PROBLEM: 78}


class Finding(Struct, frozen=True):
    """One thing. `code` is stable; `subject` says what was looked at, `found` what it is, `advice` what to do."""

    code: str
    verdict: Verdict
    subject: str
    found: str
    advice: str = ""

    def as_data(self) -> dict[str, str]:
        """For programs; what there is not is left out."""
        data = {"code": self.code, "verdict": str(self.verdict), "subject": self.subject, "found": self.found}
        return data | ({"advice": self.advice} if self.advice else {})


Case = tuple[bool, Verdict, str, str]
"""Whether it is so, and then: the verdict, what was found, what to do."""


def first(cases: Iterable[Case]) -> tuple[Verdict, str, str]:
    """Verdict, what was found and what to do of the first case that is so. The last one must always be."""
    return next((verdict, found, advice) for is_so, verdict, found, advice in cases if is_so)


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing keeps the agent from working; 78: a person is needed; 75: what is wrong may pass."""
    return max((EXIT_CODES[each.verdict] for each in findings), default=0)

"""The findings of the doctor. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may not for long, or not as meant."""
    PROBLEM = "problem"
    """It does not work, or loses what is promised."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `about` is the setting, or the service whose database it is;
    `next_step` is empty where nothing is to be done."""

    area: str
    about: str
    verdict: Verdict
    told: str
    next_step: str = ""


def ok(area: str, about: str, told: str) -> Finding:
    """It is as it should be."""
    return Finding(area, about, Verdict.OK, told)


def warning(area: str, about: str, told: str, next_step: str) -> Finding:
    """It is to be looked at."""
    return Finding(area, about, Verdict.WARNING, told, next_step)


def problem(area: str, about: str, told: str, next_step: str) -> Finding:
    """It is to be mended."""
    return Finding(area, about, Verdict.PROBLEM, told, next_step)

"""Kinds of model parallelism, as the founding documents name them."""

from __future__ import annotations

from enum import StrEnum


class ParallelismType(StrEnum):
    """Found by name in any case: `ParallelismType("Hybrid")` is `HYBRID`."""

    TP = "tp"
    PP = "pp"
    DP = "dp"
    EP = "ep"
    HYBRID = "hybrid"

    @classmethod
    def _missing_(cls, value: object) -> ParallelismType | None:
        text = str(value).lower()
        return next((member for member in cls if member.value == text), None)

"""Kinds of model parallelism, as the founding documents name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from sage_llm_ops.types.errors import UnknownName


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


@dataclass(slots=True)
class ParallelismConfig:
    """Which kinds of parallelism may be used; names in any case."""

    auto_optimize: bool = False
    supported_strategies: list[ParallelismType | str] = field(
        default_factory=lambda: list(ParallelismType)
    )

    def __post_init__(self) -> None:
        known = [kind.value for kind in ParallelismType]
        try:
            kinds = [ParallelismType(name) for name in self.supported_strategies]
        except ValueError:
            wrong = next(n for n in self.supported_strategies if str(n).lower() not in known)
            raise UnknownName("parallelism", wrong, known, key="supported_strategies") from None
        self.supported_strategies = list(kinds)

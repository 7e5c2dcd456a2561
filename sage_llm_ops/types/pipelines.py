"""A pipeline as data: what a `.toml` file or ten lines of Python say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sage_llm_ops.types.instances import ExecutionInstance


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """One operator: which, reading from whom, with which options."""

    use: str
    name: str = ""
    inputs: tuple[str, ...] | None = None
    """Names of operators, or `source`; None: the operator before it. A later name is a feedback edge."""
    options: dict[str, Any] = field(default_factory=dict)
    line: int | None = None
    """Where it stands in its file, for errors."""
    option_lines: dict[str, int] = field(default_factory=dict)
    """Where each option stands."""

    @property
    def id(self) -> str:
        """The name other operators refer to."""
        return self.name or self.use


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A graph and the fleet it starts with."""

    name: str
    operators: tuple[OperatorSpec, ...]
    instances: tuple[ExecutionInstance, ...] = ()
    max_in_flight: int = 10_000
    """Accepted and not yet ended requests; one more is refused as `Overloaded`."""
    ledger: str | None = None
    """Path of the decision ledger; None keeps the latest decisions in memory only."""
    file: str | None = None

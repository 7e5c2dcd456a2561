"""A pipeline as data: what a `.toml` file or ten lines of Python say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstance

SOURCE = "source"
"""The input that no operator makes: where events enter."""


SLOW_READERS = ("cancel", "buffer")


class Where(TypedDict):
    """The place of a setting, as keywords of `ConfigError`."""

    file: str | None
    line: int | None
    key: str | None


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """One operator: which, reading from whom, with which options."""

    use: str
    name: str = ""
    inputs: tuple[str, ...] | None = None
    """Names of operators, or `source`; None: the operator before it. A later name is a feedback edge."""
    options: dict[str, Any] = field(default_factory=dict)
    line: int | None = field(default=None, compare=False)
    """Where it stands in its file, for errors."""
    option_lines: dict[str, int] = field(default_factory=dict, compare=False)
    """Where each option stands; also `use`, `name` and `inputs`."""
    option_variables: dict[str, str] = field(default_factory=dict, compare=False)
    """The environment variable that set an option instead of the file."""

    @property
    def id(self) -> str:
        """The name other operators refer to."""
        return self.name or self.use


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A graph and the fleet it starts with. Equal when they say the same, wherever it was written."""

    name: str
    operators: tuple[OperatorSpec, ...]
    instances: tuple[ExecutionInstance, ...] = ()
    max_in_flight: int = 10_000
    """Accepted and not yet ended requests; one more is refused as `Overloaded`."""
    max_unread_tokens: int = 65_536
    """So many tokens may whoever reads a stream be behind; 0: any number."""
    slow_reader: str = "cancel"
    """What becomes of a request whose reader is further behind: `cancel`, or `buffer`, which tells
    the log and keeps what comes."""
    ledger: str | None = None
    """Path of the decision ledger; None keeps the latest decisions in memory only."""
    simulate: dict[str, Any] = field(default_factory=dict)
    """Options of the simulated engines that stand in for the instances in a simulation."""
    file: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a pipeline's name must not be empty", key="name")
        if self.max_in_flight < 1:
            raise ConfigError(
                f"max_in_flight={self.max_in_flight} must be at least 1", key="max_in_flight"
            )
        if self.max_unread_tokens < 0:
            raise ConfigError(
                f"max_unread_tokens={self.max_unread_tokens} must be 0 (any number) or more",
                key="max_unread_tokens",
            )
        if self.slow_reader not in SLOW_READERS:
            raise UnknownName("policy", self.slow_reader, SLOW_READERS, key="slow_reader")
        if self.ledger == "":
            raise ConfigError("must name a file; leave it out for no ledger", key="ledger")

    def inputs_of(self, index: int) -> tuple[str, ...]:
        """Whom the operator at `index` reads, with what was left out filled in."""
        inputs = self.operators[index].inputs
        if inputs is not None:
            return inputs
        return (self.operators[index - 1].id if index else SOURCE,)

    def feedback_of(self, index: int) -> tuple[str, ...]:
        """Those of its inputs that stand at or after it: the edges that close a circle."""
        later = {operator.id for operator in self.operators[index:]}
        return tuple(name for name in self.inputs_of(index) if name in later)

    def where(self, index: int, option: str | None = None) -> Where:
        """The place of an operator, or of one of its options: `ConfigError(text, **spec.where(3))`."""
        operator = self.operators[index]
        key = f"operators[{index}]" if option is None else f"operators[{index}].{option}"
        variable = operator.option_variables.get(option or "")
        if variable is not None:
            return Where(file=variable, line=None, key=key)
        line = operator.option_lines.get(option or "", operator.line)
        return Where(file=self.file, line=line, key=key)

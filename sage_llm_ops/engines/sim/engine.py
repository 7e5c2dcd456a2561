"""The simulated engine as a worker hosts it: the sans-IO core, driven by a real clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.sim.core import SimCore
from sage_llm_ops.engines.sim.options import SimOptions
from sage_llm_ops.engines.tokenizers.bytes import ByteTokenizer
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import EngineEvent, Stats

VERSION = "1"
"""Changes with the timing or the schedule: a recording made under another one is not comparable."""
LONGEST_SLEEP_S = 0.05
"""The host must look at its queue again, however long a simulated step is."""


@final
class SimEngine(BaseEngine):
    """`clock` and `sleep` belong together; tests pass their own."""

    name: ClassVar[str] = "sim"
    tokenizer_kind: ClassVar[str] = "bytes"

    def __init__(
        self,
        options: SimOptions | Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        given = options
        self._core = SimCore(given if isinstance(given, SimOptions) else SimOptions.parse(given))
        self._clock = clock
        self._sleep = sleep

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> SimEngine:
        """From a file's table; used by the registry."""
        return cls(SimOptions.parse(options))

    def start(self) -> None:
        """Nothing to load."""

    def stop(self) -> None:
        """Forget everything."""
        self._core.reset(self._clock())

    @property
    def capabilities(self) -> Capabilities:
        """What the core can do."""
        return self._core.capabilities

    @property
    def version(self) -> str:
        """Of the simulation itself."""
        return VERSION

    @property
    def tokenizer_hash(self) -> str:
        """As the options say; else that of the bytes which the plane sends to a simulation."""
        return self._core.options.tokenizer_hash or ByteTokenizer.hash

    def submit(self, node: PlanNode) -> None:
        """Take a node."""
        self._core.submit(node, self._clock())

    def cancel(self, node: NodeId) -> None:
        """Stop a node."""
        self._core.cancel(node, self._clock())

    def step(self) -> list[EngineEvent]:
        """What happened up to now; sleeps towards the next event where nothing did."""
        stamped = self._core.advance(self._clock())
        if not stamped:
            wake = self._core.next_wake()
            if wake is None:
                return []
            self._sleep(min(LONGEST_SLEEP_S, max(0.0, wake - self._clock())))
            stamped = self._core.advance(self._clock())
        return [event for _, event in stamped]

    @property
    def busy(self) -> bool:
        """Whether a node has not ended."""
        return self._core.busy

    def stats(self) -> Stats:
        """How loaded it is."""
        return self._core.stats

"""The two contracts of this room.

`BaseEngine` is what a worker hosts: it owns a device and is driven from one thread, by whoever
hosts it, through `step`. `Worker` is the plane's side of one worker, whatever lies between
(`inline`: the same process; `process`: a child over ZeroMQ ipc). A worker reports to one `Uplink`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, Protocol

from sage_llm_ops.engines import standalone
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import CapabilityError
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.kv import KvChange
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.results import RequestResult
from sage_llm_ops.types.wire import CacheChanged, EngineEvent, Hello, Stats


class BaseEngine(ABC):
    """An engine inside its worker. All calls come from the host's one thread.

    Construction is cheap and touches no device; `start` loads. After `start` returned,
    `capabilities` is final. `submit` never blocks and never raises for a node's own fault: that
    comes back as `Failed`. Every submitted node ends with exactly one `Done` or `Failed`.
    """

    name: ClassVar[str]
    tokenizer_kind: ClassVar[str] = "hf"
    """How the plane tokenises for it, unless an instance's options say another `tokenizer_kind`."""

    @abstractmethod
    def start(self) -> None:
        """Load the model and be ready to step; raises `EngineStartError`."""

    @abstractmethod
    def stop(self) -> None:
        """Free everything; idempotent; nothing is called afterwards."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can do, measured after `start`, not promised."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the engine behind it."""

    @property
    @abstractmethod
    def tokenizer_hash(self) -> str:
        """Identity of the model's tokenizer, equal to `Tokenizer.hash` on the plane's side."""

    @property
    def spawns(self) -> bool:
        """Whether it starts processes of its own; a worker process then takes care of their end.
        Known before `start`."""
        return False

    @property
    def python(self) -> str:
        """Interpreter that its worker process runs in, where its environment is not the plane's;
        known before `start`. sage-llm-ops must be installed there."""
        return ""

    @property
    def model(self) -> str:
        """Name under which it serves its model; empty where it has no opinion of its own."""
        return ""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its model's tokenizer, for the conveniences below; the plane brings its own."""
        raise CapabilityError(f"engine {self.name!r} has no tokenizer here: pass token ids instead")

    @abstractmethod
    def submit(self, node: PlanNode) -> None:
        """Take a node. `Accepted` or `Failed` comes out of a later `step`."""

    @abstractmethod
    def cancel(self, node: NodeId) -> None:
        """Stop a node: `Done(finish_reason="cancelled")` comes out of a later `step`.

        A node that is unknown, or has ended, is none of our business: no answer.
        """

    @abstractmethod
    def step(self) -> list[EngineEvent]:
        """Advance by one engine step and say what happened, in order. Blocks no longer than a step."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether `step` has anything to do."""

    @abstractmethod
    def stats(self) -> Stats:
        """How loaded it is now."""

    def cache_changes(self) -> list[KvChange]:
        """What became of its prefix cache since this was asked last, in order; kept until then. Asked
        now and then between steps, where `capabilities.tells_cache` says that there is something."""
        return []

    def recover(self, error: Exception) -> bool:
        """After `step` raised: whether the engine dropped every node it held and can go on.

        False, the default, ends the worker process: an engine whose state nobody knows must not
        answer further requests.
        """
        return False

    # Conveniences for a notebook or a test: they drive `step` themselves, so they are not for an
    # engine that a worker hosts.

    def generate(
        self, prompt: str | Sequence[int], sampling: SamplingParams | None = None
    ) -> RequestResult:
        """Run one prompt, text or token ids, to its end."""
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return standalone.run_one(self, ids, sampling or SamplingParams())

    def chat(
        self, messages: Sequence[dict[str, Any]], sampling: SamplingParams | None = None
    ) -> RequestResult:
        """Run one conversation through the model's chat template to its end."""
        return standalone.run_one(self, self.tokenizer.chat(messages), sampling or SamplingParams())

    def embed(self, text: str | Sequence[int]) -> tuple[float, ...]:
        """The embedding of one text or token sequence."""
        ids = self.tokenizer.encode(text) if isinstance(text, str) else list(text)
        result = standalone.run_one(self, ids, SamplingParams(max_tokens=1), task="embed")
        assert result.embedding is not None
        return result.embedding


class Uplink(Protocol):
    """Where workers report. Called from the workers' threads; must return quickly, never raise."""

    def on_events(self, worker: WorkerId, incarnation: int, events: Sequence[EngineEvent]) -> None:
        """Events of one engine step, in order. Those of an earlier incarnation are ignored."""

    def on_stats(self, worker: WorkerId, stats: Stats) -> None:
        """The worker about itself."""

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None:
        """What became of its prefix cache; at the latest when it has become idle."""

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        """It started (again) and takes nodes."""

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        """It ended without having been told to, or never came up. Once per incarnation; nothing of
        that incarnation is reported afterwards. `reason` ends with the tail of its log."""


class Sign(Enum):
    """What a worker gives to the question whether it lives."""

    ANSWERED = "answered"
    WORKING = "working"
    """No answer yet, but it has used its processor since it was asked: a long engine step."""
    SILENT = "silent"


class Worker(Protocol):
    """The plane's side of one worker. Calls may come from any thread."""

    id: WorkerId
    instance: ExecutionInstance
    incarnation: int
    """Counts the starts; 0 before the first."""

    def start(self) -> None:
        """Begin starting and return at once; the answer is `on_up` or `on_down`. May be called again
        after `on_down`."""

    def submit(self, node: PlanNode) -> bool:
        """Hand a node over. False where the worker is down: then nothing of it will be reported."""

    def cancel(self, node: NodeId) -> None:
        """Ask to stop a node. Nothing happens where the worker is down."""

    def stop(self, timeout_s: float) -> None:
        """Shut down in order, then by force; no `on_down` follows. Returns when it is gone."""

    def kill(self, reason: str = "killed on request") -> None:
        """End it at once, as a fault would (`on_down` follows and names the reason)."""

    def probe(self) -> Sign | None:
        """What became of the question asked by the call before; asks again once that is answered.

        Called every few seconds from one thread; must not block. None where it owes no answer: it
        is down, starting or stopping, or nothing of it could fall silent alone.
        """

    def describe(self) -> dict[str, Any]:
        """For people: pid, log file, state, incarnation."""


class Tokenizer(Protocol):
    """Text to token ids and back, on the caller's side."""

    hash: str

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of a prompt, special tokens as the model wants them."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of a whole sequence."""

    def chat(self, messages: Sequence[dict[str, Any]]) -> Sequence[int]:
        """Token ids of a conversation through the model's chat template."""

    def decoder(self, *, skip_special_tokens: bool = True) -> TextDecoder:
        """A fresh incremental decoder."""


class TextDecoder(Protocol):
    """Turns a growing sequence into text without ever showing half a character."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that became certain with these tokens."""

    def flush(self) -> str:
        """What was held back, at the end."""

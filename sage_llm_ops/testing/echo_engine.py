"""An engine without a model: deterministic tokens, and faults on request.

Named in an instance as `engine="sage_llm_ops.testing.echo_engine:EchoEngine"`.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.options import parse_options
from sage_llm_ops.engines.tokens import unpack
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import EngineStartError
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.kv import KvChange, KvRemoved
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Stats, Tokens

ECHO = f"{__name__}:EchoEngine"
"""Its name for `make_engine` and `ExecutionInstance.engine`."""


class EchoOptions(msgspec.Struct, frozen=True):
    """Everything is off by default."""

    step_s: float = 0.0
    """Time one step takes."""
    spin_s: float = 0.0
    """Time one step computes."""
    start_s: float = 0.0
    start_error: str = ""
    max_num_seqs: int = 8
    tokenizer_hash: str = "echo"
    tokenizer_kind: str = ""
    """`bytes`: what the plane then tokenises with; read by it alone."""
    model: str = ""
    """What it claims to serve; empty: no opinion."""
    raise_at_step: int = 0
    survives: bool = False
    """Whether it recovers from `raise_at_step`."""
    exit_at_step: int = 0
    litter: str = ""
    """Path of a file: at start a semaphore, shared memory and a temporary file are made, and their
    paths written there, a line each."""
    evicts: int = 0
    """Blocks that every step takes out of its prefix cache, called 0, 1, 2 and so on; with any, it
    tells of them."""
    fork: str = ""
    """Path of a file: at start a grandchild is left running and its pid written there."""


def echo_token(first: int, position: int) -> int:
    """The token at an absolute position, so that prompt + delivered continues exactly."""
    return (first + 31 * position) % 4096


class EchoEngine(BaseEngine):
    """One token a step for each of the first `max_num_seqs` nodes, the others wait."""

    name: ClassVar[str] = "echo"
    version = "1"

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = parse_options(EchoOptions, self.name, options)
        self._nodes: dict[NodeId, tuple[PlanNode, int, int]] = {}
        self._out: list[EngineEvent] = []
        self._step = 0
        self._evicted = 0
        self._changes: list[KvChange] = []

    def start(self) -> None:
        if self._options.litter:
            self._litter(self._options.litter)
        if self._options.fork:
            self._leave_grandchild(self._options.fork)
        time.sleep(self._options.start_s)
        if self._options.start_error:
            raise EngineStartError(self._options.start_error)

    def stop(self) -> None:
        self._nodes.clear()

    @property
    def spawns(self) -> bool:
        return bool(self._options.fork or self._options.litter)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            # One token is certain, so what only shifts probabilities is honoured by doing nothing.
            sampling=("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed"),
            max_num_seqs=self._options.max_num_seqs,
            max_model_len=4096,
            prefix_cache=bool(self._options.evicts),
            tells_cache=bool(self._options.evicts),
        )

    @property
    def tokenizer_hash(self) -> str:
        return self._options.tokenizer_hash

    @property
    def model(self) -> str:
        return self._options.model

    def submit(self, node: PlanNode) -> None:
        ids = unpack(node.tokens)
        if not ids:
            self._out.append(Failed(node.id, "invalid_request", "the prompt is empty"))
            return
        self._nodes[node.id] = (node, ids[0], 0)
        self._out.append(Accepted(node.id))

    def cancel(self, node: NodeId) -> None:
        held = self._nodes.pop(node, None)
        if held is not None:
            self._out.append(Done(node, "cancelled", held[0].n_tokens, held[2]))

    def step(self) -> list[EngineEvent]:
        self._step += 1
        if self._step == self._options.exit_at_step:
            os._exit(3)
        if self._step == self._options.raise_at_step:
            raise RuntimeError("echo engine: told to raise")
        if self._options.step_s and self._nodes:
            time.sleep(self._options.step_s)
        until = time.monotonic() + self._options.spin_s
        while self._options.spin_s and time.monotonic() < until:
            pass
        for _ in range(self._options.evicts):
            self._changes.append(KvRemoved(self._evicted.to_bytes(8, "little")))
            self._evicted += 1
        out, self._out = self._out, []
        for key in list(self._nodes)[: self._options.max_num_seqs]:
            node, first, made = self._nodes[key]
            token = echo_token(first, node.n_tokens + made)
            out.append(Tokens(key, node.offset + made, [token]))
            if made + 1 == node.sampling.max_tokens:
                del self._nodes[key]
                out.append(Done(key, "length", node.n_tokens, made + 1))
            else:
                self._nodes[key] = (node, first, made + 1)
        return out

    @property
    def busy(self) -> bool:
        return bool(self._nodes or self._out)

    def cache_changes(self) -> list[KvChange]:
        changes, self._changes = self._changes, []
        return changes

    def stats(self) -> Stats:
        running = min(len(self._nodes), self._options.max_num_seqs)
        return Stats(running, len(self._nodes) - running, 0.0)

    def recover(self, error: Exception) -> bool:
        if self._options.survives:
            self._nodes.clear()
            self._out.clear()
        return self._options.survives

    def _litter(self, path: str) -> None:
        semaphore = multiprocessing.get_context("spawn").Semaphore()
        memory = SharedMemory(create=True, size=4096)
        _, file = tempfile.mkstemp()
        self._held = (semaphore, memory)
        names = (f"sem.{semaphore._semlock.name.strip('/')}", memory.name.strip("/"))  # type: ignore[attr-defined]
        Path(path).write_text("\n".join([*(f"/dev/shm/{name}" for name in names), file]))

    @staticmethod
    def _leave_grandchild(path: str) -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(3600)
            os._exit(0)
        with open(path + ".part", "w", encoding="ascii") as file:
            file.write(str(pid))
        os.replace(path + ".part", path)

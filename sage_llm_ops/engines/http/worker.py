"""A worker that is a server somewhere: the plane's side."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, final

from sage_llm_ops.engines.base import Sign, Uplink
from sage_llm_ops.engines.http.options import options_of
from sage_llm_ops.engines.http.same_tokens import check_hash
from sage_llm_ops.engines.http.session import Session
from sage_llm_ops.engines.http.thread import LoopThread
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode


@final
class HttpWorker:
    """Implements `Worker` over an OpenAI-compatible server, which it neither starts nor ends:
    `kill` and `stop` end our connections, and an end of the server is told like a death.

    `tokenizer_hash` is that of the plane's tokenizer for the model.
    """

    def __init__(
        self,
        instance: ExecutionInstance,
        uplink: Uplink,
        *,
        tokenizer_hash: str = "",
        thread: LoopThread | None = None,
    ) -> None:
        self.id = WorkerId(instance.instance_id)
        self.instance = instance
        self.incarnation = 0
        self.options = options_of(instance)
        self._uplink = uplink
        self._hash = tokenizer_hash
        self._given = thread
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        check_hash(self.id, instance.model_name, self.options, tokenizer_hash)

    def start(self) -> None:
        with self._lock:
            if self._session is not None:
                raise IntegrityError(f"worker {self.id!r} was started while it runs")
            self.incarnation += 1
            session = self._session = Session(
                self.id, self.incarnation, self.options, self._hash, self._uplink, self._ended
            )
            self._loop = self._thread.spawn(session.run)

    def submit(self, node: PlanNode) -> bool:
        session = self._session
        return session is not None and session.up and self._post(session.submit, node)

    def cancel(self, node: NodeId) -> None:
        session = self._session
        if session is not None:
            self._post(session.cancel, node)

    def stop(self, timeout_s: float) -> None:
        if self._thread.inside:
            raise IntegrityError(f"worker {self.id!r}: stop() waits for the loop, so not from it")
        session = self._session
        if session is not None and self._post(session.end, ""):
            session.gone.wait(timeout_s)

    def kill(self, reason: str = "killed on request") -> None:
        session = self._session
        if session is not None:
            self._post(session.end, reason)

    def probe(self) -> Sign | None:
        """Its session asks after the server's health itself."""
        return None

    def describe(self) -> dict[str, Any]:
        session = self._session
        served = session.served if session is not None else None
        return {
            "id": self.id,
            "placement": "http",
            "engine": served.dialect.name if served is not None else "http",
            "state": "down" if session is None else "up" if session.up else "starting",
            "incarnation": self.incarnation,
            "pid": None,
            "log": None,
            "url": self.options.url,
        }

    @property
    def _thread(self) -> LoopThread:
        return self._given or LoopThread.shared()

    def _post(self, call: Callable[..., None], argument: Any) -> bool:
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(call, argument)
            return loop is not None
        except RuntimeError:
            return False  # the loop has ended, and the session before it

    def _ended(self, session: Session, reason: str) -> None:
        """On the loop's thread. The next start may come before the uplink's call has returned."""
        with self._lock:
            self._session = None
        if reason:
            text = f"worker {self.id!r}: {reason}"
            self._uplink.on_down(self.id, session.incarnation, text)

"""Who may do what: the gateway between connections and the control plane."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import final

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.requests import new_id
from sage_llm_ops.service.gateway.auth import Keys, Senders
from sage_llm_ops.service.gateway.catalogue import names, serving, shortest
from sage_llm_ops.service.gateway.connection import Connection
from sage_llm_ops.service.gateway.errors import HttpError, error_answer
from sage_llm_ops.service.gateway.messages import Answer, HttpRequest
from sage_llm_ops.service.gateway.routes import Call, find
from sage_llm_ops.telemetry.histogram import Histogram
from sage_llm_ops.types.errors import IntegrityError, SageLlmOpsError

log = logging.getLogger("sage_llm_ops.gateway")

_ID = re.compile(r"[\x21-\x7e]{1,128}")


@final
class Gateway:
    """The `Application` of all connections; lives in one event loop."""

    def __init__(self, plane: ControlPlane, config: GatewayConfig) -> None:
        self.plane = plane
        self.config = config
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self.created = int(time.time())
        self.in_flight = 0
        """Calls that count against `max_concurrency`."""
        self.answers: Counter[tuple[str, int]] = Counter()
        """By route and status."""
        self.seconds: dict[str, Histogram] = {}
        """From the head of a request to the end of its answer, by route."""
        self.pool = ThreadPoolExecutor(
            max(2, min(8, os.cpu_count() or 2)), thread_name_prefix="gateway-tokenize"
        )
        self.senders = Senders()
        self._keys = Keys(config)
        self._down: dict[str, float] = {}
        """Names for which no engine is up, and since when."""
        self._late: frozenset[str] = frozenset()
        """Those of them that nobody waits for any more."""
        self.tick()

    def tick(self) -> None:
        """Twice a second: the clock on the wall, and whose time is over."""
        self.date = formatdate(usegmt=True).encode()
        if self.connections:
            now = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                if connection.deadline is not None and connection.deadline < now:
                    connection.expired()
        self._look_for_engines(time.monotonic())

    # -- what the plane says ------------------------------------------------------------------

    @property
    def status(self) -> str:
        """In one word."""
        if self.draining:
            return "draining"
        if self.plane.ready and self.plane.running:
            return "ok"
        return "stopped" if self.plane.stopped_at is not None else "starting"

    def check_serving(self, model: str) -> None:
        """503 where nobody could begin with a request for this model, nor will in a moment."""
        if self.status != "ok":
            raise HttpError(
                503, f"the control plane is {self.status}; try again", code="not_running"
            )
        if model in self._late and not self._is_up(model):
            raise HttpError(503, self._too_late(model), code="no_engine_up")

    def _is_up(self, model: str) -> bool:
        return any(i.health_status == "healthy" for i in serving(self.plane, model))

    def _too_late(self, model: str) -> str:
        engines = ", ".join(i.instance_id for i in serving(self.plane, model))
        return (
            f"no engine that serves {model!r} is up ({engines}), nor was within engine_wait_s="
            f"{self.config.engine_wait_s:g} s; they are started again: try again"
        )

    def _look_for_engines(self, now: float) -> None:
        """Requests wait through a restart, and not for ever."""
        before = self._down
        self._down = {n: before.get(n, now) for n in names(self.plane) if not self._is_up(n)}
        wait = self.config.engine_wait_s
        self._late = frozenset(n for n, since in self._down.items() if now - since > wait)
        if self._late and self.plane.running:
            for handle in list(self.plane.pipeline.hands.handles.values()):
                request = handle.request
                if request.model in self._late:
                    said = self._too_late(request.model)
                    self.plane.pipeline.cancel(request.id, code="worker_lost", message=said)

    def model_len(self, model: str) -> int:
        """The longest sequence that each engine of this model takes; 0 while none has said."""
        return shortest(self.plane, serving(self.plane, model))

    # -- `Application` ------------------------------------------------------------------------

    def opened(self, connection: Connection) -> bool:
        self.connections.add(connection)
        return len(self.connections) <= self.config.max_connections

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def gate(self, request: HttpRequest, connection: Connection) -> Answer | None:
        given = request.headers.get("x-request-id")
        request.id = given if given is not None and _ID.fullmatch(given) else new_id()
        if not request.method:
            return None
        try:
            call = self._admit(request, connection)
            if given is not None and request.id != given:
                raise HttpError(
                    400,
                    f"x-request-id: {given[:80]!r} must be 1 to 128 visible ASCII characters",
                    code="invalid_value",
                    param="x-request-id",
                )
        except Exception as error:
            return self._told(error, request)
        request.call = call
        return None

    def _admit(self, request: HttpRequest, connection: Connection) -> Call:
        """Whoever shows a wrong key learns nothing, not even which routes there are."""
        try:
            call = find(request, connection)
        except HttpError:
            self._keys.who(request.headers)
            raise
        if not call.route.open:
            call.key = self._keys.who(request.headers)
        if call.route.admin:
            self._keys.may_manage(call.key, request.headers)
        return call

    async def serve(self, request: HttpRequest) -> Answer | None:
        call: Call = request.call
        if not call.route.works:
            return await self._handle(call)
        most = self.config.max_concurrency
        if self.in_flight >= most:
            return error_answer(
                HttpError(
                    429,
                    f"{self.in_flight} requests are being served and max_concurrency={most}; "
                    "wait for some to end or raise it",
                    code="overloaded",
                )
            )
        self.in_flight += 1
        try:
            return await self._handle(call)
        finally:
            self.in_flight -= 1

    async def _handle(self, call: Call) -> Answer | None:
        try:
            return await call.route.handler(self, call)
        except Exception as error:
            return self._told(error, call.request)

    def answered(self, request: HttpRequest, status: int) -> None:
        call: Call | None = request.call
        route = call.route.path if call is not None else "none"
        self.answers[route, status] += 1
        spent = self.seconds.get(route)
        if spent is None:
            spent = self.seconds[route] = Histogram()
        spent.add(time.monotonic() - request.came)

    # -- errors -------------------------------------------------------------------------------

    def _told(self, error: Exception, request: HttpRequest) -> Answer:
        self.note(error, request)
        return error_answer(error)

    def note(self, error: Exception, request: HttpRequest) -> None:
        """A defect goes to the log; what is refused on purpose only to the client."""
        expected = isinstance(error, (HttpError, SageLlmOpsError))
        if not expected or isinstance(error, IntegrityError):
            log.error(
                "request %s: %s %s broke",
                request.id,
                request.method,
                request.target,
                exc_info=error,
            )

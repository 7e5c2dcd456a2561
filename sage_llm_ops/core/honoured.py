"""Refuses, at the door, what an engine that may get the request would silently leave out."""

from __future__ import annotations

from sage_llm_ops.pipeline.hands import LiveHands
from sage_llm_ops.types.capabilities import Capabilities, first_set
from sage_llm_ops.types.errors import InvalidRequest
from sage_llm_ops.types.requests import Request

Ignoring = tuple[tuple[str, Capabilities], ...]
"""Engines that ignore something: their names, and what they can."""


class Honoured:
    """Every worker that could be chosen must honour every field that is set: routing does not look
    at sampling parameters. Worked out once per model, until a worker comes or goes.

    A worker that has not come up yet has said nothing; `LiveHands` asks again before it hands over.
    """

    def __init__(self, hands: LiveHands) -> None:
        self._hands = hands
        self._known: dict[tuple[str, str], Ignoring] = {}

    def forget(self) -> None:
        """A worker came up or left."""
        self._known = {}

    def check(self, request: Request) -> None:
        """Raises `InvalidRequest` that names field, value, engine and what is honoured."""
        if request.task != "generate":
            return
        known = self._known  # `forget` may come while this is being worked out
        key = (request.model, request.pin)
        ignoring = known.get(key)
        if ignoring is None:
            ignoring = known[key] = self._ignoring(*key)
        for engine, can in ignoring:
            field = first_set(request.sampling, can.ignores)
            if field is not None:
                value = getattr(request.sampling, field)
                raise InvalidRequest(can.refusal(engine, field, value), request_id=request.id)

    def _ignoring(self, model: str, pin: str) -> Ignoring:
        found: dict[tuple[str, tuple[str, ...]], tuple[str, Capabilities]] = {}
        for worker, hello in list(self._hands.hellos.items()):
            attached = self._hands.workers.get(worker)
            can = hello.capabilities
            if attached is None or pin not in ("", worker) or not can.ignores:
                continue
            instance = attached.instance
            names = (instance.model_name or hello.model, *instance.other_names)
            if model in names and "generate" in can.tasks:
                found[hello.engine, can.ignores] = (hello.engine, can)
        return tuple(found.values())

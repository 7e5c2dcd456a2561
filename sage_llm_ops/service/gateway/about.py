"""What the server says about itself: models, health, metrics, why, and its own description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sage_llm_ops.service.gateway.catalogue import names
from sage_llm_ops.service.gateway.errors import HttpError
from sage_llm_ops.service.gateway.messages import Answer, json_answer
from sage_llm_ops.service.gateway.metrics_text import KIND, metrics_text
from sage_llm_ops.service.gateway.openai import ModelCard, ModelList
from sage_llm_ops.telemetry.ledger import Entry

if TYPE_CHECKING:
    from sage_llm_ops.service.gateway.app import Gateway
    from sage_llm_ops.service.gateway.routes import Call

PREFIXES = ("chatcmpl-", "cmpl-")
"""What answers put before a request's id."""


class Health(msgspec.Struct, frozen=True):
    """`status` is `ok`, `starting`, `draining` or `stopped`."""

    status: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests are taken, and by how many of the engines."""

    status: str
    engines: int
    engines_up: int


class Why(msgspec.Struct, frozen=True):
    """The ledger's entries about one request; `rows` and `costs` of a `place` run in parallel, and a
    row is an index into `workers`."""

    request_id: str
    workers: list[str]
    entries: list[Entry]


async def health(gateway: Gateway, call: Call) -> Answer:
    """200 while the process answers."""
    return json_answer(Health(gateway.status))


async def ready(gateway: Gateway, call: Call) -> Answer:
    """200 while requests are taken, else 503."""
    instances = list(gateway.plane.instances.values())
    up = sum(instance.health_status == "healthy" for instance in instances)
    status = gateway.status
    if status == "ok" and not up:
        status = "no engine is up"
    good = status == "ok"
    headers = () if good else (("retry-after", "1"),)
    return json_answer(Readiness(status, len(instances), up), 200 if good else 503, *headers)


async def models(gateway: Gateway, call: Call) -> Answer:
    """Every model that is served."""
    return json_answer(ModelList(data=_cards(gateway)))


async def model(gateway: Gateway, call: Call) -> Answer:
    """One of them."""
    name = call.params["model"]
    for card in _cards(gateway):
        if card.id == name:
            return json_answer(card)
    raise HttpError(
        404, f"model {name!r} is not served here; see /v1/models", code="model_not_found"
    )


def _cards(gateway: Gateway) -> list[ModelCard]:
    return [
        ModelCard(id=name, created=gateway.created, max_model_len=gateway.model_len(name) or None)
        for name in names(gateway.plane)
    ]


async def metrics(gateway: Gateway, call: Call) -> Answer:
    """Prometheus' text format; see docs/metrics.md."""
    return Answer(200, metrics_text(gateway).encode(), kind=KIND)


async def why(gateway: Gateway, call: Call) -> Answer:
    """What was decided about a request, from the ledger's memory; one of another key is unknown."""
    given = call.params["request_id"]
    found = gateway.plane.pipeline.ledger.about
    # As it is first: a client may have chosen an id that begins like those of answers.
    inner = (given.removeprefix(prefix) for prefix in PREFIXES if given.startswith(prefix))
    for identity in (given, *inner):
        entries = found(identity)
        if entries and gateway.senders.may_read(call.key, identity):
            break
    else:
        raise HttpError(
            404,
            f"nothing about request {given!r} is remembered here; the ledger's file may hold it: "
            "sage-llm-ops why",
            code="unknown_request",
        )
    return json_answer(explained(identity, entries))


def explained(identity: str, told: list[Entry]) -> Why:
    """One list of workers, also where rows came to mean others while the request was here."""
    numbers: dict[str, int] = {}
    mine, fleet = [], list[int]()
    for entry in told:
        if entry.kind == "fleet":
            fleet = [numbers.setdefault(worker, len(numbers)) for worker in entry.workers]
        else:
            rows = [fleet[row] for row in entry.rows]
            mine.append(msgspec.structs.replace(entry, rows=rows))
    return Why(identity, list(numbers), mine)


async def description(gateway: Gateway, call: Call) -> Answer:
    """This server as an OpenAPI document."""
    from sage_llm_ops.service.gateway.openapi import document

    made: dict[str, Any] = document(gateway)
    return json_answer(made)

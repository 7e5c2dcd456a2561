"""`/v1/management/engines`: the fleet while it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from sage_llm_ops.core.describe import describe
from sage_llm_ops.engines.registry import ENGINES
from sage_llm_ops.service.gateway.bodies import read_body
from sage_llm_ops.service.gateway.errors import HttpError
from sage_llm_ops.service.gateway.messages import Answer, json_answer
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance

if TYPE_CHECKING:
    from sage_llm_ops.service.gateway.app import Gateway
    from sage_llm_ops.service.gateway.routes import Call

Size = Annotated[int, Meta(ge=1, le=4096)]
DRAIN_S = 60.0


class EngineBody(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An engine to start: what `[[...instances]]` of services.toml holds."""

    instance_id: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\w.:-]+$")]
    model_name: Annotated[str, Meta(min_length=1)] = ""
    engine: str | None = None
    placement: str | None = None
    host: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    instance_type: str = "general"
    tensor_parallel_size: Size = 1
    pipeline_parallel_size: Size = 1
    max_concurrency: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    options: dict[str, Any] = {}
    lease_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    """It leaves the fleet unless a heartbeat comes at least so often; without it, it stays."""


_read = msgspec.json.Decoder(EngineBody).decode


async def engines(gateway: Gateway, call: Call) -> Answer:
    """One row an engine."""
    return json_answer({"object": "list", "data": describe(gateway.plane)})


async def register(gateway: Gateway, call: Call) -> Answer:
    """Start one more. It takes requests once it is up: `health` in the list says when."""
    body = read_body(EngineBody, _read, call.request.body)
    fields = msgspec.structs.asdict(body)
    lease_s = fields.pop("lease_s")
    if body.instance_id in gateway.plane.instances:
        raise HttpError(
            409,
            f"instance_id={body.instance_id!r} is registered already; choose another",
            code="duplicate_engine",
            param="instance_id",
        )
    if body.engine is not None and body.engine not in ENGINES:
        # `package.module:Class` would import whatever a caller names.
        raise _bad(UnknownName("engine", body.engine, ENGINES, key="engine"))
    try:
        instance = ExecutionInstance(**fields)
        if lease_s is None:
            await asyncio.to_thread(gateway.plane.register, instance)
        else:
            await asyncio.to_thread(gateway.plane.register_leased, instance, lease_s)
    except ConfigError as error:
        raise _bad(error) from None
    return json_answer(_row(gateway, body.instance_id), 201)


async def heartbeat(gateway: Gateway, call: Call) -> Answer:
    """Renew a lease; says how long it holds."""
    identity = _known(gateway, call)
    lease_s = gateway.plane.heartbeat(identity)
    return json_answer({"instance_id": identity, "lease_s": lease_s})


async def drain(gateway: Gateway, call: Call) -> Answer:
    """Give it nothing new; what it runs goes on."""
    identity = _known(gateway, call)
    gateway.plane.pipeline.drain_worker(WorkerId(identity))
    return json_answer({"instance_id": identity, "draining": True}, 202)


async def remove(gateway: Gateway, call: Call) -> Answer:
    """Take it out once what it runs has ended; with `?drain=false` at once, and other engines go on
    with what it ran."""
    identity = _known(gateway, call)
    said = call.query.get("drain", "true")
    if said not in ("true", "false"):
        raise HttpError(
            400, f"drain={said!r} must be true or false", code="invalid_value", param="drain"
        )
    await asyncio.to_thread(
        gateway.plane.unregister, identity, drain=said == "true", timeout_s=DRAIN_S
    )
    return json_answer({"instance_id": identity, "removed": True})


def _known(gateway: Gateway, call: Call) -> str:
    identity = call.params["instance_id"]
    if identity not in gateway.plane.instances:
        raise UnknownName("engine", identity, gateway.plane.instances)
    return identity


def _row(gateway: Gateway, identity: str) -> dict[str, Any]:
    rows = describe(gateway.plane)
    return next(
        (row for row in rows if identity in (row.get("worker"), row.get("id"))), {"id": identity}
    )


def _bad(error: ConfigError) -> HttpError:
    return HttpError(400, str(error), code=error.code, param=error.key)

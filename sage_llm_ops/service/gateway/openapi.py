"""`/openapi.json`, made from the routes and from the structs that bodies are read into."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sage_llm_ops.service.gateway import generate, openai
from sage_llm_ops.service.gateway.messages import JSON
from sage_llm_ops.service.gateway.metrics_text import KIND
from sage_llm_ops.service.gateway.routes import ROUTES, Route

if TYPE_CHECKING:
    from sage_llm_ops.service.gateway.app import Gateway

_REF = "#/components/schemas/{name}"
_WORDS = {
    400: "The request is wrong; the message names field, value and limit",
    401: "No API key, or one that is not known",
    403: "The key may not do this",
    404: "No such thing here",
    408: "The request did not come in time, or its `timeout_ms` passed",
    409: "The id is taken",
    413: "The body is larger than max_body_bytes",
    422: "Engines died of what it asks, and it is kept from the others",
    429: "No room now; `retry-after` says when to try again",
    431: "The head is larger than max_header_bytes",
    499: "It was cancelled",
    500: "It failed",
    502: "The engine failed on it",
    503: "Nobody can serve it now; `retry-after` says when to try again",
}
_EVERYWHERE = (408, 413, 431, 503)


class ErrorDetail(Struct, frozen=True):
    """`code` is the stable name; `param` the field that is wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Struct, frozen=True):
    """In OpenAI's shape."""

    error: ErrorDetail


def document(gateway: Gateway) -> dict[str, Any]:
    """OpenAPI 3.1; what is not written here is refused."""
    structs: list[Any] = [ErrorAnswer]
    for route in ROUTES:
        structs += [kind for kind in (route.body, route.answer) if _is_struct(kind)]
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    for body in (openai.ChatBody, openai.CompletionBody, openai.EmbeddingBody):
        _neutral(schemas[body.__name__]["properties"])
    keys = bool(gateway.config.api_keys)
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sage-llm-ops gateway",
            "version": "1",
            "description": "OpenAI-compatible; every answer carries `x-request-id`.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keys else {}),
        },
    }


def _operation(route: Route, keys: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', route.path)}",
        "parameters": _parameters(route),
        "responses": _responses(route, keys),
    }
    if route.body is not None:
        schema = {"$ref": _REF.format(name=route.body.__name__)}
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if keys:
        found["security"] = [] if route.open else [{"key": []}]
    return found


def _parameters(route: Route) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    found = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.works:
        found += [
            _header("x-request-id", {"type": "string", "pattern": "^[!-~]{1,128}$"}),
            _header("x-priority", {"enum": _priorities()}),
            _header("x-slo-ms", {"type": "number", "exclusiveMinimum": 0, "maximum": 1e10}),
            _header("x-tenant", {"type": "string"}),
            _header("traceparent", {"type": "string"}),
        ]
    if route.method == "DELETE":
        schema = {"type": "string", "enum": ["true", "false"], "default": "true"}
        found.append({"name": "drain", "in": "query", "required": False, "schema": schema})
    return found


def _header(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema}


def _priorities() -> list[str]:
    from sage_llm_ops.types.requests import RequestPriority

    return [p.name.lower() for p in RequestPriority] + [str(int(p)) for p in RequestPriority]


def _responses(route: Route, keys: bool) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "It worked"}
    if _is_struct(route.answer):
        good["content"] = {JSON: {"schema": {"$ref": _REF.format(name=route.answer.__name__)}}}
    elif route.answer is dict:
        good["content"] = {JSON: {"schema": {"type": "object"}}}
    else:
        good["content"] = {KIND: {"schema": {"type": "string"}}}
    if route.handler in (generate.chat, generate.complete):
        good["content"]["text/event-stream"] = {}
        good["description"] += "; with `stream` a stream of events that ends with `[DONE]`"
    statuses = {*route.errors, *_EVERYWHERE}
    statuses |= {401} if keys and not route.open else set()
    statuses |= {403} if route.admin or (keys and route.works) else set()
    error = {"schema": {"$ref": _REF.format(name="ErrorAnswer")}}
    found = {str(route.good): good}
    for status in sorted(statuses):
        found[str(status)] = {"description": _WORDS[status], "content": {JSON: error}}
    if route.path == "/ready":
        found["503"] = {"description": "Not now", "content": good["content"]}
    return found


def _neutral(properties: dict[str, Any]) -> None:
    """Fields that are taken at the values alone that change nothing."""
    for name in properties:
        if name in openai.NEUTRAL:
            properties[name] = {"enum": [*openai.NEUTRAL[name], None], "default": None}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)

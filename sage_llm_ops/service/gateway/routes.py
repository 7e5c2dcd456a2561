"""What can be asked for, and by whom: the one table that the router and `/openapi.json` read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from sage_llm_ops.config.gateway import ApiKey
from sage_llm_ops.service.gateway import about, embed, generate, management, openai
from sage_llm_ops.service.gateway.errors import HttpError
from sage_llm_ops.service.gateway.messages import Answer, HttpRequest

if TYPE_CHECKING:
    from sage_llm_ops.service.gateway.app import Gateway
    from sage_llm_ops.service.gateway.connection import Connection


@dataclass(slots=True)
class Call:
    """A request that found its route."""

    route: Route
    request: HttpRequest
    params: dict[str, str]
    query: dict[str, str]
    connection: Connection
    """For those who stream."""
    key: ApiKey | None = None


Handler = Callable[["Gateway", Call], Awaitable[Answer | None]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. The last `{parameter}` of a path takes what is left, slashes too,
    unless something follows it."""

    method: str
    path: str
    handler: Handler
    summary: str
    body: type | None = None
    """None: it takes none."""
    answer: Any = None
    """Struct of the good answer."""
    good: int = 200
    open: bool = False
    """Without a key."""
    admin: bool = False
    works: bool = False
    """Counts against `max_concurrency`."""
    errors: tuple[int, ...] = field(default=())
    """Statuses beside those that every route can answer with."""


WORK = (400, 404, 408, 409, 422, 429, 499, 500, 502, 503)

ROUTES = (
    Route(
        "POST",
        "/v1/chat/completions",
        generate.chat,
        "The next turn of a conversation",
        body=openai.ChatBody,
        answer=openai.ChatAnswer,
        works=True,
        errors=WORK,
    ),
    Route(
        "POST",
        "/v1/completions",
        generate.complete,
        "Continue one or several prompts",
        body=openai.CompletionBody,
        answer=openai.TextAnswer,
        works=True,
        errors=WORK,
    ),
    Route(
        "POST",
        "/v1/embeddings",
        embed.embed,
        "Vectors of one or several inputs",
        body=openai.EmbeddingBody,
        answer=openai.EmbeddingAnswer,
        works=True,
        errors=WORK,
    ),
    Route("GET", "/v1/models", about.models, "The models served here", answer=openai.ModelList),
    Route(
        "GET",
        "/v1/models/{model}",
        about.model,
        "One model",
        answer=openai.ModelCard,
        errors=(404,),
    ),
    Route(
        "GET",
        "/v1/why/{request_id}",
        about.why,
        "What was decided about a request, and of what it was made",
        answer=about.Why,
        errors=(404,),
    ),
    Route(
        "GET",
        "/v1/management/engines",
        management.engines,
        "The engines and their load",
        answer=dict,
        admin=True,
    ),
    Route(
        "POST",
        "/v1/management/engines",
        management.register,
        "Start another engine",
        body=management.EngineBody,
        answer=dict,
        good=201,
        admin=True,
        errors=(400, 409, 503),
    ),
    Route(
        "POST",
        "/v1/management/engines/{instance_id}/heartbeat",
        management.heartbeat,
        "Renew the lease of an engine",
        answer=dict,
        admin=True,
        errors=(404,),
    ),
    Route(
        "POST",
        "/v1/management/engines/{instance_id}/drain",
        management.drain,
        "Give an engine nothing new",
        answer=dict,
        good=202,
        admin=True,
        errors=(404,),
    ),
    Route(
        "DELETE",
        "/v1/management/engines/{instance_id}",
        management.remove,
        "Take an engine out",
        answer=dict,
        admin=True,
        errors=(400, 404),
    ),
    Route(
        "GET",
        "/health",
        about.health,
        "Whether the process answers",
        answer=about.Health,
        open=True,
    ),
    Route(
        "GET",
        "/ready",
        about.ready,
        "Whether requests are taken",
        answer=about.Readiness,
        errors=(503,),
    ),
    Route("GET", "/metrics", about.metrics, "Prometheus' text format"),
    Route("GET", "/openapi.json", about.description, "This document", answer=dict),
)

_EXACT: dict[str, dict[str, Route]] = {}
_PATTERNS: list[tuple[str, str, str, dict[str, Route]]] = []
"""Before the parameter, its name, after it, the methods."""


def _index() -> None:
    patterns: dict[str, tuple[str, str, str, dict[str, Route]]] = {}
    for route in ROUTES:
        before, brace, rest = route.path.partition("{")
        if not brace:
            _EXACT.setdefault(route.path, {})[route.method] = route
            continue
        name, _, after = rest.partition("}")
        found = patterns.setdefault(route.path, (before, name, after, {}))
        found[3][route.method] = route
    _PATTERNS.extend(sorted(patterns.values(), key=lambda pattern: -len(pattern[2])))


_index()


def find(request: HttpRequest, connection: Connection) -> Call:
    """The call, or `HttpError` 404 or 405."""
    target, _, query = request.target.partition("?")
    methods, params = _matched(target)
    method = "GET" if request.method == "HEAD" else request.method
    route = methods.get(method)
    if route is None:
        allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
        raise HttpError(
            405,
            f"{target[:200]} does not take {request.method}; it takes {', '.join(allowed)}",
            code="method_not_allowed",
            headers=(("allow", ", ".join(allowed)),),
        )
    return Call(route, request, params, dict(parse_qsl(query)) if query else {}, connection)


def _matched(target: str) -> tuple[dict[str, Route], dict[str, str]]:
    exact = _EXACT.get(target)
    if exact is not None:
        return exact, {}
    for before, name, after, methods in _PATTERNS:
        end = len(target) - len(after)
        if target.startswith(before) and target.endswith(after) and end > len(before):
            return methods, {name: unquote(target[len(before) : end])}
    known = ", ".join(dict.fromkeys(route.path for route in ROUTES))
    raise HttpError(
        404,
        f"{target[:200]!r} is nothing that can be asked for here; there is {known}",
        code="unknown_route",
    )

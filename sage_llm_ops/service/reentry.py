"""Refuses to be called through SAGE's `call_service` from a graph that takes its own input.

While `call_service` waits for its answer it polls the graph's sources, on the caller's stack: items
overtake each other, each of them calls again, and at about a hundred the source's thread dies of a
RecursionError. We are called on another thread meanwhile, so only the first call is refused there
(quickly: SAGE has taken a handful of items by then); from then on the caller itself is.
"""

from __future__ import annotations

import threading
from typing import Any

from sage_llm_ops.types.errors import PipelineError

SERVICE_THREAD = "sage_local_service"
"""How SAGE names the threads that carry `call_service` out, and no others."""


def refuse_call_service(name: str, ctx: Any) -> None:
    """Raise `PipelineError` on a thread of `call_service`, unless its graph has nothing to poll.

    By the thread and not by who called us: it may have been another service, which was called so.
    """
    if threading.current_thread().name.startswith(SERVICE_THREAD) and _polls(ctx):
        refuse_further(name, ctx)
        raise _refusal(name)


def refuse_further(name: str, ctx: Any) -> None:
    """Let `call_service` of this graph raise before it waits, where it names us.

    SAGE has no hook for it, so its method is replaced on this one object. If a version of it has
    none of that name, the refusal above is all there is.
    """
    runtime: Any = getattr(ctx, "_service_runtime", None)
    plain = getattr(runtime, "call_service_async", None)
    if plain is None or not _polls(ctx):
        return
    names: set[str] | None = getattr(plain, "refuses", None)
    if names is not None:
        names.add(name)
        return
    names = {name}

    def call_service_async(service_name: str, *args: Any, **fields: Any) -> Any:
        if service_name in names:
            raise _refusal(service_name)
        return plain(service_name, *args, **fields)

    call_service_async.refuses = names  # type: ignore[attr-defined]
    runtime.call_service_async = call_service_async


def _refusal(name: str) -> PipelineError:
    return PipelineError(
        f"call_service({name!r}) from a graph with a streaming source would take further items "
        "while it waits, out of order and without end: write "
        f"self.ctx.get_service({name!r}).process(payload)"
    )


def _polls(ctx: Any) -> bool:
    """Whether SAGE has sources to poll. Only a graph of `from_batch` has none; what an unknown
    version of SAGE does is taken for the worse."""
    runtime = getattr(ctx, "_service_runtime", None)
    graph = getattr(getattr(runtime, "_progress_callback", None), "__self__", None)
    sources = getattr(graph, "source_transformations", None)
    if sources is None:
        return True
    return any(type(source).__name__ != "BatchTransformation" for source in sources)

"""A node as an HTTP request."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.engines.http.dialects import Dialect
from sage_llm_ops.engines.tokens import unpack
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams

ALWAYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Sent even at our default: servers put the model's own recommendation in place of what is left out."""

_DEFAULT = SamplingParams()


def headers_of(node: PlanNode) -> dict[str, str]:
    """Of this request alone: the place for a `traceparent`."""
    return {}


def request_of(
    node: PlanNode, model: str, dialect: Dialect, *, as_tokens: bool
) -> tuple[str, dict[str, Any]]:
    """Path and JSON body."""
    written = node.untokenised
    if node.task == "embed":
        given = unpack(node.tokens) if written is None else written
        return "/v1/embeddings", {"model": model, "input": given, "encoding_format": "float"}
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": node.sampling.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling_of(node.sampling, dialect),
    }
    if isinstance(written, list):
        return "/v1/chat/completions", {**body, "messages": written}
    if as_tokens:
        body["return_token_ids"] = True
    return "/v1/completions", {
        **body,
        "prompt": unpack(node.tokens) if written is None else written,
    }


def sampling_of(sampling: SamplingParams, dialect: Dialect) -> dict[str, Any]:
    """What the server honours of it and must be told."""
    found: dict[str, Any] = {}
    for name in dialect.sampling:
        value = getattr(sampling, name)
        if name in ALWAYS or value != getattr(_DEFAULT, name):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found

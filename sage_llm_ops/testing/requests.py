"""Requests in one line."""

from __future__ import annotations

from typing import Any

import numpy as np

from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import Request, SamplingParams


def make_request(
    identity: str,
    *,
    model: str = "m",
    n_prompt: int = 4,
    max_tokens: int = 4,
    temperature: float = 0.0,
    **fields: Any,
) -> Request:
    """As it travels: the prompt is 1, 2, ... `n_prompt`; `fields` are those of `Request`."""
    return Request(
        id=RequestId(identity),
        model=model,
        tokens=np.arange(1, n_prompt + 1, dtype="<i4").tobytes(),
        n_prompt=n_prompt,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature),
        **fields,
    )

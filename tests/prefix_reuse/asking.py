"""Requests whose token ids are known, for views of blocks of four."""

from __future__ import annotations

from typing import Any

import numpy as np

from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.requests import Request

SIZE = 4


def request(tokens: list[int], identity: str = "r", **fields: Any) -> Request:
    made = make_request(identity, model=fields.pop("model", "m"), **fields)
    made.tokens, made.n_prompt = np.asarray(tokens, dtype="<i4").tobytes(), len(tokens)
    return made

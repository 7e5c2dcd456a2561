"""`/v1/embeddings`: one request of the plane for each input."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sage_llm_ops.service.gateway.bodies import read_body
from sage_llm_ops.service.gateway.generate import prompts_of, results_of, usage_of
from sage_llm_ops.service.gateway.intake import accept, forget, order
from sage_llm_ops.service.gateway.messages import Answer, json_answer
from sage_llm_ops.service.gateway.openai import (
    EmbeddingAnswer,
    EmbeddingBody,
    Vector,
    refuse_unsupported,
)
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.requests import Task

if TYPE_CHECKING:
    from sage_llm_ops.service.gateway.app import Gateway
    from sage_llm_ops.service.gateway.routes import Call

_read = msgspec.json.Decoder(EmbeddingBody).decode


async def embed(gateway: Gateway, call: Call) -> Answer:
    """Vectors in the order of the input."""
    body = read_body(EmbeddingBody, _read, call.request.body)
    refuse_unsupported(body)
    wanted = order(gateway, call, body, Task.EMBED)
    handles = await accept(gateway, call, wanted, prompts_of(body.input, "input"))
    try:
        results = await results_of(handles)
    finally:
        forget(gateway, handles)
    data = [
        Vector(index=index, embedding=_written(result.embedding, body.encoding_format))
        for index, result in enumerate(results)
    ]
    return json_answer(
        EmbeddingAnswer(data=data, model=wanted.model, usage=usage_of(results, completion=False))
    )


def _written(embedding: tuple[float, ...] | None, form: str | None) -> list[float] | str:
    if embedding is None:
        raise IntegrityError("an embedding request completed without an embedding")
    if form == "base64":
        return base64.b64encode(np.asarray(embedding, dtype="<f4").tobytes()).decode()
    return list(embedding)

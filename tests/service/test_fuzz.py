"""Whatever is sent, the answer is typed and no defect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_llm_ops.service.gateway.openai import ChatBody, CompletionBody, EmbeddingBody
from tests.service.serving import MODEL, Serving, error_of, sim

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FIELDS = sorted(
    {
        *ChatBody.__struct_fields__,
        *CompletionBody.__struct_fields__,
        *EmbeddingBody.__struct_fields__,
    }
)
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "x"]), "content": st.text()}),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with sim(max_model_len=2048, tasks=("generate", "embed")) as serving:
        yield serving


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def check(client: httpx.Client, path: str, content: bytes) -> None:
    response = client.post(path, content=content)
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        assert error_of(response)["message"]


@SETTINGS
@given(st.sampled_from(ROUTES), st.binary(max_size=200))
def test_any_bytes(client: httpx.Client, path: str, content: bytes) -> None:
    check(client, path, content)


@SETTINGS
@given(st.sampled_from(ROUTES), st.dictionaries(st.sampled_from(FIELDS), anything, max_size=5))
def test_any_values_in_known_fields(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    check(client, path, json.dumps(body).encode("utf-8", "surrogatepass"))


@SETTINGS
@given(turns, st.dictionaries(st.sampled_from(FIELDS), anything, max_size=2))
def test_one_wrong_thing_in_a_good_chat(
    client: httpx.Client, messages: list[dict[str, str]], more: dict[str, Any]
) -> None:
    body = {"model": MODEL, "messages": messages, "max_tokens": 2, **more}
    check(client, ROUTES[0], json.dumps(body).encode("utf-8", "surrogatepass"))

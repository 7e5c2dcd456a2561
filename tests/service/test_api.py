"""The routes, through httpx."""

from __future__ import annotations

import base64
import dataclasses
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving as serving_spec
from sage_llm_ops.service.gateway.metrics_text import METRICS, PREFIX
from sage_llm_ops.testing import HeldFleet
from sage_llm_ops.types.instances import ExecutionInstance
from tests.service.serving import KEYS, MODEL, USER, Serving, chat, error_of, events, held, sim

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with sim(tasks=("generate", "embed")) as serving:
        yield serving


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def test_a_chat_is_answered(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat(max_tokens=5))
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == MODEL
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert len(choice["message"]["content"]) == 5
    assert choice["finish_reason"] == "length"
    usage = body["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    assert "token_ids" not in choice and "prompt_token_ids" not in body


def test_the_stream_says_the_same(client: httpx.Client) -> None:
    whole = client.post(CHAT, json=chat(max_tokens=9)).json()["choices"][0]["message"]["content"]
    response = client.post(CHAT, json=chat(max_tokens=9, stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response.text)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [event["choices"][0]["delta"].get("content", "") for event in found]
    assert "".join(deltas) == whole
    assert [event["choices"][0]["finish_reason"] for event in found][-1] == "length"
    assert all(len(event["choices"]) == 1 for event in found), "a chunk without choices"
    assert len({event["id"] for event in found}) == 1


def test_usage_is_streamed_when_asked_for(client: httpx.Client) -> None:
    options = {"include_usage": True}
    text = client.post(CHAT, json=chat(max_tokens=3, stream=True, stream_options=options)).text
    last = events(text)[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


def test_token_ids_as_vllm_gives_them(client: httpx.Client) -> None:
    body = client.post(CHAT, json=chat(max_tokens=3, return_token_ids=True)).json()
    assert len(body["choices"][0]["token_ids"]) == 3
    assert len(body["prompt_token_ids"]) == body["usage"]["prompt_tokens"]
    stream = events(
        client.post(CHAT, json=chat(max_tokens=3, stream=True, return_token_ids=True)).text
    )
    assert stream[0]["prompt_token_ids"] == body["prompt_token_ids"]
    ids = [id_ for event in stream for id_ in event["choices"][0].get("token_ids", [])]
    assert ids == body["choices"][0]["token_ids"]
    done = client.post(
        COMPLETE, json={"prompt": [5, 6, 7], "max_tokens": 2, "return_token_ids": True}
    ).json()
    (choice,) = done["choices"]
    assert choice["prompt_token_ids"] == [5, 6, 7]
    assert len(choice["token_ids"]) == 2
    streamed = events(
        client.post(
            COMPLETE,
            json={"prompt": [5, 6, 7], "max_tokens": 2, "return_token_ids": True, "stream": True},
        ).text
    )
    assert streamed[0]["choices"][0]["prompt_token_ids"] == [5, 6, 7]
    ids = [id_ for event in streamed for id_ in event["choices"][0]["token_ids"]]
    assert ids == choice["token_ids"]


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("one", 1), (["one", "two", "one"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2)],
)
def test_prompts_of_every_kind(client: httpx.Client, prompt: object, choices: int) -> None:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 4}
    whole = client.post(COMPLETE, json=body).json()
    assert [choice["index"] for choice in whole["choices"]] == list(range(choices))
    assert whole["usage"]["completion_tokens"] == 4 * choices
    texts = [""] * choices
    for event in events(client.post(COMPLETE, json={**body, "stream": True}).text):
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_a_completion_has_sixteen_tokens_and_a_chat_what_is_configured(
    client: httpx.Client,
) -> None:
    done = client.post(COMPLETE, json={"prompt": "x"}).json()
    assert done["usage"]["completion_tokens"] == 16
    assert client.post(CHAT, json=chat()).json()["usage"]["completion_tokens"] == 512


def test_a_default_gives_way_to_the_prompt_and_a_wish_does_not() -> None:
    with sim(max_model_len=100, max_num_batched_tokens=256) as serving, serving.client() as client:
        body = client.post(CHAT, json=chat()).json()
        assert body["usage"]["total_tokens"] == 100
        refused = client.post(CHAT, json=chat(max_tokens=90))
        assert refused.status_code == 400
        assert "exceed the 100" in error_of(refused)["message"]


def test_embeddings(client: httpx.Client) -> None:
    body = client.post("/v1/embeddings", json={"input": ["a", "b"], "model": MODEL}).json()
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert len(body["data"][0]["embedding"]) == 16
    assert body["usage"]["total_tokens"] == 2
    coded = client.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"}).json()
    raw = base64.b64decode(coded["data"][0]["embedding"])
    assert struct.unpack("<16f", raw) == pytest.approx(body["data"][0]["embedding"], rel=1e-6)


def test_models(client: httpx.Client) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["id"], card["object"]) == (MODEL, "model")
    assert client.get(f"/v1/models/{MODEL}").json() == card
    assert client.get("/v1/models/org/nothing").status_code == 404


def test_health_and_readiness(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ok", "engines": 2, "engines_up": 2}
    head = client.head("/health")
    assert (head.status_code, head.content) == (200, b"")


def test_why(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=chat(max_tokens=2), headers={"x-request-id": "tell-me"})
    assert answer.headers["x-request-id"] == "tell-me"
    assert answer.json()["id"] == "chatcmpl-tell-me"
    for name in ("tell-me", "chatcmpl-tell-me"):
        why = client.get(f"/v1/why/{name}").json()
        place = next(entry for entry in why["entries"] if entry["kind"] == "place")
        assert place["worker"] in why["workers"]
        assert len(place["rows"]) == len(place["costs"]) == 2
    chained = client.post(CHAT, json=chat(max_tokens=2), headers={"x-request-id": "cmpl-mine"})
    assert chained.json()["id"] == "chatcmpl-cmpl-mine"
    for name in ("cmpl-mine", "chatcmpl-cmpl-mine"):
        assert client.get(f"/v1/why/{name}").json()["request_id"] == "cmpl-mine"
    missing = client.get("/v1/why/nobody")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "unknown_request")


def test_a_request_id_is_made_where_none_is_given(client: httpx.Client) -> None:
    ids = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_metrics_are_prometheus_and_documented(client: httpx.Client) -> None:
    client.post(CHAT, json=chat(max_tokens=2))
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'^[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.e+-]+$')
    for row in response.text.splitlines():
        assert row.startswith("# ") or line.match(row), row
    asked = f'{PREFIX}http_requests_total{{route="/v1/chat/completions",status="200"}}'
    assert asked in response.text
    for name in ("hits", "matched_tokens", "conflicts", "evicted_blocks"):
        assert f"{PREFIX}prefix_{name}_total " in response.text
    assert f'{PREFIX}prefix_lookup_seconds{{quantile="0.99"}} ' in response.text
    assert f'{PREFIX}prefix_tokens_total{{kind="overclaimed"}} ' in response.text
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `sage_llm_ops_(\w+)` \| (\w+) \|", text, re.MULTILINE))
    assert documented == {name: kind for name, (kind, _) in METRICS.items()}


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        (b"", 400, None, "not JSON"),
        (b"[1]", 400, None, "expected `object`"),
        (b'{"messages": []}', 400, "messages", "length >= 1"),
        (b"[" * 50_000, 400, None, ""),
        (b'{"model": "\xff"}', 400, None, "not JSON"),
    ],
)
def test_broken_bodies(
    client: httpx.Client, body: bytes, status: int, param: str | None, words: str
) -> None:
    response = client.post(CHAT, content=body)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (status, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("more", "status", "param", "words"),
    [
        ({"n": 2}, 400, "n", "n=2 is not supported here; leave it out, or write 1"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        ({"logprobs": True}, 400, "logprobs", "or write false"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
        ({"temprature": 1}, 400, "temprature", "did you mean 'temperature'"),
        ({"temperature": 11}, 400, "temperature", "temperature=11: expected `float` <= 10"),
        ({"max_tokens": 0}, 400, "max_tokens", "max_tokens=0: expected `int` >= 1"),
        ({"max_tokens": "many"}, 400, "max_tokens", 'max_tokens="many"'),
        ({"min_tokens": 5, "max_tokens": 2}, 400, None, "min_tokens=5"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "max_tokens", "contradict"),
        ({"presence_penalty": 1.0}, 400, None, "not honoured by engine 'sim'"),
        ({"model": "gpt-9"}, 404, "model", "model 'gpt-9' is not served here; models here: 'sim"),
        ({"priority": "urgent"}, 400, None, "priority='urgent' is not one of CRITICAL"),
        ({"priority": 9}, 400, None, "priority=9"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "without stream"),
        ({"timeout_ms": 0}, 400, "timeout_ms", "> 0"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content", "null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages[0].content[0].type",
            "image_url",
        ),
    ],
)
def test_wishes_that_cannot_be_granted(
    client: httpx.Client, more: dict[str, object], status: int, param: str | None, words: str
) -> None:
    response = client.post(CHAT, json=chat(**more))
    error = error_of(response)
    assert (response.status_code, error["param"]) == (status, param), error
    assert words in error["message"]


def test_mixed_prompts_are_refused(client: httpx.Client) -> None:
    response = client.post(COMPLETE, json={"prompt": ["a", 1]})
    assert response.status_code == 400
    assert "mixes int, str" in error_of(response)["message"]


def test_neutral_values_are_taken(client: httpx.Client) -> None:
    neutral = {"n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}}
    turn = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}
    body = chat(max_tokens=1, top_k=-1, **neutral)
    body["messages"].append(turn)
    assert client.post(CHAT, json=body).status_code == 200


def test_wrong_routes_and_methods(client: httpx.Client) -> None:
    nowhere = client.get("/v2/models")
    assert (nowhere.status_code, error_of(nowhere)["code"]) == (404, "unknown_route")
    wrong = client.get(CHAT)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert client.request("TRACE", "/health").headers["allow"] == "GET, HEAD"


def test_a_request_id_in_use_is_a_conflict(client: httpx.Client) -> None:
    headers = {"x-request-id": "twice"}
    assert client.post(CHAT, json=chat(max_tokens=1), headers=headers).status_code == 200
    again = client.post(CHAT, json=chat(max_tokens=1), headers=headers)
    assert (again.status_code, error_of(again)["code"]) == (409, "duplicate_request")
    bad = client.post(CHAT, json=chat(), headers={"x-request-id": "a b"})
    assert (bad.status_code, error_of(bad)["param"]) == (400, "x-request-id")


def test_headers_say_priority_tenant_and_objective() -> None:
    with held() as (serving, fleet), serving.client() as client:
        seen = _request_of(serving, fleet, client, {"x-priority": "high", "x-tenant": "t1"})
        assert (seen.priority, seen.tenant, seen.slo_ms) == (1, "t1", None)
        seen = _request_of(serving, fleet, client, {"x-priority": "4", "x-slo-ms": "250"})
        assert (seen.priority, seen.slo_ms) == (4, 250.0)
        more = {"priority": "low", "slo_deadline_ms": 9, "user": "u", "timeout_ms": 5000}
        seen = _request_of(serving, fleet, client, {}, **more)
        assert (seen.priority, seen.slo_ms, seen.tenant, seen.timeout_s) == (3, 9.0, "u", 5.0)
        endless = client.post(CHAT, json=chat(), headers={"x-priority": "9" * 5000})
        assert (endless.status_code, error_of(endless)["code"]) == (400, "invalid_request")
        bad = client.post(CHAT, json=chat(), headers={"x-slo-ms": "soon"})
        assert (bad.status_code, error_of(bad)["param"]) == (400, "x-slo-ms")


def test_a_key_bound_to_a_tenant_sends_for_no_other() -> None:
    keys = tuple(dataclasses.replace(key, tenant="ours") for key in KEYS)
    config = GatewayConfig(port=0, api_keys=keys)
    with held(config) as (serving, fleet), serving.client(USER) as client:
        assert _request_of(serving, fleet, client, {}, user="theirs").tenant == "ours"
        assert _request_of(serving, fleet, client, {"x-tenant": "ours"}).tenant == "ours"
        refused = client.post(CHAT, json=chat(), headers={"x-tenant": "theirs"})
        assert (refused.status_code, error_of(refused)["code"]) == (403, "other_tenant")


def test_a_trace_goes_on_and_a_broken_one_ends_no_request() -> None:
    good = f"00-{'1' * 32}-{'2' * 16}-01"
    with held() as (serving, fleet), serving.client() as client:
        assert _request_of(serving, fleet, client, {"traceparent": good}).trace == good
        assert _request_of(serving, fleet, client, {"traceparent": "00-x"}).trace == ""


def test_an_instance_answers_to_its_aliases() -> None:
    instance = ExecutionInstance("w0", model_name="m", engine="sim", aliases=["gpt-9"])
    plane = ControlPlane(serving_spec(instances=(instance,)))
    plane.start()
    try:
        with Serving(plane, GatewayConfig(port=0)) as serving, serving.client() as client:
            cards = client.get("/v1/models").json()["data"]
            assert [card["id"] for card in cards] == ["m", "gpt-9"]
            body = {**chat(max_tokens=1), "model": "gpt-9"}
            assert client.post(CHAT, json=body).json()["model"] == "gpt-9"
            del body["model"]
            assert client.post(CHAT, json=body).json()["model"] == "m"
    finally:
        plane.stop(0.0)


def test_token_ids_are_refused_where_nobody_has_any() -> None:
    instance = ExecutionInstance("far", model_name="m", host="127.0.0.1", port=1)
    plane = ControlPlane(serving_spec(instances=(instance,)), make=HeldFleet())
    plane.start()
    try:
        with Serving(plane, GatewayConfig(port=0)) as serving, serving.client() as client:
            refused = client.post(CHAT, json={**chat(return_token_ids=True), "model": "m"})
            assert (refused.status_code, error_of(refused)["param"]) == (400, "return_token_ids")
    finally:
        plane.stop(0.0)


def _request_of(serving, fleet: HeldFleet, client, headers, **more):  # type: ignore[no-untyped-def]
    import threading

    thread = threading.Thread(
        target=lambda: client.post(
            CHAT, json=chat(max_tokens=2, **more), headers={"x-request-id": "r", **headers}
        )
    )
    serving.plane.finished._handles.clear()
    thread.start()
    fleet["w0"].wait_for("r")
    request = serving.plane.find("r").request
    fleet["w0"].say("r", [65, 66])
    fleet["w0"].end("r")
    thread.join(10)
    return request


def test_an_unknown_model_can_be_an_alias() -> None:
    config = GatewayConfig(port=0, unknown_model="alias")
    with sim(config=config) as serving, serving.client() as client:
        body = client.post(CHAT, json={**chat(max_tokens=1), "model": "gpt-9"}).json()
        assert body["model"] == MODEL
    config = GatewayConfig(port=0, unknown_model="alias", alias_model="elsewhere")
    with sim(config=config) as serving, serving.client() as client:
        answer = client.post(CHAT, json={**chat(max_tokens=1), "model": "gpt-9"})
        assert answer.status_code == 404
        assert "elsewhere" in error_of(answer)["message"]

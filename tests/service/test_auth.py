"""Keys, roles and who may manage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.service.gateway.routes import ROUTES
from sage_llm_ops.types.errors import ConfigError
from tests.service.serving import ADMIN, KEYS, USER, Serving, chat, error_of, sim

ENGINES = "/v1/management/engines"
PLACES = [
    (route.method, route.path.replace("{model}", "m").replace("{instance_id}", "sim-0"))
    for route in ROUTES
    if not route.open
]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with sim(config=GatewayConfig(port=0, api_keys=KEYS)) as serving:
        yield serving


@pytest.mark.parametrize("key", [None, "wrong", "EMPTY"])
@pytest.mark.parametrize(("method", "path"), [*PLACES, ("GET", "/nowhere"), ("PUT", "/metrics")])
def test_without_the_right_key_nothing_is_told(
    server: Serving, key: str | None, method: str, path: str
) -> None:
    with server.client(key) as client:
        response = client.request(method, path, json={"anything": 1})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert error_of(response)["type"] == "authentication_error"


def test_health_is_open(server: Serving) -> None:
    for key in (None, "wrong", USER):
        with server.client(key) as client:
            assert client.get("/health").status_code == 200


def test_a_user_generates_and_an_admin_manages(server: Serving) -> None:
    with server.client(USER) as user, server.client(ADMIN) as admin:
        assert user.post("/v1/chat/completions", json=chat(max_tokens=1)).status_code == 200
        refused = user.get(ENGINES)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "not_admin")
        assert admin.get(ENGINES).status_code == 200
        assert admin.post("/v1/chat/completions", json=chat(max_tokens=1)).status_code == 200


def test_without_keys_web_pages_do_not_manage() -> None:
    with sim() as serving, serving.client() as client:
        assert client.get(ENGINES).status_code == 200
        for headers in ({"origin": "http://evil"}, {"host": "evil.example:8889"}):
            refused = client.get(ENGINES, headers=headers)
            assert (refused.status_code, error_of(refused)["code"]) == (403, "management_needs_key")


def test_an_open_address_needs_keys_or_a_word() -> None:
    with pytest.raises(ConfigError, match=r"allow_unauthenticated = true"):
        GatewayConfig(host="0.0.0.0")
    GatewayConfig(host="0.0.0.0", api_keys=KEYS)
    open_to_all = GatewayConfig(host="0.0.0.0", port=0, allow_unauthenticated=True)
    with sim(config=open_to_all) as serving:
        serving.url = f"http://127.0.0.1:{serving.port}"
        with serving.client() as client:
            assert client.post("/v1/chat/completions", json=chat(max_tokens=1)).status_code == 200
            assert client.get(ENGINES).status_code == 403


def test_engines_come_and_go(server: Serving) -> None:
    with server.client(ADMIN) as client:
        body = {"instance_id": "late", "model_name": "other", "engine": "sim"}
        made = client.post(ENGINES, json={**body, "options": {"timing": "instant"}})
        assert made.status_code == 201
        again = client.post(ENGINES, json=body)
        assert (again.status_code, error_of(again)["code"]) == (409, "duplicate_engine")
        answer = client.post("/v1/chat/completions", json={**chat(max_tokens=1), "model": "other"})
        assert answer.json()["model"] == "other"
        assert "late" in [row["worker"] for row in client.get(ENGINES).json()["data"]]
        assert client.post(f"{ENGINES}/late/drain").status_code == 202
        assert client.delete(f"{ENGINES}/late").json() == {"instance_id": "late", "removed": True}
        assert client.delete(f"{ENGINES}/late").status_code == 404
        assert client.delete(f"{ENGINES}/sim-0?drain=perhaps").status_code == 400


def test_an_engine_on_a_lease_stays_while_it_is_heard_from(server: Serving) -> None:
    with server.client(ADMIN) as client:
        body = {"instance_id": "guest", "model_name": "other", "engine": "sim"}
        assert client.post(ENGINES, json={**body, "lease_s": 60}).status_code == 201
        beat = client.post(f"{ENGINES}/guest/heartbeat")
        assert beat.json() == {"instance_id": "guest", "lease_s": 60.0}
        assert client.post(f"{ENGINES}/sim-0/heartbeat").status_code == 404  # it has no lease
        assert client.post(f"{ENGINES}/nobody/heartbeat").status_code == 404
        assert client.delete(f"{ENGINES}/guest?drain=false").status_code == 200
        refused = client.post(ENGINES, json={**body, "lease_s": 0})
        assert refused.status_code == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"instance_id": "x", "engine": "vlm"}, "did you mean 'vllm'"),
        ({"instance_id": "x", "engine": "os:system"}, "unknown engine"),
        ({"instance_id": "x", "engine": "sim", "options": {"sped": 1}}, "did you mean 'speed'"),
        ({"instance_id": "x", "engine": "sim", "placement": "orbit"}, "placement"),
        ({"instance_id": "x y"}, "instance_id"),
        ({"engine": "sim"}, "missing required field"),
    ],
)
def test_engines_that_cannot_be(server: Serving, body: dict[str, object], words: str) -> None:
    with server.client(ADMIN) as client:
        refused = client.post(ENGINES, json=body)
    assert refused.status_code == 400
    assert words in error_of(refused)["message"]
    assert "x" not in server.plane.instances


def test_what_was_decided_is_told_to_whose_request_it_was(server: Serving) -> None:
    with server.client(USER) as user, server.client(ADMIN) as admin:
        for client, name in ((user, "users"), (admin, "admins")):
            sent = client.post(
                "/v1/chat/completions", json=chat(max_tokens=1), headers={"x-request-id": name}
            )
            assert sent.status_code == 200
        assert user.get("/v1/why/users").status_code == 200
        assert user.get("/v1/why/chatcmpl-users").status_code == 200
        assert user.get("/v1/why/admins").status_code == 404
        assert admin.get("/v1/why/users").status_code == 200

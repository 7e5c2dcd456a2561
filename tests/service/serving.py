"""The real server on a real socket, in a thread of its own, over a plane that a test holds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from sage_llm_ops.config.gateway import ApiKey, GatewayConfig
from sage_llm_ops.core import RestartPolicy
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving as serving_spec
from sage_llm_ops.service.gateway.auth import key_hash
from sage_llm_ops.service.gateway.server import GatewayServer
from sage_llm_ops.testing import HeldFleet, sim_instances
from sage_llm_ops.types.instances import ExecutionInstance

MODEL = "sim-model"
ADMIN, USER = "the-admin's", "the-user's"
KEYS = (
    ApiKey("ops", key_hash(ADMIN), "admin"),
    ApiKey("app", key_hash(USER)),
)


class Serving:
    """A running server."""

    def __init__(self, plane: ControlPlane, config: GatewayConfig) -> None:
        self.plane = plane
        self.config = config
        self.url = ""
        self.server: GatewayServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Serving:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._loop is not None and self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.server = GatewayServer(self.plane, self.config)
        await self.server.start()
        self.url = self.server.url
        self._up.set()
        await self._end.wait()
        await self.server.stop(0.2)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def gateway(self) -> Any:
        assert self.server is not None
        return self.server.gateway

    def in_loop(self, call: Callable[[], Any]) -> None:
        """Run something in the server's loop."""
        assert self._loop is not None
        done = threading.Event()

        def run() -> None:
            call()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20.0, **options)


@contextmanager
def sim(
    instances: int = 2, config: GatewayConfig | None = None, **options: Any
) -> Iterator[Serving]:
    """Over simulated engines that answer at once."""
    options = {"timing": "instant", **options}
    fleet = tuple(sim_instances(instances, model=MODEL, **options))
    plane = ControlPlane(serving_spec(instances=fleet))
    plane.start()
    try:
        with Serving(plane, config or GatewayConfig(port=0)) as serving:
            yield serving
    finally:
        plane.stop(1.0)


@contextmanager
def held(
    config: GatewayConfig | None = None,
    *,
    names: tuple[str, ...] = ("w0",),
    restart: RestartPolicy | None = None,
    **spec: Any,
) -> Iterator[tuple[Serving, HeldFleet]]:
    """Over workers that hold what they get until the test says how it goes on."""
    fleet = HeldFleet()
    instances = tuple(ExecutionInstance(name, model_name=MODEL, engine="sim") for name in names)
    plane = ControlPlane(serving_spec(instances=instances, **spec), make=fleet, restart=restart)
    plane.start()
    try:
        with Serving(plane, config or GatewayConfig(port=0)) as serving:
            yield serving, fleet
    finally:
        plane.stop(0.0)


def chat(**more: Any) -> dict[str, Any]:
    """A body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **more}


def events(text: str) -> list[dict[str, Any]]:
    """Of a whole stream, which must end with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """OpenAI's shape, exactly."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error

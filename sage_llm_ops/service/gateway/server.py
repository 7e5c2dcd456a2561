"""Listens, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import Any

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.service.gateway.app import Gateway
from sage_llm_ops.service.gateway.connection import Connection
from sage_llm_ops.types.errors import ConfigError

log = logging.getLogger("sage_llm_ops.gateway")

TICK_S = 0.5


class GatewayServer:
    """A gateway behind a listening socket, within a running event loop.

    The plane is its caller's: to be started before or after, and to be stopped after `stop`.
    """

    def __init__(self, plane: ControlPlane, config: GatewayConfig) -> None:
        self.gateway = Gateway(plane, config)
        self._config = config
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; `ConfigError` where the address cannot be had."""
        config, loop = self._config, asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self.gateway, config), config.host, config.port, backlog=1024
            )
        except OSError as error:
            raise ConfigError(
                f"{config.host}:{config.port} cannot be listened on: {error.strerror or error}; "
                "choose another host or port",
                key="port",
            ) from None
        self._ticker = asyncio.create_task(self._tick())

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        host, port, *_ = self._server.sockets[0].getsockname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self, drain_s: float | None = None) -> bool:
        """Take nothing new, let what is in flight end, cut the rest; True if nothing was cut."""
        gateway, loop = self.gateway, asyncio.get_running_loop()
        gateway.draining = True
        if self._server is not None:
            self._server.close()
        until = loop.time() + (self._config.drain_s if drain_s is None else drain_s)
        for connection in list(gateway.connections):
            connection.wind_down()
        while gateway.connections and loop.time() < until:
            await asyncio.sleep(0.01)
        left = list(gateway.connections)
        for connection in left:
            connection.cut()
        while gateway.connections:
            await asyncio.sleep(0)
        if self._ticker is not None:
            self._ticker.cancel()
        gateway.pool.shutdown(wait=False)
        return not left

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.gateway.tick()


def serve(
    plane: ControlPlane,
    config: GatewayConfig,
    *,
    listening: Callable[[str], Any],
    ready: Callable[[str], Any],
) -> None:
    """Start both, serve until SIGTERM or SIGINT, end in order; on the calling (main) thread.

    It listens before the engines are up, so that whoever asks is told `starting`. `listening` and
    `ready` are called with the address. A second signal cuts what is in flight.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(plane, config, listening, ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not for every platform; the same, a fifth slower (ADR 6)
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    plane: ControlPlane,
    config: GatewayConfig,
    listening: Callable[[str], Any],
    ready: Callable[[str], Any],
) -> None:
    server = GatewayServer(plane, config)
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell() -> None:
        if told.is_set():
            log.warning("told to end twice: what is in flight is cut")
            for connection in list(server.gateway.connections):
                connection.cut()
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    await server.start()
    listening(server.url)
    starting = asyncio.create_task(asyncio.to_thread(plane.start))
    ending = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            ready(server.url)
            await ending
    finally:
        ending.cancel()
        await server.stop()
        await asyncio.to_thread(plane.stop, config.drain_s)
        with contextlib.suppress(BaseException):
            await starting  # told to end while the engines started: `stop` made it fail


__all__ = ["GatewayServer", "serve"]

"""A TCP relay in front of a server that is not ours to end: it can be gone, and come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Self


class Relay:
    """Passes bytes between its own port, which stays the same, and `port` on this machine.

    `stop` is what a client sees when the server's process is killed: connections break, new ones are
    refused. `slow_s` and `garble` spoil what the server says.
    """

    def __init__(self, to: int) -> None:
        self.port = 0
        self.slow_s = 0.0
        """Every piece comes so much later."""
        self.garble = 0
        """So many of the next pieces are noise."""
        self._to = to
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    def start(self) -> Self:
        """Listen."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(10.0):
            raise OSError(f"port {self.port} was taken while nobody listened on it")
        return self

    def stop(self) -> None:
        """Break everything; idempotent."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _run(self, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._pass, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._loop = loop
        ready.set()
        loop.run_forever()
        # Nobody is accepted any more, but the server is closed last: a connection that was accepted
        # just now would not find it, and asyncio leaves its socket to the garbage collector.
        for sock in server.sockets:
            loop.remove_reader(sock.fileno())
        loop.run_until_complete(self._break())
        server.close()
        loop.close()

    async def _break(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)  # until those that were just accepted have begun
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end.transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)  # until the transports that were aborted are closed
        self._ends.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        self._ends.add(writer)
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._to)
            self._ends.add(there)
            ways = [
                asyncio.ensure_future(_pump(reader, there)),
                asyncio.ensure_future(_pump(back, writer, self._spoilt)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
                    self._ends.discard(end)

    async def _spoilt(self, data: bytes) -> bytes:
        await asyncio.sleep(self.slow_s)
        if not self.garble:
            return data
        self.garble -= 1
        return bytes(each ^ 0x55 for each in data)


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    through: Callable[[bytes], Awaitable[bytes]] | None = None,
) -> None:
    while data := await reader.read(65536):
        writer.write(data if through is None else await through(data))
        await writer.drain()

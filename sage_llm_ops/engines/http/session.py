"""One life of an HTTP worker: from the server's first healthy answer to its last.

Everything in here runs on the loop's thread, but for `up`, which others read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial

import msgspec

from sage_llm_ops.engines.base import Uplink
from sage_llm_ops.engines.http.answers import UNREADABLE, Embeddings
from sage_llm_ops.engines.http.body import headers_of, request_of
from sage_llm_ops.engines.http.dialects import Dialect
from sage_llm_ops.engines.http.options import HttpOptions
from sage_llm_ops.engines.http.reading import Broken, Reading
from sage_llm_ops.engines.http.server import Served, Server
from sage_llm_ops.engines.http.sse import SseParser
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import EngineStartError, ProtocolError
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import PROTOCOL, Accepted, Done, EngineEvent, Failed, Hello

log = logging.getLogger("sage_llm_ops.engines.http")

RETRY_S, RETRY_MOST_S = 0.1, 2.0
"""How soon a server that does not answer yet is asked again; doubled each time."""

BREAKING_S = 1.0
"""How long the connections of a server that is gone may take to notice."""


class Session:
    """Reports to the uplink; `ended(reason)` is called once, an empty reason where it was told to
    stop. After that nothing is reported any more."""

    def __init__(
        self,
        worker: WorkerId,
        incarnation: int,
        options: HttpOptions,
        tokenizer_hash: str,
        uplink: Uplink,
        ended: Callable[[Session, str], None],
    ) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self.up = False
        self.gone = threading.Event()
        """Set once its connections are closed."""
        self.served: Served | None = None
        self._options = options
        self._tokenizer_hash = tokenizer_hash
        self._uplink = uplink
        self._ended = ended
        self._server: Server | None = None
        self._nodes: dict[NodeId, tuple[asyncio.Task[Done | Failed], Reading]] = {}
        self._over = asyncio.Event()
        self._asking = asyncio.Lock()
        self._strikes = 0
        self._broken = False

    async def run(self) -> None:
        """The whole life."""
        watching = asyncio.create_task(self._live())
        try:
            await self._over.wait()
        finally:
            watching.cancel()
            tasks = [task for task, _ in self._nodes.values()]
            # A stream that has just broken is closing what else of its pool is broken, and would
            # leave that open if it were cancelled in the middle; the other streams go on.
            if tasks and self._broken:
                await asyncio.wait(tasks, timeout=BREAKING_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(watching, *tasks, return_exceptions=True)
            if self._server is not None:
                await self._server.close()
            self.gone.set()

    def end(self, reason: str) -> None:
        """It is over: connections are dropped, what ran on them is lost."""
        if self._over.is_set():
            return
        self.up = False
        self._over.set()
        self._ended(self, reason)

    # -- nodes --------------------------------------------------------------------------------

    def submit(self, node: PlanNode) -> None:
        """Where it is over, the node is lost with the others: its end was told of after `up` fell."""
        if self._over.is_set():
            return
        reading = Reading(node, as_tokens=self._options.as_tokens)
        task = asyncio.create_task(self._exchange(node, reading))
        self._nodes[node.id] = (task, reading)
        task.add_done_callback(partial(self._node_ended, node, reading))

    def cancel(self, node: NodeId) -> None:
        """Close its connection, which is how an OpenAI server is told."""
        held = self._nodes.get(node)
        if held is not None:
            held[0].cancel()

    def _node_ended(
        self, node: PlanNode, reading: Reading, task: asyncio.Task[Done | Failed]
    ) -> None:
        """From the task's callback and not its body: one that is cancelled before it began has
        none, and ends all the same."""
        self._nodes.pop(node.id, None)
        error = None if task.cancelled() else task.exception()
        if self._over.is_set():
            return
        if task.cancelled():
            self._report(reading.cancelled())
        elif error is not None:
            log.error("worker %s: node %s", self.worker, node.id, exc_info=error)
            self._report(Failed(node.id, "engine_failed", f"{self._options.url}: {error!r}"))
        else:
            self._report(task.result())

    async def _exchange(self, node: PlanNode, reading: Reading) -> Done | Failed:
        import httpx

        url = self._options.url
        try:
            return await (self._embed if node.task == "embed" else self._generate)(node, reading)
        except Broken as error:
            return Failed(node.id, error.code, f"{url}: {error}")
        except ProtocolError as error:
            return Failed(node.id, "engine_failed", f"{url}: {error}")
        except TimeoutError as error:
            return Failed(node.id, "engine_failed", f"{url}: {error}")
        except (httpx.HTTPError, httpx.StreamError) as error:
            # Either this connection, or the server: then all its nodes are lost together.
            await self._suspect()
            return Failed(node.id, "engine_failed", f"{url} broke off: {error!r}")

    async def _generate(self, node: PlanNode, reading: Reading) -> Done:
        server, options = self._ready()
        if not node.sampling.skip_special_tokens and not options.as_tokens:
            if "skip_special_tokens" not in self._dialect.sampling:
                raise Broken("capability", "it makes text without special tokens only")
        path, body = request_of(node, options.model, self._dialect, as_tokens=options.as_tokens)
        parser = SseParser()
        first, later = options.first_token_timeout_s, options.token_timeout_s
        limit, name = first, "first_token_timeout_s"
        try:
            async with asyncio.timeout(first) as timeout:
                async with server.post(path, body, headers_of(node)) as answer:
                    self._report(Accepted(node.id))
                    async for data in answer.aiter_bytes():
                        events = [
                            event for one in parser.feed(data) if (event := reading.take(one))
                        ]
                        if events:
                            self._report(*events)
                        if reading.made:
                            limit, name = later, "token_timeout_s"
                            timeout.reschedule(asyncio.get_running_loop().time() + later)
        except TimeoutError:
            raise TimeoutError(f"nothing came for {limit:g} s ({name})") from None
        return reading.end()

    async def _embed(self, node: PlanNode, reading: Reading) -> Done:
        server, options = self._ready()
        path, body = request_of(node, options.model, self._dialect, as_tokens=options.as_tokens)
        limit = options.first_token_timeout_s
        try:
            async with (
                asyncio.timeout(limit),
                server.post(path, body, headers_of(node)) as answer,
            ):
                self._report(Accepted(node.id))
                content = await answer.aread()
        except TimeoutError:
            raise TimeoutError(f"no embedding for {limit:g} s (first_token_timeout_s)") from None
        try:
            found = msgspec.json.decode(content, type=Embeddings)
            (vector,) = (one.embedding for one in found.data)
        except (*UNREADABLE, ValueError) as error:
            raise Broken("engine_failed", f"its embedding cannot be read: {error}") from None
        counts = found.usage
        counted = None if options.as_tokens or counts is None else (counts.prompt_tokens, 0)
        return Done(node.id, "stop", node.n_tokens, 0, 0, vector, counted)

    # -- the server ---------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            server = self._server = Server(self._options)
            self.served = await self._come_up(server)
        except EngineStartError as error:
            return self.end(str(error))
        except Exception as error:
            log.exception("worker %s did not start", self.worker)
            return self.end(f"{self._options.url}: {error!r}")
        self.up = True
        self._uplink.on_up(self.worker, self.incarnation, self._hello(self.served))
        while True:
            await asyncio.sleep(self._options.health_every_s)
            await self._suspect()

    async def _come_up(self, server: Server) -> Served:
        """Patiently: servers take long to load, and are not ours to start."""
        import httpx

        why, wait = "", RETRY_S
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                while True:
                    try:
                        why = await server.ill()
                        if not why:
                            return await server.identify()
                    except httpx.HTTPError as error:
                        why = f"{error!r}"
                    await asyncio.sleep(wait)
                    wait = min(RETRY_MOST_S, 2 * wait)
        except TimeoutError:
            raise EngineStartError(
                f"{self._options.url} was not healthy within {self._options.start_timeout_s:g} s "
                f"(start_timeout_s): {why}; start the server, or mend host, port or base_url"
            ) from None

    async def _suspect(self) -> None:
        """Ask after its health: a refused connection is its end, other failures are counted."""
        import httpx

        server, options = self._ready()
        async with self._asking:  # many streams break at once, and one answer is enough for all
            if self._over.is_set():
                return
            try:
                why = await server.ill()
            except httpx.ConnectError as error:
                self._broken = True
                return self.end(f"{options.url} is gone: {error}")
            except (
                Exception
            ) as error:  # whatever it is: no sign of health, and no end of our asking
                why = f"health check: {error!r}"
            self._strikes = self._strikes + 1 if why else 0
            if self._strikes >= options.health_strikes:
                self.end(f"{options.url}: {self._strikes} health checks failed; the last: {why}")

    # -- inside -------------------------------------------------------------------------------

    @property
    def _dialect(self) -> Dialect:
        assert self.served is not None
        return self.served.dialect

    def _ready(self) -> tuple[Server, HttpOptions]:
        assert self._server is not None
        return self._server, self._options

    def _hello(self, served: Served) -> Hello:
        options = self._options
        return Hello(
            protocol=PROTOCOL,
            engine="http",
            engine_version=" ".join(filter(None, (served.dialect.name, served.version))),
            model=options.model,
            tokenizer_hash=self._tokenizer_hash,
            pid=0,
            capabilities=Capabilities(
                tasks=options.tasks,
                sampling=served.dialect.sampling,
                chat_template=not options.as_tokens,
                max_model_len=served.max_model_len,
                max_num_seqs=options.max_num_seqs,
                prefix_cache=bool(options.kv_events),
                kv_events=options.kv_events,
                kv_replay=options.kv_replay,
                block_size=options.block_size if options.kv_events else 0,
            ),
        )

    def _report(self, *events: EngineEvent) -> None:
        if not self._over.is_set():
            self._uplink.on_events(self.worker, self.incarnation, events)

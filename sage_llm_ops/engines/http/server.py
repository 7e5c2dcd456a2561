"""One server: its client, what it says of itself, and what its refusals mean."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from sage_llm_ops.engines.http.answers import UNREADABLE, Model, Models, code_of, message_of
from sage_llm_ops.engines.http.dialects import DIALECTS, Dialect, dialect_of
from sage_llm_ops.engines.http.options import HttpOptions
from sage_llm_ops.engines.http.reading import Broken
from sage_llm_ops.engines.http.same_tokens import SAMPLE, sample_ids
from sage_llm_ops.types.errors import EngineStartError

if TYPE_CHECKING:
    import httpx

JSON = {"Content-Type": "application/json"}
LONGEST_ERROR = 64 << 10
"""Bytes read of a refusal."""
LONGEST_WAIT_S = 1.0
"""A server that says it is full gets this much time at most before the request goes on elsewhere."""


@dataclass(frozen=True)
class Served:
    """What a server says of itself and of our model."""

    dialect: Dialect
    version: str
    max_model_len: int


class Server:
    """Made and used on the loop's thread alone."""

    def __init__(self, options: HttpOptions) -> None:
        import httpx

        self.options = options
        headers = {"User-Agent": "sage-llm-ops"}
        if options.api_key_env:
            key = os.environ.get(options.api_key_env)
            if not key:
                raise EngineStartError(
                    f"the environment variable {options.api_key_env} (api_key_env) is not set: "
                    "it must hold the API key"
                )
            headers["Authorization"] = f"Bearer {key}"

        def client(connections: int, read_s: float | None) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=options.url,
                headers=headers,
                verify=self._trust(),
                limits=httpx.Limits(
                    max_connections=connections, max_keepalive_connections=connections
                ),
                timeout=httpx.Timeout(read_s, connect=options.connect_timeout_s),
                # A proxy meant for the world outside must not get the fleet's traffic.
                trust_env=False,
            )

        self.client = client(options.pool_size, None)
        # Of its own: a pool full of streams must not make a healthy server look dead.
        self._asking = client(2, options.read_timeout_s)

    def _trust(self) -> Any:
        if not self.options.url.startswith("https"):
            return False  # nothing to verify, and loading certificates takes a while
        import ssl

        try:
            return ssl.create_default_context(cafile=self.options.ca_file or None)
        except OSError as error:
            raise EngineStartError(f"ca_file={self.options.ca_file!r}: {error}") from None

    async def close(self) -> None:
        """Drop every connection."""
        await asyncio.gather(self.client.aclose(), self._asking.aclose())

    # -- what it is ---------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A short question. httpx times each read; an answer that trickles has to end as well."""
        import httpx

        limit = self.options.read_timeout_s
        try:
            async with asyncio.timeout(limit):
                return await self._asking.request(method, path, **more)
        except TimeoutError:
            said = f"{path} was not answered whole within {limit:g} s (read_timeout_s)"
            raise httpx.ReadTimeout(said) from None

    async def ill(self) -> str:
        """Why it is not healthy; empty where it is. Raises what httpx raises."""
        answer = await self._ask("GET", "/health")
        if answer.status_code in (404, 405):  # OpenAI's own API has no such thing
            answer = await self._ask("GET", "/v1/models")
        if answer.is_success:
            return ""
        return f"health check: {self._refusal(answer.status_code, answer.content)}"

    async def identify(self) -> Served:
        """Raises `EngineStartError` where the server is there and is not what the options say."""
        options = self.options
        answer = await self._ask("GET", "/v1/models")
        if not answer.is_success:
            refused = self._refusal(answer.status_code, answer.content)
            raise EngineStartError(f"{options.url}: {refused}")
        try:
            models = msgspec.json.decode(answer.content, type=Models).data
        except UNREADABLE as error:
            raise EngineStartError(
                f"{options.url}/v1/models is not of an OpenAI-compatible server: {error}"
            ) from None
        model = next((model for model in models if model.id == options.model), None)
        if model is None:
            names = ", ".join(repr(model.id) for model in models) or "none"
            raise EngineStartError(
                f"{options.url} does not serve model {options.model!r}; it serves {names}: set "
                "model_name, or the option model where it has another name there"
            )
        dialect = self._dialect(model)
        if options.as_tokens:
            await self._compare_tokens()
        return Served(dialect, await self._version(), self._length(model.max_model_len or 0))

    async def _compare_tokens(self) -> None:
        """Where the server lets us ask (vLLM's `/tokenize`)."""
        body = {"model": self.options.model, "prompt": SAMPLE}
        answer = await self._ask(
            "POST", "/tokenize", content=msgspec.json.encode(body), headers=JSON
        )
        try:
            theirs = msgspec.json.decode(answer.content)["tokens"] if answer.is_success else None
        except (*UNREADABLE, KeyError, TypeError):
            return  # something else of that name
        if theirs is None:
            return
        ours = await asyncio.to_thread(sample_ids, self.options)
        if list(ours) != theirs:
            name = self.options.tokenizer or self.options.tokenizer_kind
            raise EngineStartError(
                f"{self.options.url} has another tokenizer than the option tokenizer={name!r}: of one "
                f"sentence it makes {len(theirs)} tokens that begin {theirs[:4]}, we make {len(ours)} "
                f"that begin {list(ours[:4])}; name the tokenizer of the model it serves"
            )

    def _dialect(self, model: Model) -> Dialect:
        options = self.options
        known = options.dialect != "auto"
        dialect = DIALECTS[options.dialect] if known else dialect_of(model.owned_by)
        if options.as_tokens and not dialect.tokens:
            able = ", ".join(repr(one.name) for one in DIALECTS.values() if one.tokens)
            raise EngineStartError(
                f"{options.url} is a server of kind {dialect.name!r} (owned_by={model.owned_by!r}), "
                "which does not take and give token ids: leave out the option tokenizer to take its "
                f"text as it comes, or set dialect to one of {able} if it is one"
            )
        return dialect

    def _length(self, said: int) -> int:
        ours = self.options.max_model_len
        return min(said, ours) if said and ours else said or ours

    async def _version(self) -> str:
        """vLLM has an endpoint for it; others have none."""
        answer = await self._ask("GET", "/version")
        try:
            return str(msgspec.json.decode(answer.content)["version"]) if answer.is_success else ""
        except (*UNREADABLE, KeyError, TypeError):
            return ""

    # -- asking for work ----------------------------------------------------------------------

    @asynccontextmanager
    async def post(
        self, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """The answer, its body unread; leaving closes the connection unless it was read whole.

        Raises `Broken` for a refusal, with the code that says what to do about it.
        """
        content = msgspec.json.encode(body)
        async with self.client.stream(
            "POST", path, content=content, headers={**JSON, **headers}
        ) as answer:
            if not answer.is_success:
                raise await self._refused(answer)
            yield answer

    async def _refused(self, answer: httpx.Response) -> Broken:
        body = b""
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > LONGEST_ERROR:
                break
        status = answer.status_code
        if status in (429, 503):
            # Held back: the place stays taken meanwhile, so that a full server is given less.
            await asyncio.sleep(_seconds(answer.headers.get("retry-after")))
        return Broken(code_of(status), self._refusal(status, body))

    def _refusal(self, status: int, body: bytes) -> str:
        told = f"it answered {status}: {message_of(body)}"
        if status in (401, 403):
            name = self.options.api_key_env
            key = (
                f"the key in {name} (api_key_env)" if name else "no key, as api_key_env is not set"
            )
            told += f"; it was sent {key}: name the environment variable that holds the right one"
        return told


def _seconds(retry_after: str | None) -> float:
    """The header's other form, a date, is not worth reading for a wait of a second at most."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(retry_after or 0.05)))
    except ValueError:
        return LONGEST_WAIT_S

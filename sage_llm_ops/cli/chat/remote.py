"""The other end of an OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from sage_llm_ops.types.errors import NotRunning, RequestFailed

SILENT_S = 300.0
"""Without a byte for so long it is given up: a first token may wait for a model to load."""


class Remote:
    """Implements `Partner` over HTTP, streaming."""

    def __init__(self, url: str, model: str | None, api_key: str, sampling: dict[str, Any]) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._sampling = sampling
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(SILENT_S, connect=5.0),
        )
        self.model = model or ""

    def __enter__(self) -> Remote:
        self.model = self.model or self._served()
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def answer(self, messages: list[dict[str, str]]) -> Iterator[str]:
        """Ends at `[DONE]`; a stream that ends before it was cut off."""
        body = {"model": self.model, "messages": messages, "stream": True, **self._sampling}
        try:
            with self._client.stream(
                "POST", f"{self._url}/v1/chat/completions", json=body
            ) as response:
                self._check(response)
                for line in response.iter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data == "[DONE]":
                        return
                    if data:
                        yield _text(json.loads(data))
        except httpx.ConnectError as error:
            raise self._absent(error) from None
        except httpx.HTTPError as error:
            raise RequestFailed(f"{self._url}: {type(error).__name__}: {error}") from None
        raise RequestFailed(f"{self._url} ended its answer in the middle")

    def _served(self) -> str:
        try:
            response = self._client.get(f"{self._url}/v1/models")
        except httpx.ConnectError as error:
            raise self._absent(error) from None
        except httpx.HTTPError as error:
            raise RequestFailed(f"{self._url}: {type(error).__name__}: {error}") from None
        self._check(response)
        models = [row["id"] for row in response.json()["data"]]
        if len(models) != 1:
            raise RequestFailed(f"{self._url} serves {models}: choose one with --model")
        return str(models[0])

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            said = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = response.text[:500]
        raise RequestFailed(f"{self._url} answered {response.status_code}: {said}")

    def _absent(self, error: Exception) -> NotRunning:
        return NotRunning(
            f"nobody listens at {self._url} ({error}): start a gateway there, name another with "
            "--url, or talk to a model in this process with --engine sim"
        )


def _text(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        said = chunk["error"]
        raise RequestFailed(said["message"] if isinstance(said, dict) else str(said))
    choices = chunk.get("choices") or [{}]  # a last chunk with the usage has no choices
    return str(choices[0].get("delta", {}).get("content") or "")

"""What a connection asks of whoever answers; `app.py` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sage_llm_ops.service.gateway.messages import Answer, HttpRequest

if TYPE_CHECKING:
    from sage_llm_ops.service.gateway.connection import Connection


class Application(Protocol):
    """Who answers. `date` is the value of the `date` header, kept by the server."""

    date: bytes
    draining: bool

    def opened(self, connection: Connection) -> bool:
        """A client came; False where there is no room for it."""

    def closed(self, connection: Connection) -> None:
        """It is gone."""

    def gate(self, request: HttpRequest, connection: Connection) -> Answer | None:
        """Look at the head; an answer refuses the request before its body is read."""

    async def serve(self, request: HttpRequest) -> Answer | None:
        """Answer; None where the answer was streamed. Cancelled when the client is gone."""

    def answered(self, request: HttpRequest, status: int) -> None:
        """An answer was given."""

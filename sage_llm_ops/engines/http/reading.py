"""One stream, event by event: tokens as they come, and exactly one end. No socket in here."""

from __future__ import annotations

import logging

import msgspec

from sage_llm_ops.engines.http.answers import UNREADABLE, Chunk, Counts, code_of, sentence
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Done, Tokens

log = logging.getLogger("sage_llm_ops.engines.http")

ENDINGS = {"stop": "stop", "length": "length", "eos": "stop", "repetition": "stop"}
"""Finish reasons that are an ordinary end."""

LONGEST_TOKEN = 1024
"""Bytes; where text comes, a server that never ends must not take all memory."""


class Broken(Exception):
    """The node cannot go on. `code` is one of `types.errors`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reading:
    """What came of one node. `as_tokens`: ids of the model's tokens are expected, not text."""

    def __init__(self, node: PlanNode, *, as_tokens: bool) -> None:
        self.node = node
        self.made = 0
        """Ids reported: tokens, or bytes of text."""
        self.over = False
        """Whether `[DONE]` came."""
        self._as_tokens = as_tokens
        self._reason: str | None = None
        self._counts: Counts | None = None

    def take(self, data: bytes) -> Tokens | None:
        """One event; its tokens, if it has some. Raises `Broken`."""
        if data == b"[DONE]":
            self.over = True
            return None
        try:
            chunk = msgspec.json.decode(data, type=Chunk)
        except UNREADABLE as error:
            shown = data[:80].decode(errors="replace")
            raise Broken("engine_failed", f"the stream is garbage: {error}: {shown!r}") from None
        if chunk.error is not None:
            # vLLM finds some faults of a request only when its stream has begun.
            status = chunk.error.get("code") if isinstance(chunk.error, dict) else None
            raise Broken(code_of(status), f"it broke the stream: {sentence(chunk.error)}")
        if chunk.choices is None and chunk.usage is None:
            shown = data[:80].decode(errors="replace")
            raise Broken("engine_failed", f"the stream is garbage: no choices in {shown!r}")
        self._counts = chunk.usage or self._counts
        ids: list[int] = []
        for choice in chunk.choices or ():
            if choice.index:
                raise self._broken(f"it sends choice {choice.index} where one was asked for")
            self._check_prompt(choice.prompt_token_ids)
            self._reason = choice.finish_reason or self._reason
            ids += self._ids(choice.token_ids, choice.written)
        if not ids:
            return None
        tokens = Tokens(self.node.id, self.node.offset + self.made, ids, self.cached)
        self.made += len(ids)
        limit = self.node.sampling.max_tokens
        if self._as_tokens and self.made > limit:
            raise Broken("engine_failed", f"it sent {self.made} tokens, max_tokens={limit}")
        if self.made > limit * LONGEST_TOKEN:
            raise Broken("engine_failed", f"it sent {self.made} bytes, max_tokens={limit}")
        return tokens

    def _check_prompt(self, theirs: list[int] | None) -> None:
        """A server may put tokens of its own before ours: then the answer is to another question."""
        if self._as_tokens and theirs is not None and pack(theirs) != self.node.tokens:
            raise self._broken(
                f"it read {len(theirs)} prompt tokens that are not the {self.node.n_tokens} sent"
            )

    def _ids(self, token_ids: list[int] | None, text: str) -> list[int]:
        if not self._as_tokens:
            return list(text.encode())
        if token_ids is None and text:
            raise Broken(
                "capability",
                "it sends text without token ids although return_token_ids was asked for; leave out "
                "the instance's option tokenizer to take its text as it comes",
            )
        return token_ids or []

    @property
    def cached(self) -> int:
        """Prompt tokens from the server's prefix cache, as far as it says."""
        return self._counts.cached if self._counts else 0

    def end(self) -> Done:
        """After the last byte. Raises `Broken` where it was none."""
        if not self.over or self._reason is None:
            lacks = "[DONE]" if not self.over else "a finish_reason"
            raise self._broken(f"its stream ended without {lacks}")
        reason = ENDINGS.get(self._reason)
        if reason is None:
            raise self._broken(f"it ended the answer with finish_reason={self._reason!r}")
        return self._counted(reason) if self._as_tokens else self._estimated(reason)

    def cancelled(self) -> Done:
        """Stopped by us."""
        return Done(self.node.id, "cancelled", self.node.n_tokens, self.made, self.cached)

    def _counted(self, reason: str) -> Done:
        """The server's counts must be ours: else it read another prompt than the one sent, or
        tokens are lost."""
        node, counts = self.node, self._counts
        if counts is not None:
            theirs = (counts.prompt_tokens, counts.completion_tokens or 0)
            if theirs != (node.n_tokens, self.made):
                raise self._broken(
                    f"it counts {theirs[0]} prompt and {theirs[1]} completion tokens where "
                    f"{node.n_tokens} were sent and {self.made} came"
                )
        return Done(node.id, reason, node.n_tokens, self.made, self.cached)

    def _estimated(self, reason: str) -> Done:
        """Nobody here can count: the server's counts where they can be true."""
        node, counts = self.node, self._counts
        counted = None
        if counts is not None:
            prompt, completion = counts.prompt_tokens, counts.completion_tokens or 0
            possible = 0 <= completion <= node.sampling.max_tokens and prompt > 0
            if possible and (completion or not self.made):
                counted = (prompt, completion)
            else:
                log.warning(
                    "worker %s: usage of %d prompt and %d completion tokens for %d bytes of text with "
                    "max_tokens=%d cannot be true; an estimate takes its place",
                    *(node.worker, prompt, completion, self.made, node.sampling.max_tokens),
                )
        return Done(node.id, reason, node.n_tokens, self.made, self.cached, None, counted)

    def _broken(self, why: str) -> Broken:
        return Broken("engine_failed", f"{why} (after {self.made} ids)")

"""Callers of four kinds: patient, hurried, those who cancel, and those who vanish."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from sage_llm_ops.core import ControlPlane
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.types.errors import Refused, RequestError
from sage_llm_ops.types.requests import RequestMetadata

KINDS = ("patient",) * 7 + ("cancels", "vanishes", "hurried")
BY_FAULT = frozenset({"engine_failed", "worker_lost", "quarantined"})
"""Codes of ends that a fault may lead to. Each is typed and tells its caller; any other is a defect."""
ALLOWED = {
    "patient": BY_FAULT,
    "vanishes": BY_FAULT,
    "cancels": BY_FAULT | {"cancelled"},
    "hurried": BY_FAULT | {"deadline_expired"},
}


@dataclass(slots=True)
class Asked:
    """One accepted request, as its caller saw it."""

    kind: str
    number: int
    handle: RequestHandle
    streamed: list[int] = field(default_factory=list)
    left: bool = False
    """Its caller did not read to the end."""


class Clients:
    """Ask again and again until told to stop; `answers` are those of the calm."""

    def __init__(self, plane: ControlPlane, prompts: list[str], max_tokens: int) -> None:
        self._plane, self._prompts, self._max_tokens = plane, prompts, max_tokens
        self.answers: list[tuple[int, ...]] = []
        self.asked: list[Asked] = []
        self.refused: Counter[str] = Counter()
        self._count = 0

    async def calm(self) -> None:
        """Ask each prompt once and note the answer."""
        handles = [self._submit(n, "patient") for n in range(len(self._prompts))]
        self.answers = [(await handle).token_ids for handle in handles]

    async def one(self, seed: int, over: asyncio.Event) -> None:
        """A caller's life."""
        chance = random.Random(seed)
        while not over.is_set():
            kind, number = chance.choice(KINDS), chance.randrange(len(self._prompts))
            try:
                asked = Asked(kind, number, self._submit(number, kind))
            except Refused as error:
                self.refused[error.code] += 1
                await asyncio.sleep(0.05)
                continue
            self.asked.append(asked)
            await self._read(asked, chance.randrange(1, self._max_tokens))

    async def _read(self, asked: Asked, patience: int) -> None:
        stream = asked.handle.stream()
        try:
            async for piece in stream:
                asked.streamed += piece
                if asked.kind == "vanishes" and len(asked.streamed) >= patience:
                    asked.left = True
                    break
                if asked.kind == "cancels" and len(asked.streamed) >= patience:
                    self._plane.cancel(asked.handle.request_id)
        except RequestError:
            pass  # looked at in the end
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def _submit(self, number: int, kind: str) -> RequestHandle:
        self._count += 1
        sampling = {"max_tokens": self._max_tokens, "temperature": 0.0, "ignore_eos": True}
        return self._plane.submit(
            RequestMetadata(
                request_id=f"{kind}-{self._count}",
                prompt=self._prompts[number],
                sampling_params=sampling,
                timeout_ms=400.0 if kind == "hurried" else None,
            )
        )

    def violations(self) -> list[str]:
        """What a caller was promised and did not get."""
        found = []
        for asked in self.asked:
            handle, name = asked.handle, asked.handle.request_id
            expected = list(self.answers[asked.number])
            if not handle.done():
                found.append(f"{name} has not ended")
                continue
            try:
                made = list(handle.outcome().token_ids)
                if made != expected:
                    found.append(f"{name} completed with another answer than in the calm")
                if not asked.left and asked.streamed != made:
                    found.append(f"{name} streamed other tokens than its result holds")
            except RequestError as error:
                if error.code not in ALLOWED[asked.kind]:
                    found.append(f"{name} ended as {error.code!r}: {error}")
            if asked.streamed != expected[: len(asked.streamed)]:
                found.append(f"{name} streamed tokens that are not those of the calm")
        return found

    def completed(self) -> Counter[str]:
        """How many each worker brought to their end."""
        done: Counter[str] = Counter()
        for handle in (asked.handle for asked in self.asked if asked.handle.done()):
            try:
                done[handle.outcome().instance_id] += 1
            except RequestError:
                pass  # counted by `ends`
        return done

    def ends(self) -> tuple[Counter[str], dict[str, str]]:
        """How many ended how, and for each code of a failure one of its sentences."""
        ends: Counter[str] = Counter()
        reasons: dict[str, str] = {}
        for asked in self.asked:
            code = "completed" if asked.handle.done() else "never"
            try:
                if asked.handle.done():
                    asked.handle.outcome()
            except RequestError as error:
                code = error.code
                reasons.setdefault(code, str(error).partition("\n")[0])
            ends[code] += 1
        return ends, reasons

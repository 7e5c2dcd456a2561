"""Requests of the demo: handing them in, watching them, and counting twice what came of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage_llm_ops.cli.demo.prompts import SAMPLING
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.requests import RequestMetadata
from sage_llm_ops.types.results import RequestResult

if TYPE_CHECKING:
    from sage_llm_ops.cli.demo.screen import Tick
    from sage_llm_ops.core import ControlPlane
    from sage_llm_ops.pipeline.handle import RequestHandle
    from sage_llm_ops.telemetry.ledger import Entry

PATIENCE_S = 300.0


def submit(
    plane: ControlPlane, name: str, prompts: Sequence[str], pin: str | None = None
) -> list[RequestHandle]:
    """One request a prompt, `NAME-01` and so on."""
    return [
        plane.submit(
            RequestMetadata(
                request_id=f"{name}-{number:02}", prompt=prompt, sampling_params=SAMPLING, pin=pin
            )
        )
        for number, prompt in enumerate(prompts, 1)
    ]


def watch(handles: Sequence[RequestHandle], tick: Tick) -> None:
    """Until all have ended."""
    limit = time.monotonic() + PATIENCE_S
    while (done := sum(handle.done() for handle in handles)) < len(handles):
        tick(done)
        if time.monotonic() > limit:
            raise IntegrityError(f"{len(handles) - done} requests had no end in {PATIENCE_S:g} s")
        time.sleep(0.01)
    tick(len(handles))


def checked(plane: ControlPlane, handles: Sequence[RequestHandle]) -> list[RequestResult]:
    """The results, after the books were compared: what the callers hold, token by token counted,
    against the one end that the ledger has for each of them."""
    results = [handle.result() for handle in handles]  # raises where one failed
    ends = [entry for entry in _entries(plane, handles) if entry.kind == "end"]
    counted = Counter(entry.request for entry in ends)
    made = {entry.request: entry.tokens for entry in ends}
    for result in results:
        name = result.request_id
        if counted[name] != 1:
            raise IntegrityError(f"{name} ended {counted[name]} times")
        # The stream takes each offset once and in order, so its length is its last offset.
        if not made[name] == len(result.token_ids) == SAMPLING["max_tokens"]:
            raise IntegrityError(
                f"{name}: {len(result.token_ids)} tokens in the stream, {made[name]} in the ledger, "
                f"{SAMPLING['max_tokens']} asked for"
            )
    if plane.pipeline.plane.broken:
        raise IntegrityError(f"{plane.pipeline.plane.broken} operator calls failed; see the log")
    return results


def retries(plane: ControlPlane, handles: Sequence[RequestHandle]) -> list[Entry]:
    """The ledger's lines about attempts that failed, by request id the first of each."""
    first: dict[str, Entry] = {}
    for entry in _entries(plane, handles):
        if entry.kind == "retry":
            first.setdefault(entry.request, entry)
    return list(first.values())


def equal(one: Sequence[RequestResult], two: Sequence[RequestResult]) -> int:
    """How many of the pairs hold the same tokens."""
    return sum(a.token_ids == b.token_ids for a, b in zip(one, two, strict=True))


def share_cached(results: Sequence[RequestResult]) -> float:
    """Of the prompt tokens, in percent."""
    prompt = sum(result.usage.prompt_tokens for result in results)
    return 100.0 * sum(result.usage.cached_tokens for result in results) / prompt


def _entries(plane: ControlPlane, handles: Sequence[RequestHandle]) -> list[Entry]:
    mine = {handle.request_id for handle in handles}
    return [entry for entry in plane.pipeline.ledger.entries() if entry.request in mine]

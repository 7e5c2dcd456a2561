"""Act 1: two workers answer 64 prompts; one answer is shown while it comes."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from sage_llm_ops.cli.demo.answers import checked, equal, share_cached, submit, watch
from sage_llm_ops.cli.demo.prompts import COUNT, GROUPS, beginning, prompts
from sage_llm_ops.cli.demo.screen import Screen
from sage_llm_ops.cli.output import readable
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.results import RequestResult

if TYPE_CHECKING:
    from sage_llm_ops.cli.demo.stage import Stage
    from sage_llm_ops.core import ControlPlane

TWICE = 4
"""Prompts that are given to both workers."""


def serve(stage: Stage, plane: ControlPlane, screen: Screen) -> list[RequestResult]:
    """The answers, for the next act to compare with."""
    screen.act(1, f"{COUNT} prompts, {GROUPS} long beginnings that they share, 2 workers")
    began = time.monotonic()
    handles = submit(plane, "a1", prompts())
    with screen.bar(COUNT, "answered") as tick:
        watch(handles, tick)
    took = time.monotonic() - began
    results = checked(plane, handles)
    _show_one(stage, plane, screen)
    same = _on_both(stage, plane)
    by = ", ".join(f"{n} by {who}" for who, n in sorted(Counter(_workers(results)).items()))
    screen.result(
        f"{COUNT} of {COUNT} answered in {took:.1f} s, {by}; "
        f"{share_cached(results):.0f} % of the prompt tokens came out of prefix caches; {same}."
    )
    return results


def _show_one(stage: Stage, plane: ControlPlane, screen: Screen) -> None:
    from sage_llm_ops.cli.run import why_there

    prompt = f"{beginning(0)} Explain how you found it."
    handle = submit(plane, "a1-live", [prompt])[0]
    if stage.exact:
        screen.say("  one more, as it comes (the text is noise, its tokens are checked):")
    screen.say("  │ ", end="")
    decoder = plane.tokenizer(handle.request.model).decoder()
    for ids in handle.iter():
        screen.say(readable(decoder.push(ids)), end="", style="cyan")
    screen.say(readable(decoder.flush()))
    result = checked(plane, [handle])[0]
    cached = f"{result.usage.cached_tokens} of {result.usage.prompt_tokens} prompt tokens cached"
    screen.say(f"  └ {result.instance_id}, {cached}; {why_there(plane, result.request_id)}")


def _on_both(stage: Stage, plane: ControlPlane) -> str:
    """The same prompts pinned to each worker in turn must give the same tokens."""
    few = prompts()[:TWICE]
    handles = [submit(plane, f"a1-{worker}", few, pin=worker) for worker in plane.instances]
    one, two = (checked(plane, of_worker) for of_worker in handles)
    if {*_workers(one), *_workers(two)} != set(plane.instances):
        raise IntegrityError("a pinned request ran on another worker")
    same = equal(one, two)
    if stage.exact and same < TWICE:
        raise IntegrityError(
            f"{TWICE - same} of {TWICE} prompts gave other tokens on the other worker"
        )
    return f"{same} of {TWICE} prompts given to both workers gave the same tokens"


def _workers(results: list[RequestResult]) -> list[str]:
    return [result.instance_id for result in results]

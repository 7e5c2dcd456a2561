"""A small workload in the likeness of Mooncake's, for machines that have no recorded one."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sage_llm_ops.pipeline.traces import MOONCAKE_BLOCK, TraceRequest
from sage_llm_ops.types.errors import ConfigError


def generate_trace(
    n: int,
    seed: int = 0,
    rate: float = 3.0,
    *,
    system_prompts: int = 4,
    turns: float = 3.0,
    mean_prompt: int = 4096,
    mean_output: int = 300,
    block_size: int = MOONCAKE_BLOCK,
) -> Iterator[TraceRequest]:
    """`n` requests with Poisson arrivals at `rate` per second; equal arguments give equal requests.

    A request opens a session below one of the system prompts (the first is by far the most common)
    or continues an open one with all its blocks and some more: shared beginnings and multi-turn
    growth are what prefix caches live from. A session ends with probability 1 / `turns` each time.
    """
    if (
        n < 0
        or rate <= 0.0
        or system_prompts < 1
        or turns < 1.0
        or min(mean_prompt, mean_output) < 1
    ):
        raise ConfigError(
            f"generate_trace(n={n}, rate={rate}, system_prompts={system_prompts}, turns={turns}, "
            f"mean_prompt={mean_prompt}, mean_output={mean_output}): n must be 0 or more, "
            "rate above 0, the others at least 1"
        )
    rng = random.Random(seed)
    ids = iter(range(1 << 62))
    systems = [[next(ids) for _ in range(1 + rng.randrange(3))] for _ in range(system_prompts)]
    open_sessions: list[list[int]] = []
    at = 0.0
    for index in range(n):
        if index:
            at += rng.expovariate(rate)
        if open_sessions and rng.random() < 1.0 - 1.0 / turns:
            chain = open_sessions.pop(rng.randrange(len(open_sessions)))
            grown = rng.expovariate(2.0 / mean_prompt)
        else:
            place = min(system_prompts - 1, int(rng.expovariate(1.0)))
            chain = systems[place]
            grown = rng.expovariate(1.0 / mean_prompt)
        n_prompt = len(chain) * block_size + 1 + min(int(grown), 8 * mean_prompt)
        full = n_prompt // block_size
        chain = chain + [next(ids) for _ in range(full - len(chain))]
        tail = (next(ids),) if n_prompt % block_size else ()
        if rng.random() < 1.0 - 1.0 / turns:
            open_sessions.append(chain)
        n_output = 1 + min(int(rng.expovariate(1.0 / mean_output)), 8 * mean_output)
        yield TraceRequest(at, n_prompt, n_output, (*chain, *tail), block_size)

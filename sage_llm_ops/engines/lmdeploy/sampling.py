"""Our sampling parameters as LMDeploy's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sage_llm_ops.types.requests import SamplingParams

FIELDS = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
)
"""What is honoured. Both engines lack presence and frequency penalties."""


def stop_tokens(sampling: SamplingParams, eos: Iterable[int]) -> frozenset[int]:
    """The tokens that end it."""
    return frozenset(sampling.stop_token_ids).union(() if sampling.ignore_eos else eos)


def to_lmdeploy(sampling: SamplingParams, stops: Iterable[int], room: int) -> Any:
    """LMDeploy's object; `room` is what the context leaves for the answer.

    LMDeploy's own `ignore_eos` is not used: it forbids the tokens that end a sequence instead of
    going on after them, and drops the caller's stop tokens with them. Who ignores the end has it left
    out of the stop tokens, which is what the other engines do. Stop strings are looked for by us
    (`stops.py`).
    """
    from lmdeploy.messages import GenerationConfig

    greedy = sampling.temperature == 0.0
    most = min(sampling.max_tokens, room)
    config = GenerationConfig(
        max_new_tokens=most,
        min_new_tokens=min(sampling.min_tokens, most),
        do_sample=not greedy,
        top_p=1.0 if greedy else sampling.top_p,
        top_k=1 if greedy else sampling.top_k,
        min_p=0.0 if greedy else sampling.min_p,
        temperature=1.0,
        repetition_penalty=sampling.repetition_penalty,
        random_seed=sampling.seed,
        stop_token_ids=sorted(stops),
    )
    if not greedy:
        # Set afterwards: the constructor refuses more than 2, the engines divide by any.
        config.temperature = sampling.temperature
    return config

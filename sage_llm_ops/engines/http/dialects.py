"""What kinds of servers can, beyond what all of them have in common."""

from __future__ import annotations

from dataclasses import dataclass

from sage_llm_ops.types.requests import SamplingParams

COMMON = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop")
"""Of `SamplingParams`, besides `max_tokens`: what OpenAI's API has."""

EVERYTHING = tuple(name for name in SamplingParams.__struct_fields__ if name != "max_tokens")


@dataclass(frozen=True)
class Dialect:
    """`tokens`: takes token ids as a prompt, and gives them back with `return_token_ids`."""

    name: str
    sampling: tuple[str, ...] = COMMON
    tokens: bool = False


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),
        Dialect("vllm", EVERYTHING, tokens=True),
        Dialect("sage-llm-ops", EVERYTHING, tokens=True),
        Dialect(
            "lmdeploy",
            (
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "repetition_penalty",
                "seed",
                # Not `stop`: it passes over what is not one token of the vocabulary (0.18).
                "ignore_eos",
                "skip_special_tokens",
            ),
        ),
    )
}
"""By the name that `/v1/models` gives as `owned_by`; `openai` is whatever gives another."""


def dialect_of(owner: str) -> Dialect:
    """What a server that calls itself so can."""
    return DIALECTS.get(owner, DIALECTS["openai"])

"""The other task: a vector instead of tokens."""

from __future__ import annotations

import pytest

from sage_llm_ops.types.errors import InvalidRequest, NoInstance
from tests.core.fleets import request, simulated

BOTH = {"tasks": ("embed", "generate"), "embedding_dim": 8}


async def test_a_vector_of_its_prompt() -> None:
    async with simulated(2, sim=BOTH) as manager:
        one = await manager.process_request("Hello", task="embed")
        same = await manager.process_request("Hello", task="embed")
        other = await manager.process_request("Bye", task="embed")
        assert one.embedding is not None and len(one.embedding) == 8
        assert one.embedding == same.embedding != other.embedding
        assert (one.text, one.token_ids, one.usage.completion_tokens) == ("", (), 0)
        assert one.usage.prompt_tokens == 5
        assert (await manager.process_request("Hello", {"max_tokens": 2})).embedding is None


async def test_an_engine_that_only_embeds() -> None:
    async with simulated(sim={"tasks": ("embed",)}) as manager:
        assert (await manager.process_request("Hello", task="embed")).embedding
        with pytest.raises(NoInstance, match="no instance does 'generate'"):
            await manager.process_request("Hello")


async def test_sampling_says_nothing_about_a_vector() -> None:
    async with simulated(sim=BOTH) as manager:
        with pytest.raises(InvalidRequest, match="mean nothing to task 'embed'"):
            await manager.submit_request(
                request("r", task="embed", sampling_params={"temperature": 0.0})
            )

"""Model names route: several names a worker, adapters, and workers of other tasks beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sage_llm_ops import ControlPlaneManager, ExecutionInstance
from sage_llm_ops.testing import sim_fleet
from sage_llm_ops.types.errors import NoInstance, SageLlmOpsError
from tests.core.fleets import echo, instance

FAST = {"speed": 1000.0}


@asynccontextmanager
async def fleet(*instances: ExecutionInstance) -> AsyncIterator[ControlPlaneManager]:
    manager = ControlPlaneManager()
    for each in instances:
        manager.register_instance(each)
    try:
        yield manager
    finally:
        await manager.stop(5.0)


def named(identity: str, model: str, **fields: Any) -> ExecutionInstance:
    options = {**FAST, **fields.pop("options", {})}
    return instance(identity, model, options=options, **fields)


async def ask(manager: ControlPlaneManager, model: str | None, **fields: Any) -> Any:
    return await manager.process_request("Hello", model_name=model, max_tokens=8, **fields)


async def test_every_name_of_a_worker_leads_to_it() -> None:
    adapters = {"lora_modules": {"law": "/adapters/law", "art": "/adapters/art"}}
    async with fleet(
        named("w0", "big", aliases=["gpt", "default"], options=adapters), named("w1", "small")
    ) as manager:
        bare = await ask(manager, "big")
        for alias in ("gpt", "default"):
            found = await ask(manager, alias)
            assert (found.instance_id, found.text) == ("w0", bare.text)
        law, art = await ask(manager, "law"), await ask(manager, "art")
        assert law.instance_id == art.instance_id == "w0"
        assert len({bare.text, law.text, art.text}) == 3, "an adapter says something else"
        assert (await ask(manager, "small")).instance_id == "w1"
        with pytest.raises(NoInstance, match=r"serves model 'lore'; models here: .*'law'"):
            await ask(manager, "lore")


async def test_what_one_adapter_computed_is_of_no_use_to_another() -> None:
    options = {"block_size": 16, "lora_modules": {"law": "-", "art": "-"}}
    async with fleet(named("w0", "big", options=options)) as manager:
        prompt = "a prompt that fills more than one block of sixteen"
        for model in ("big", "law", "art"):
            cold, warm = [
                await manager.process_request(prompt, model_name=model, max_tokens=2)
                for _ in range(2)
            ]
            assert cold.usage.cached_tokens == 0 < warm.usage.cached_tokens


async def test_embedding_workers_beside_generating_ones() -> None:
    async with fleet(
        named("llm0", "chat"),
        named("llm1", "chat"),
        named("emb0", "vectors", options={"tasks": ["embed"], "embedding_dim": 8}),
        named("both", "all", options={"tasks": ["generate", "embed"]}),
    ) as manager:
        vector = await manager.process_request("Hello", model_name="vectors", task="embed")
        assert vector.instance_id == "emb0" and len(vector.embedding or ()) == 8
        assert {(await ask(manager, "chat")).instance_id for _ in range(4)} == {"llm0", "llm1"}
        assert (await ask(manager, "all")).instance_id == "both"
        assert (await manager.process_request("Hello", model_name="all", task="embed")).embedding
        for model, task in (("chat", "embed"), ("vectors", "generate")):
            with pytest.raises(NoInstance, match=f"no instance does '{task}' with model '{model}'"):
                await manager.process_request("Hello", model_name=model, task=task)


async def test_an_engine_without_adapters_refuses_them_by_name() -> None:
    async with fleet(echo("w0", lora_modules={"law": "/adapters/law"})) as manager:
        with pytest.raises(SageLlmOpsError, match="lora_modules"):
            await manager.start()


async def test_a_simulated_fleet_has_the_adapters_of_the_real_one() -> None:
    real = ExecutionInstance(
        "w0", model_name="big", engine="vllm", options={"lora_modules": {"law": "/adapters/law"}}
    )
    with sim_fleet():
        async with fleet(real) as manager:
            assert (await ask(manager, "law")).text != (await ask(manager, "big")).text

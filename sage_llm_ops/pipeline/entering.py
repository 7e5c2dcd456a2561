"""How an instance enters the graph, and what is said of it when its worker is up."""

from __future__ import annotations

from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.events import WorkerJoin, WorkerUp
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance, ExecutionInstanceType
from sage_llm_ops.types.kv import PrefixCache
from sage_llm_ops.types.wire import Hello


def default_slots(can: Capabilities) -> int:
    """What the engine batches, and an eighth more: a finished place is refilled within the same
    step, and the rest of the queue stays here, where its order can still change."""
    return can.max_num_seqs + max(1, can.max_num_seqs // 8)


def prefix_cache(can: Capabilities, incarnation: int = 0) -> PrefixCache | None:
    """What a router has to know of the worker's prefix cache; None where it has none."""
    if not (can.prefix_cache and can.block_size):
        return None
    return PrefixCache(
        can.block_size,
        can.kv_blocks,
        can.tells_cache or bool(can.kv_events),
        incarnation,
        (*can.adapters, *can.models),
    )


def joined(instance: ExecutionInstance) -> WorkerJoin:
    """How an instance enters the graph."""
    kind = ExecutionInstanceType(instance.instance_type)
    return WorkerJoin(
        worker=WorkerId(instance.instance_id),
        model=instance.model_name,
        models=instance.other_names,
        role=kind.value,
        price=(instance.price_per_hour or 0.0) / 3600.0,
        place=instance.location,
        hardware=instance.hardware,
        tensor_parallel=instance.tensor_parallel_size,
        ranks=(
            instance.pipeline_parallel_size,
            instance.data_parallel_size,
            instance.expert_parallel_size,
        ),
    )


def came_up(instance: ExecutionInstance, hello: Hello, incarnation: int) -> WorkerUp:
    """What a worker that takes nodes said of itself."""
    can = hello.capabilities
    return WorkerUp(
        worker=WorkerId(instance.instance_id),
        model=instance.model_name or hello.model,
        slots=instance.max_concurrency or default_slots(can),
        max_model_len=can.max_model_len,
        tasks=can.tasks,
        models=(*instance.aliases, *can.adapters, *can.models),
        kinds=can.node_kinds,
        fetches=can.kv_transfer,
        engine=hello.engine,
        step_ms=can.step_ms,
        place=hello.place,
        prefixes=prefix_cache(can, incarnation),
    )

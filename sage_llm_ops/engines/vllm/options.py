"""What a user may say about a vLLM worker."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.instances import ExecutionInstance

CPU_KV_BYTES = 64 << 20
NOT_VLLMS = ("core", "engine_args", "tokenizer_kind", "lora_modules", "kv_events")
"""Options that are ours alone."""


class VllmOptions(msgspec.Struct, frozen=True):
    """None: decided by the device, or left to vLLM. `engine_args` passes anything else through."""

    model: str
    """Directory or hub name of the weights."""
    served_model_name: str = ""
    tokenizer: str = ""
    tokenizer_kind: Literal["", "hf"] = ""
    core: Literal["auto", "inproc", "async"] = "auto"
    """`inproc`: LLMEngine stepped by the worker. `async`: AsyncLLM, which spawns its EngineCore."""
    runner: Literal["auto", "generate", "pooling"] = "auto"
    dtype: str | None = None
    kv_cache_memory_bytes: int | None = None
    block_size: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool | None = None
    enable_prefix_caching: bool | None = None
    kv_events: bool = True
    """Tell the plane which prefixes are cached, where they are. Off: the plane believes what it sent."""
    gpu_memory_utilization: float | None = None
    lora_modules: dict[str, str] = {}
    """LoRA adapters: the name under which each is asked for, and its directory."""
    seed: int = 0
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    engine_args: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("engine 'vllm' needs the option model: a model directory or hub name")
        clash = sorted(set(self.engine_args) & set(self.__struct_fields__))
        if clash:
            raise ConfigError(
                f"engine_args of engine 'vllm' repeats {', '.join(clash)}: "
                "set it as an option of its own"
            )

    def core_on(self, *, cpu: bool) -> str:
        """The core that runs where the device is known (docs/adr/0002)."""
        return self.core if self.core != "auto" else "inproc" if cpu else "async"

    def arguments(self, *, cpu: bool) -> dict[str, Any]:
        """Keyword arguments for vLLM's EngineArgs."""
        given = {
            name: getattr(self, name) for name in self.__struct_fields__ if name not in NOT_VLLMS
        }
        if self.lora_modules:
            given |= {"enable_lora": True, "max_loras": self._max_loras(cpu)}
        if cpu:
            # Without these vLLM takes gigabytes for the cache and compiles for more than a minute.
            # float32, since "auto" would make float32 weights bfloat16: on a development machine
            # results that repeat matter more than memory.
            on_cpu = {
                "dtype": "float32",
                "kv_cache_memory_bytes": CPU_KV_BYTES,
                "block_size": 32,
                "enforce_eager": True,
                "max_num_seqs": 32,
            }
            given |= {name: value for name, value in on_cpu.items() if given[name] is None}
        chosen = {name: value for name, value in given.items() if value not in (None, "")}
        return chosen | self.engine_args

    def _max_loras(self, cpu: bool) -> int:
        """A slot for each. vLLM's CPU kernels (0.32) take the slot -1 of a request without adapter
        for the last one: with an empty slot at the end it gets no adapter, as it should."""
        needed = len(self.lora_modules) + cpu
        chosen = int(self.engine_args.get("max_loras", needed))
        if cpu and chosen < needed:
            raise ConfigError(
                f"max_loras={chosen} of engine 'vllm': with {len(self.lora_modules)} lora_modules on "
                f"CPU it must be at least {needed}, or requests for the bare model would be given an "
                "adapter; leave it out"
            )
        return chosen


def complete(instance: ExecutionInstance, options: dict[str, Any]) -> dict[str, Any]:
    """What the instance's own fields say, where the options do not."""
    said: dict[str, Any] = {"model": instance.model_name, "served_model_name": instance.model_name}
    for kind in ("tensor", "pipeline", "data"):
        name = f"{kind}_parallel_size"
        if getattr(instance, name) > 1:
            said[name] = getattr(instance, name)
    return said | options

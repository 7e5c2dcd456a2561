"""What a user may say about an LMDeploy worker."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.instances import ExecutionInstance

OURS = (
    "model",
    "served_model_name",
    "tokenizer",
    "tokenizer_kind",
    "python",
    "backend",
    "trust_remote_code",
    "engine_args",
)
"""Not LMDeploy's engine configuration."""

RENAMED = {
    "pytorch": {"lora_modules": "adapters"},
    "turbomind": {
        "block_size": "cache_block_seq_len",
        # There a whole number is the number of blocks, a fraction the part of the free memory.
        "num_gpu_blocks": "cache_max_entry_count",
    },
}
ONLY = {
    "pytorch": ("lora_modules", "eager_mode"),
    "turbomind": ("cp", "communicator"),
}
"""What one of the two has and the other has not."""


class LmdeployOptions(msgspec.Struct, frozen=True):
    """None: left to LMDeploy. `engine_args` passes anything else to its engine configuration."""

    model: str
    """Directory or hub name of the weights."""
    served_model_name: str = ""
    tokenizer: str = ""
    tokenizer_kind: Literal["", "hf"] = ""
    python: str = ""
    """Interpreter of the environment that LMDeploy is installed in, where it is not this one: its
    pins clash with vLLM's. sage-llm-ops must be installed there too."""
    backend: Literal["auto", "pytorch", "turbomind"] = "auto"
    """`auto`: what LMDeploy itself would take, TurboMind where it can run the model."""
    trust_remote_code: bool = False
    dtype: Literal["auto", "float16", "bfloat16", None] = None
    session_len: int | None = None
    """Tokens of a prompt with its answer; None: what the model was made for."""
    max_batch_size: int | None = None
    max_prefill_token_num: int | None = None
    cache_max_entry_count: float | None = None
    """Part of the free device memory for the KV cache."""
    num_gpu_blocks: int | None = None
    """Blocks of the KV cache, instead of a part of the memory."""
    block_size: int | None = None
    enable_prefix_caching: bool = True
    quant_policy: Literal[0, 4, 8, 16, 17, 42, None] = None
    """Of the KV cache: int4, int8, fp8, fp8_e5m2, TurboQuant."""
    model_format: str | None = None
    tp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    communicator: Literal["nccl", "cuda-ipc", None] = None
    lora_modules: dict[str, str] = {}
    """LoRA adapters: the name under which each is asked for, and its directory."""
    eager_mode: bool | None = None
    engine_args: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError(
                "engine 'lmdeploy' needs the option model: a model directory or hub name"
            )
        clash = sorted(set(self.engine_args) & set(self.__struct_fields__))
        if clash:
            raise ConfigError(
                f"engine_args of engine 'lmdeploy' repeats {', '.join(clash)}: "
                "set it as an option of its own"
            )
        if self.cache_max_entry_count is not None and self.num_gpu_blocks is not None:
            raise ConfigError(
                "engine 'lmdeploy' takes cache_max_entry_count (a part of the memory) or "
                "num_gpu_blocks (a number), not both"
            )
        if self.backend != "auto":
            self.arguments(self.backend)

    def arguments(self, backend: str) -> dict[str, Any]:
        """Keyword arguments for the engine configuration of this backend; raises `ConfigError`."""
        chosen: dict[str, Any] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in OURS or value is None or value == {}:
                continue
            if self._is_foreign(name, backend):
                if value == _DEFAULTS[name]:
                    continue
                raise ConfigError(
                    f"option {name}={value!r} of engine 'lmdeploy' means nothing to its backend "
                    f"{backend!r}: leave it out or choose the other one"
                )
            chosen[RENAMED[backend].get(name, name)] = value
        return chosen | self.engine_args

    @staticmethod
    def _is_foreign(name: str, backend: str) -> bool:
        return any(name in names for other, names in ONLY.items() if other != backend)


_DEFAULTS = dict(
    zip(LmdeployOptions.__struct_fields__[1:], LmdeployOptions.__struct_defaults__, strict=True)
)


def complete(instance: ExecutionInstance, options: dict[str, Any]) -> dict[str, Any]:
    """What the instance's own fields say, where the options do not."""
    if instance.pipeline_parallel_size > 1:
        raise ConfigError(
            f"instance {instance.instance_id!r}: pipeline_parallel_size="
            f"{instance.pipeline_parallel_size}, but LMDeploy has no pipeline parallelism: "
            "use tensor_parallel_size",
            key="pipeline_parallel_size",
        )
    said: dict[str, Any] = {"model": instance.model_name, "served_model_name": instance.model_name}
    for kind, name in (("tensor", "tp"), ("data", "dp"), ("expert", "ep")):
        size = getattr(instance, f"{kind}_parallel_size")
        if size > 1:
            said[name] = size
    return said | options

"""The table of operators: LMDeploy's own defaults in plain torch, and the three it has none for."""

from __future__ import annotations

from typing import Any

from lmdeploy.pytorch.backends import selector
from lmdeploy.pytorch.backends.attention import AttentionMetadata, PagedAttentionBuildSpec
from lmdeploy.pytorch.backends.default.op_backend import DefaultOpsBackend
from lmdeploy.pytorch.backends.lora import LoRABuildSpec
from lmdeploy.pytorch.backends.multinomial_sampling import MultinomialSamplingBuildSpec

from sage_llm_ops.testing.lmdeploy_cpu.attention import CpuAttention
from sage_llm_ops.testing.lmdeploy_cpu.lora import CpuLora
from sage_llm_ops.testing.lmdeploy_cpu.sampling import CpuSampling


class CpuOps(DefaultOpsBackend):
    """What LMDeploy asks a device for."""

    @staticmethod
    def get_name() -> str:
        return "cpu"

    @staticmethod
    def ccl_backend() -> str:
        return "gloo"

    @staticmethod
    def get_attention_metadata_cls() -> Any:
        return AttentionMetadata

    @classmethod
    def build_op(cls, spec: Any, *, enable_deterministic: bool = False) -> Any:
        if isinstance(spec, PagedAttentionBuildSpec):
            return CpuAttention(
                spec.num_heads,
                spec.head_dim,
                spec.scale,
                spec.num_kv_heads,
                spec.v_head_dim,
                causal=spec.causal,
            )
        if isinstance(spec, MultinomialSamplingBuildSpec):
            return CpuSampling()
        if isinstance(spec, LoRABuildSpec):
            return CpuLora()
        return super().build_op(spec, enable_deterministic=enable_deterministic)

    @classmethod
    def update_step_context(cls, step_context: Any) -> Any:
        step_context.attn_metadata = AttentionMetadata(
            is_decoding=step_context.is_decoding,
            block_offsets=step_context.block_offsets,
            q_start_loc=step_context.q_start_loc,
            q_seqlens=step_context.q_seqlens,
            kv_seqlens=step_context.kv_seqlens,
        )
        return step_context


def install() -> None:
    """Every device is this one from now on."""
    selector._get_backend = lambda: CpuOps

"""Paged attention over plain tensors: what LMDeploy's Triton kernels compute, written for reading."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from lmdeploy.pytorch.backends.attention import AttentionImpl


class CpuAttention(AttentionImpl):
    """One sequence after the other. Causal, without windows, sinks or quantised caches."""

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        k_cache: Any,
        v_cache: Any,
        attn_metadata: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        size = k_cache.shape[1]
        out = query.new_empty(query.shape[0], self.num_heads, value.shape[-1])
        lengths = attn_metadata.kv_seqlens.tolist()
        start = 0
        for row, new in enumerate(attn_metadata.q_seqlens.tolist()):
            total = lengths[row]
            rows = slice(start, start + new)
            at = torch.arange(total)
            slots = attn_metadata.block_offsets[row].long()[at // size], at % size
            fresh = tuple(index[total - new :] for index in slots)
            k_cache[fresh] = key[rows].to(k_cache.dtype)
            v_cache[fresh] = value[rows].to(v_cache.dtype)
            out[rows] = self._one(query[rows], k_cache[slots], v_cache[slots])
            start += new
        return out

    def _one(self, query: Any, key: Any, value: Any) -> Any:
        new, total = query.shape[0], key.shape[0]
        # Position i of the new ones sees everything up to itself.
        mask = torch.ones(new, total, dtype=torch.bool).tril(total - new) if new > 1 else None
        q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
        seen = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=self.scale, enable_gqa=True
        )
        return seen[0].transpose(0, 1)

"""LoRA over plain tensors: each sequence of the batch with its own adapter, or with none."""

from __future__ import annotations

from typing import Any

from lmdeploy.pytorch.backends.lora import LoRAImpl


class CpuLora(LoRAImpl):
    """The adapters' matrices lie under one another; `ranks` says how many rows each has."""

    def forward(
        self,
        x: Any,
        lora_A: Any,
        lora_B: Any,
        base_output: Any,
        adapter_info: Any,
        ctx_mgr: Any,
        colwise: bool,
        is_tp: bool = True,
    ) -> Any:
        context = ctx_mgr.current_context()
        given = x.flatten(0, -2)
        part = base_output[..., adapter_info.base_slice]
        width = part.shape[-1]
        starts, lengths = context.q_start_loc.tolist(), context.q_seqlens.tolist()
        for row, adapter in enumerate(context.local_adapter_ids.tolist()):
            first = int(adapter_info.rank_offsets[adapter])
            rows = slice(first, first + int(adapter_info.ranks[adapter]))
            where = slice(starts[row], starts[row] + lengths[row])
            added = given[where] @ lora_A[rows].T @ lora_B[rows]
            part.view(-1, width)[where] += added * adapter_info.scalings[adapter]
        return base_output

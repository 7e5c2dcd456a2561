"""What an engine can do, said by the engine itself."""

from __future__ import annotations

import msgspec


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sent in the handshake; a pipeline or a request that needs more is refused by name."""

    tasks: tuple[str, ...] = ("generate",)
    streaming: bool = True
    cancel: bool = True
    sampling: tuple[str, ...] = ()
    """Names of the `SamplingParams` fields it honours."""
    chat_template: bool = False
    prefix_cache: bool = False
    kv_events: bool = False
    kv_transfer: bool = False
    external_order: bool = False
    max_model_len: int = 0
    max_num_seqs: int = 1
    kv_blocks: int = 0
    block_size: int = 0
    max_num_batched_tokens: int = 0

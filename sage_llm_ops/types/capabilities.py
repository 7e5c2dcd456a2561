"""What an engine can do, said by the engine itself."""

from __future__ import annotations

from math import isfinite

import msgspec

from sage_llm_ops.types.requests import SamplingParams

_DEFAULTS = msgspec.structs.asdict(SamplingParams())
_EVERYWHERE = frozenset({"max_tokens", "skip_special_tokens"})
"""Honoured with every engine: the first by contract, the second where text is made, on our side."""
STEP_SIZE = 7
"""Coefficients of a step's time."""


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sent in the handshake; a pipeline or a request that needs more is refused by name."""

    tasks: tuple[str, ...] = ("generate",)
    streaming: bool = True
    cancel: bool = True
    sampling: tuple[str, ...] = ()
    """Names of the `SamplingParams` fields it honours."""
    chat_template: bool = False
    prefix_cache: bool = False
    tells_cache: bool = False
    """Whether it says in its own frames what becomes of its prefix cache (`wire.CacheChanged`)."""
    kv_events: str = ""
    """Where it publishes what becomes of its prefix cache (a ZeroMQ address); empty: nowhere."""
    kv_replay: str = ""
    """Where missed publications can be asked for."""
    kv_transfer: bool = False
    node_kinds: tuple[str, ...] = ("fused",)
    """Plan nodes it executes: whole requests, or their prefill and decode apart as well."""
    external_order: bool = False
    adapters: tuple[str, ...] = ()
    """LoRA adapters it has, by the names under which they are asked for like models."""
    models: tuple[str, ...] = ()
    """Models that it serves beside its own, switching between them; empty: it cannot."""
    step_ms: tuple[float, ...] | None = None
    """What it says of its own speed, as coefficients of `cost_model/step.py`; None: nothing."""
    max_model_len: int = 0
    max_num_seqs: int = 1
    kv_blocks: int = 0
    block_size: int = 0
    max_num_batched_tokens: int = 0

    def __post_init__(self) -> None:
        said = self.step_ms
        if said is not None and (len(said) != STEP_SIZE or not all(map(isfinite, said))):
            raise ValueError(
                f"step_ms={said!r} must be {STEP_SIZE} finite numbers (cost_model/step.py), or None"
            )

    @property
    def ignores(self) -> tuple[str, ...]:
        """Names of the `SamplingParams` fields it would not honour."""
        honoured = _EVERYWHERE.union(self.sampling)
        return tuple(name for name in _DEFAULTS if name not in honoured)

    def refusal(self, engine: str, field: str, value: object) -> str:
        """Why a request that sets this field is not given to this engine."""
        honoured = ", ".join(sorted(_EVERYWHERE.union(self.sampling)))
        return (
            f"sampling parameter {field}={value!r} is not honoured by engine {engine!r}, which "
            f"would ignore it; leave it out. Honoured there: {honoured}"
        )


def first_set(sampling: SamplingParams, fields: tuple[str, ...]) -> str | None:
    """The first of these fields that is not at its default."""
    for name in fields:
        if getattr(sampling, name) != _DEFAULTS[name]:
            return name
    return None

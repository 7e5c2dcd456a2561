"""Settings of the simulated engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from sage_llm_ops.types.errors import ConfigError, UnknownName

TIMINGS = ("instant", "polynomial")
TASKS = ("generate", "embed")


@dataclass(frozen=True, slots=True)
class SimOptions:
    """One simulated engine. The defaults are those of Dynamo's mocker in its published replays."""

    timing: str = "polynomial"
    """`instant`: everything in no time; `polynomial`: see `timing.py`."""
    speed: float = 1.0
    """Simulated seconds per second of the clock."""
    prefill_ms: tuple[float, float, float] = (4.209989e-7, 1.518344e-2, 16.50142)
    """Factors of T^2, T and 1, T being the prompt tokens computed in the step."""
    decode_ms: tuple[float, float, float] = (-25.74, 54.01, 5.74)
    """Factors of p^2, p and 1, p being the share of the KV blocks in use."""
    decode_floor_ms: float = 1.0
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    kv_blocks: int = 16_384
    block_size: int = 64
    max_model_len: int = 131_072
    prefix_cache: bool = True
    visible_tokens: bool = True
    """False: only the first token and the end are reported, and steps between them are jumped."""
    vocab_size: int = 95
    """Different tokens it says: ids from 32 on."""
    eos_token_id: int | None = None
    tasks: tuple[str, ...] = ("generate",)
    splits: bool = True
    """Whether it executes prefill and decode nodes apart."""
    embedding_dim: int = 16
    models: dict[str, float] = field(default_factory=dict)
    """Models that share it, each with the weight of its turns (see `shared.py`); empty: one model,
    whatever it is called."""
    group_size: int = 8
    """Prompts of a model computed in one turn, while others wait for theirs."""
    round_steps: int = 16
    """Decode steps of a turn of weight 1."""
    switch_ms: float = 500.0
    """To load another model: 16 GB from the host's memory over PCIe 4 take about so long."""
    tokenizer_hash: str = ""
    lora_modules: dict[str, str] = field(default_factory=dict)
    """Adapters by name; each says something else. The paths are not looked at."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("timing", self.timing, TIMINGS),
            *(("task", t, TASKS) for t in self.tasks),
        ):
            if value not in known:
                raise UnknownName(f"{name} of engine 'sim'", value, known)
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "kv_blocks",
            "block_size",
            "embedding_dim",
            "group_size",
            "round_steps",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require(
            "max_model_len", self.max_model_len >= 2, "at least 2: a prompt token and an answer"
        )
        self._require("vocab_size", self.vocab_size >= 2, "at least 2")
        self._require("speed", self.speed > 0.0, "above 0")
        self._require("switch_ms", self.switch_ms >= 0.0, "0 or more")
        for model, weight in self.models.items():
            if not weight > 0.0:
                raise ConfigError(
                    f"models.{model}={weight!r} of engine 'sim': a turn's weight must be above 0",
                    key="models",
                )
        self._require("decode_floor_ms", self.decode_floor_ms >= 0.0, "0 or more")
        # So that every decode gets its token in every step (vLLM asks the same).
        self._require(
            "max_num_batched_tokens",
            self.max_num_batched_tokens >= self.max_num_seqs,
            f"at least max_num_seqs={self.max_num_seqs}; raise it or lower max_num_seqs",
        )
        self._require(
            "kv_blocks",
            self.kv_blocks * self.block_size >= 2,
            f"more with block_size={self.block_size}: a prompt token and an answer must fit",
        )

    def _require(self, name: str, fits: bool, limit: str) -> None:
        if not fits:
            raise ConfigError(
                f"{name}={getattr(self, name)!r} of engine 'sim' must be {limit}", key=name
            )

    @property
    def step_ms(self) -> tuple[float, ...]:
        """Its speed in the cost model's form: the square in p as the straight line nearest to it."""
        if self.timing == "instant":
            return (0.0,) * 7
        square, line, base = self.prefill_ms
        bend, slope, floor = self.decode_ms
        per_token = (slope + bend) / (self.kv_blocks * self.block_size)
        parts = (base, line, 0.0, square, floor - bend / 6.0, 0.0, per_token)
        return tuple(part / self.speed for part in parts)

    @property
    def max_tokens(self) -> int:
        """The longest prompt with its answer that can ever run."""
        return min(self.max_model_len, self.kv_blocks * self.block_size)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> SimOptions:
        """From a file's table: unknown names and wrong types are refused by name."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownName("option of engine 'sim'", name, known, key=name)
        try:
            return msgspec.convert(dict(options), cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"options of engine 'sim': {error}") from None

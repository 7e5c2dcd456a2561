"""How prefill and decode may be separated."""

from __future__ import annotations

from dataclasses import dataclass

from sage_llm_ops.types.errors import ConfigError


@dataclass(slots=True)
class PDSeparationConfig:
    """`prefilling_threshold_input_tokens` counts tokens; shorter prompts are never split."""

    enabled: bool = True
    routing_policy: str = "adaptive"
    prefilling_threshold_input_tokens: int = 800

    def __post_init__(self) -> None:
        if self.prefilling_threshold_input_tokens < 0:
            raise ConfigError(
                f"prefilling_threshold_input_tokens={self.prefilling_threshold_input_tokens} "
                "must be 0 or more"
            )

"""The pipeline a manager runs if nobody gives it one: `pipelines/serving.toml`, in Python."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.config import ServiceConfig
from sage_llm_ops.config.tables import Known
from sage_llm_ops.scheduler_ir import ROUTINGS, SPLITTERS, STRATEGIES
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.pd import PDSeparationConfig
from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec

POLICY = "adaptive"
ROUTING = "load_balanced"
"""A manager's, where nobody says; `pipelines/serving.toml` says the plainest of all."""
SERVICE_ROUTING = "predicted_latency"
"""A service's, where its table does not say: the one that reuses prefixes (docs/adr/0009)."""
NAMES: Known = {
    "scheduling_policy": STRATEGIES,
    "routing_strategy": ROUTINGS,
    "pd_policy": SPLITTERS,
}
"""What a `services.toml` may say there: refused where it says it, not where it is used."""


def serving(
    *,
    scheduling_policy: str = "fifo",
    routing_strategy: str = "load_balanced",
    pd_policy: str = "never",
    scheduling_options: dict[str, Any] | None = None,
    routing_options: dict[str, Any] | None = None,
    pd_options: dict[str, Any] | None = None,
    admission: dict[str, Any] | None = None,
    monitoring: bool = True,
    **settings: Any,
) -> PipelineSpec:
    """The serving graph; `settings` are fields of `PipelineSpec`."""
    op = OperatorSpec
    return PipelineSpec(
        settings.pop("name", "serving"),
        (
            op("observe"),
            op("admit", inputs=("observe", "route"), options=dict(admission or {})),
            op("advance"),
            op("execute"),
            op("recover", inputs=("advance",)),
            op("schedule", options=_choice("strategy", scheduling_policy, scheduling_options)),
            op("prefix_lookup"),
            op("pd_split", options=_choice("policy", pd_policy, pd_options)),
            op("route", options=_choice("strategy", routing_strategy, routing_options)),
            op("measure", inputs=("schedule",), options={"enabled": monitoring}),
            op("deliver"),
        ),
        **settings,
    )


def serving_of(service: ServiceConfig) -> PipelineSpec:
    """The graph that a manager of this service runs, to have its settings checked."""
    split = PDSeparationConfig(enabled=service.enable_pd_separation is not False)
    return serving(
        scheduling_policy=service.scheduling_policy or POLICY,
        routing_strategy=service.routing_strategy or SERVICE_ROUTING,
        scheduling_options=service.scheduling_options,
        routing_options=service.routing_options,
        admission=service.admission,
        **split_settings(split, service.pd_options, service.pd_policy),
    )


def split_settings(
    split: PDSeparationConfig, options: dict[str, Any] | None, policy: str | None = None
) -> dict[str, Any]:
    """Policy and options of `pd_split`; what `options` says goes before the switch's threshold, and
    `policy` before what a configuration says that was left at its default."""
    if options and not split.enabled:
        raise ConfigError(
            f"{', '.join(sorted(options))} would change nothing while prefill and decode stay "
            "together; leave pd_options out or set enable_pd_separation",
            key="pd_options",
        )
    if policy is not None and not split.enabled and policy != "never":
        raise ConfigError(
            f"{policy!r} would change nothing while prefill and decode stay together; leave "
            "pd_policy out or set enable_pd_separation",
            key="pd_policy",
        )
    said = split.routing_policy
    if policy is not None and said not in (policy, PDSeparationConfig().routing_policy):
        raise ConfigError(
            f"{policy!r} and pd_config.routing_policy={said!r} contradict each other; give one",
            key="pd_policy",
        )
    return {
        "pd_policy": (policy or said) if split.enabled else "never",
        "pd_options": {"threshold": split.prefilling_threshold_input_tokens, **(options or {})},
    }


def _choice(key: str, name: str, options: dict[str, Any] | None) -> dict[str, Any]:
    return {key: name, **({"options": options} if options else {})}

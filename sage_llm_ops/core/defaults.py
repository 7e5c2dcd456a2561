"""The pipeline a manager runs if nobody gives it one: `pipelines/serving.toml`, in Python."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec


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


def _choice(key: str, name: str, options: dict[str, Any] | None) -> dict[str, Any]:
    return {key: name, **({"options": options} if options else {})}

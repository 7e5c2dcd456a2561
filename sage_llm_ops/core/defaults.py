"""The pipeline a manager runs if nobody gives it one: `pipelines/serving.toml`, in Python."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec


def serving(
    *,
    scheduling_policy: str = "fifo",
    routing_strategy: str = "load_balanced",
    monitoring: bool = True,
    **settings: Any,
) -> PipelineSpec:
    """The serving graph; `settings` are fields of `PipelineSpec`."""
    op = OperatorSpec
    return PipelineSpec(
        settings.pop("name", "serving"),
        (
            op("observe"),
            op("admit", inputs=("observe", "route")),
            op("advance"),
            op("execute"),
            op("recover", inputs=("advance",)),
            op("schedule", options={"strategy": scheduling_policy}),
            op("prefix_lookup"),
            op("pd_split"),
            op("route", options={"strategy": routing_strategy}),
            op("measure", inputs=("schedule",), options={"enabled": monitoring}),
            op("deliver"),
        ),
        **settings,
    )

"""A pipeline drawn as text.

Each operator stands below the first operator that it reads; what else it reads is said beside it.
A drawing with crossing lines was refused: the graph has circles, and grep cannot read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.pipelines import SOURCE, PipelineSpec


def pipeline_lines(spec: PipelineSpec) -> Iterator[str]:
    """Header, graph, instances."""
    yield f"{spec.name}  max_in_flight={spec.max_in_flight}  ledger={spec.ledger or 'none'}"
    yield ""
    yield from graph_lines(spec)
    yield ""
    yield "instances" if spec.instances else "no instances"
    for instance in spec.instances:
        yield f"  {instance_line(instance)}"
    if spec.simulate:
        yield f"simulated with {options_text(spec.simulate)}"


def graph_lines(spec: PipelineSpec) -> Iterator[str]:
    """The operators as a tree; circles are marked `feedback from`."""
    below: dict[str, list[int]] = {}
    for index in range(len(spec.operators)):
        forward = _forward(spec, index)
        # Reads nothing but later operators: only the feedback reaches it.
        below.setdefault(forward[0] if forward else "", []).append(index)
    yield SOURCE
    yield from _branches(spec, below, SOURCE, "")
    for index in below.get("", []):
        yield _operator(spec, index)
        yield from _branches(spec, below, spec.operators[index].id, "")


def instance_line(instance: ExecutionInstance) -> str:
    """One instance: where, what, how large, with which options."""
    if instance.wants_http:
        from sage_llm_ops.engines.http.options import options_of

        place = options_of(instance).url
    else:
        place = " ".join(filter(None, (instance.engine or "default engine", instance.placement)))
    parts = [instance.instance_id, place, instance.model_name or "(the engine's model)"]
    parts.append(str(instance.instance_type))
    sizes = {
        "tp": instance.tensor_parallel_size,
        "pp": instance.pipeline_parallel_size,
        "dp": instance.data_parallel_size,
        "ep": instance.expert_parallel_size,
    }
    parts += [f"{name}={size}" for name, size in sizes.items() if size != 1]
    if instance.options:
        parts.append(options_text(instance.options))
    return "  ".join(parts)


def options_text(options: Mapping[str, Any]) -> str:
    """`key=value` in one line; values as a file would hold them, or as Python shows them."""
    from sage_llm_ops.config.toml_writer import value_text
    from sage_llm_ops.types.errors import ConfigError

    def shown(key: str, value: Any) -> str:
        try:
            return value_text(value, key)
        except ConfigError:  # an object given from Python: it has no form in TOML
            return repr(value)

    return " ".join(f"{key}={shown(key, value)}" for key, value in options.items())


def _branches(
    spec: PipelineSpec, below: Mapping[str, list[int]], parent: str, indent: str
) -> Iterator[str]:
    children = below.get(parent, [])
    for index in children:
        is_last = index == children[-1]
        yield f"{indent}{'└─' if is_last else '├─'}▶ {_operator(spec, index)}"
        deeper = indent + ("   " if is_last else "│  ")
        yield from _branches(spec, below, spec.operators[index].id, deeper)


def _operator(spec: PipelineSpec, index: int) -> str:
    operator = spec.operators[index]
    parts = [operator.id if operator.id == operator.use else f"{operator.id} ({operator.use})"]
    if operator.options:
        parts.append(options_text(operator.options))
    also, feedback = _forward(spec, index)[1:], spec.feedback_of(index)
    if also:
        parts.append(f"◀ also from {', '.join(also)}")
    if feedback:
        parts.append(f"↺ feedback from {', '.join(feedback)}")
    return "  ".join(parts)


def _forward(spec: PipelineSpec, index: int) -> tuple[str, ...]:
    feedback = spec.feedback_of(index)
    return tuple(name for name in spec.inputs_of(index) if name not in feedback)

"""A pipeline as the text of its file."""

from __future__ import annotations

import dataclasses
from typing import Any

from sage_llm_ops.config.toml_writer import assignments
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec


def dump_pipeline(spec: PipelineSpec) -> str:
    """TOML that loads as an equal spec (tuples in options come back as lists).

    What stands at its default is left out. Raises `ConfigError` for options that TOML cannot hold.
    """
    header: dict[str, Any] = {"name": spec.name, "max_in_flight": spec.max_in_flight}
    for name in ("max_unread_tokens", "slow_reader", "ledger"):
        value = getattr(spec, name)
        if value != PipelineSpec.__dataclass_fields__[name].default:
            header[name] = value
    blocks = [["[pipeline]", *assignments(header, "pipeline")]]
    blocks += [_operator(f"operators[{i}]", op) for i, op in enumerate(spec.operators)]
    blocks += [_instance(f"instances[{i}]", one) for i, one in enumerate(spec.instances)]
    if spec.simulate:
        blocks.append(["[simulate]", *assignments(spec.simulate, "simulate")])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _operator(place: str, operator: OperatorSpec) -> list[str]:
    wiring: dict[str, Any] = {"use": operator.use}
    if operator.name:
        wiring["name"] = operator.name
    if operator.inputs is not None:
        wiring["inputs"] = operator.inputs
    return ["[[operators]]", *assignments(wiring | operator.options, place)]


def _instance(place: str, instance: ExecutionInstance) -> list[str]:
    plain, nested = _given(instance)
    block = ["[[instances]]", *assignments(plain, place)]
    for name, table in nested.items():
        block += [f"[instances.{name}]", *assignments(table, f"{place}.{name}")]
    return block


def _given(noun: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Fields that differ from their default: plain values, and tables."""
    plain: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for spec in dataclasses.fields(noun):
        value = getattr(noun, spec.name)
        default = spec.default
        if spec.default_factory is not dataclasses.MISSING:
            default = spec.default_factory()
        if dataclasses.is_dataclass(value):
            nested[spec.name] = _given(value)[0]
        elif isinstance(value, dict):
            nested.update({spec.name: value} if value else {})
        elif value != default:
            plain[spec.name] = value
    return plain, nested

"""A pipeline's `.toml`: header, operators in order, instances.

    [pipeline]
    name = "serving"

    [[operators]]
    use = "observe"              # inputs left out: the operator before it, first of all `source`
    [[operators]]
    use = "admit"
    max_pending = 20000          # every other key is an option of that operator

    [[instances]]
    instance_id = "w0"
    engine = "sim"

    [simulate]                   # optional: options of the simulated engines
    max_num_seqs = 64

Checked here: shape, types, operator ids, inputs. Operator names and their options are the
registry's to check, which takes the places for its errors from `PipelineSpec.where`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sage_llm_ops.config import instances
from sage_llm_ops.config.nouns import shape_of
from sage_llm_ops.config.overrides import Shape, override
from sage_llm_ops.config.tables import Known, located, read_fields, rows_at, table_at
from sage_llm_ops.config.toml_lines import Path
from sage_llm_ops.config.toml_source import TomlSource, read_toml
from sage_llm_ops.types.pipelines import SOURCE, OperatorSpec, PipelineSpec

TABLES = ("pipeline", "operators", "instances", "simulate")
_HEADER = ("name", "max_in_flight", "max_unread_tokens", "slow_reader", "ledger")
_WIRING = ("use", "name", "inputs")
_SHAPE = Shape(
    {
        "pipeline": shape_of(PipelineSpec, _HEADER),
        "operators": Shape(
            row_ids=("name", "use"), each=Shape(values=frozenset(_WIRING), is_open=True)
        ),
        "instances": instances.SHAPE,
        "simulate": Shape(is_open=True),
    }
)


def load_pipeline(
    path: str | os.PathLike[str],
    *,
    known: Known | None = None,
    environ: Mapping[str, str] = os.environ,
) -> PipelineSpec:
    """Read a pipeline's file, with the overrides of the environment.

    `known` may list the registered names of `engine` and `placement`. Raises `ConfigError`, and
    nothing else, for whatever the file or a variable says.
    """
    return pipeline_from(read_toml(path), known=known, environ=environ)


def pipeline_from(
    source: TomlSource, *, known: Known | None = None, environ: Mapping[str, str] = os.environ
) -> PipelineSpec:
    """`load_pipeline` of a file that is read already."""
    for key in source.data:
        if key not in TABLES:
            raise source.unknown((key,), "table", key, TABLES)
    for key, written in (("pipeline", "[pipeline]"), ("operators", "[[operators]]")):
        if key not in source.data:
            raise source.error((), f"has no {written}")
    source = override(source, _SHAPE, environ)
    data = source.data
    header = table_at(source, ("pipeline",), data["pipeline"])
    fields = read_fields(source, ("pipeline",), header, PipelineSpec, _HEADER)
    operators = _operators(source, data["operators"])
    fleet = instances.read_instances(source, ("instances",), data.get("instances", []), known)
    simulate = table_at(source, ("simulate",), data.get("simulate", {}))
    with located(source, ("pipeline",)):
        return PipelineSpec(
            **fields,
            operators=operators,
            instances=fleet,
            simulate=simulate,
            file=source.file,
        )


def _operators(source: TomlSource, value: Any) -> tuple[OperatorSpec, ...]:
    rows = rows_at(source, ("operators",), value)
    if not rows:
        raise source.error(("operators",), "a pipeline needs at least one operator")
    operators = tuple(_operator(source, path, row) for path, row in rows)
    _check_ids(source, operators)
    for (path, _), operator in zip(rows, operators, strict=True):
        _check_inputs(source, (*path, "inputs"), operator, operators)
    return operators


def _operator(source: TomlSource, path: Path, row: dict[str, Any]) -> OperatorSpec:
    wiring = {key: row[key] for key in _WIRING if key in row}
    fields = read_fields(source, path, wiring, OperatorSpec, _WIRING)
    for key in ("use", "name"):
        if fields.get(key) == "":
            raise source.error((*path, key), "'' names nothing")
    if "inputs" in fields:
        fields["inputs"] = tuple(fields["inputs"])
    places = {key: source.where((*path, key)) for key in row}
    variables = {key: source.variable((*path, key)) for key in row}
    return OperatorSpec(
        **fields,
        options={key: option for key, option in row.items() if key not in _WIRING},
        line=source.line(path),
        option_lines={key: at["line"] for key, at in places.items() if at["line"] is not None},
        option_variables={key: name for key, name in variables.items() if name is not None},
    )


def _check_ids(source: TomlSource, operators: tuple[OperatorSpec, ...]) -> None:
    first: dict[str, int] = {}
    for index, operator in enumerate(operators):
        path: Path = ("operators", index, "name" if operator.name else "use")
        if operator.id == SOURCE:
            raise source.error(path, f"{SOURCE!r} is where events enter; choose another `name`")
        if operator.id in first:
            raise source.error(
                path,
                f"{operator.id!r} is taken by the operator at {source.file}:"
                f"{operators[first[operator.id]].line}; give one of them another `name`",
            )
        first[operator.id] = index


def _check_inputs(
    source: TomlSource, path: Path, operator: OperatorSpec, operators: tuple[OperatorSpec, ...]
) -> None:
    if operator.inputs is None:
        return
    if not operator.inputs:
        raise source.error(path, "[] reads nothing; leave it out for the operator before it")
    known = [SOURCE, *(other.id for other in operators if other is not operator)]
    for index, name in enumerate(operator.inputs):
        if name == operator.id:
            raise source.error((*path, index), f"{name!r} cannot read its own output")
        if name not in known:
            raise source.unknown((*path, index), "input", name, known)
        if name in operator.inputs[:index]:
            raise source.error((*path, index), f"{name!r} is listed twice")

"""Arrays of `[[...instances]]`, the same in every file."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.config.nouns import shape_of
from sage_llm_ops.config.overrides import Shape
from sage_llm_ops.config.tables import Known, check_known, read_table, rows_at
from sage_llm_ops.config.toml_lines import Path
from sage_llm_ops.config.toml_source import TomlSource
from sage_llm_ops.types.instances import ExecutionInstance

SHAPE = Shape(row_ids=("instance_id",), each=shape_of(ExecutionInstance))


def read_instances(
    source: TomlSource, path: Path, value: Any, known: Known | None
) -> tuple[ExecutionInstance, ...]:
    """The instances in the file's order; an id used twice is refused."""
    first: dict[str, Path] = {}
    instances = []
    for place, table in rows_at(source, path, value):
        instance = read_table(source, place, table, ExecutionInstance)
        check_known(source, place, table, known)
        key = (*place, "instance_id")
        if instance.instance_id in first:
            before = source.where(first[instance.instance_id])
            at = f"{before['file']}:{before['line']}" if before["line"] else before["key"]
            raise source.error(
                key,
                f"{instance.instance_id!r} is taken by the instance at {at}; "
                "every instance needs its own id",
            )
        first[instance.instance_id] = key
        instances.append(instance)
    return tuple(instances)

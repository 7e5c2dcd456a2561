"""Which names are served here, and by whom."""

from __future__ import annotations

from collections.abc import Collection

from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.types.instances import ExecutionInstance


def names_of(instance: ExecutionInstance) -> tuple[str, ...]:
    """Its model, aliases and adapters."""
    return (instance.model_name, *instance.other_names)


def models(plane: ControlPlane) -> list[str]:
    """Models in the order of registration, without their aliases and adapters."""
    return list(dict.fromkeys(i.model_name for i in list(plane.instances.values())))


def names(plane: ControlPlane) -> list[str]:
    """Everything a request may name: models first."""
    instances = list(plane.instances.values())
    others = [name for instance in instances for name in instance.other_names]
    return list(dict.fromkeys((*models(plane), *others)))


def serving(plane: ControlPlane, name: str) -> list[ExecutionInstance]:
    """The instances behind a name."""
    return [i for i in list(plane.instances.values()) if name in names_of(i)]


def shortest(plane: ControlPlane, among: Collection[ExecutionInstance]) -> int:
    """The longest sequence that each of these takes; 0 while none has said."""
    hellos = dict(plane.pipeline.hands.hellos)
    lengths = [
        hello.capabilities.max_model_len
        for worker, hello in hellos.items()
        if any(instance.instance_id == worker for instance in among)
    ]
    return min((length for length in lengths if length), default=0)

"""The fleet as plain rows, for people and for the management API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_llm_ops.types.ids import WorkerId

if TYPE_CHECKING:
    from sage_llm_ops.core.control_plane import ControlPlane


def describe(plane: ControlPlane) -> list[dict[str, Any]]:
    """One row an instance: load, health, its process, failures and when it is started again; then
    those that were given up, with the reason."""
    rows = {row["worker"]: row for row in plane.pipeline.plane.fleet.describe()}
    out = []
    for identity, instance in list(plane.instances.items()):
        key = WorkerId(identity)
        worker = plane.pipeline.hands.workers.get(key)
        watched = plane.supervisor.workers.get(key)
        out.append(
            {
                **rows.get(identity, {"worker": identity}),
                "health": instance.health_status,
                **(worker.describe() if worker is not None else {}),
                **(watched.describe() if watched is not None else {}),
            }
        )
    out += [
        {"worker": identity, "state": "given up", "health": "unhealthy", "last_end": reason}
        for identity, reason in list(plane.given_up.items())
    ]
    return out

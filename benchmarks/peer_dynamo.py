"""Dynamo's `SelectionService`, on our prompts. Absent without the extra `bench`."""

from __future__ import annotations


def rate(prompts: list[list[int]], *, workers: int, block: int) -> float | None:
    """Its decisions per second; None where it is not installed."""
    return None

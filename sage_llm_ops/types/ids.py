"""Names for the identifiers that travel, so that one kind cannot be passed for another."""

from typing import NewType

RequestId = NewType("RequestId", str)
"""Chosen by the caller or made by the manager; unique among the requests still remembered."""

WorkerId = NewType("WorkerId", str)
"""`ExecutionInstance.instance_id`: one logical worker, whichever process serves it just now."""

NodeId = NewType("NodeId", int)
"""One attempt of one plan node on one worker. Also the reservation's id: they live and die together."""

Needs = tuple[str, str, str]
"""Model, task and pinned worker (or empty): what a place must offer. Requests with equal needs wait
for the same capacity."""

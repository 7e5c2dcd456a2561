"""Beside the processes, a server that is not ours: reached over HTTP, by a line that breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from sage_llm_ops.core import ControlPlane
from sage_llm_ops.engines.base import Uplink, Worker
from sage_llm_ops.engines.http.worker import HttpWorker
from sage_llm_ops.testing.chaos.fleet import ProcessFleet
from sage_llm_ops.testing.relay import Relay
from sage_llm_ops.types.instances import ExecutionInstance

SERVED = "http"
GONE, GARBLES, SLOW = "server gone", "server garbles", "server slow"


class ServedFleet(ProcessFleet):
    """A `ProcessFleet`, and the server at `port` with the same model."""

    faults = (*ProcessFleet.faults, GONE, GARBLES, SLOW)

    def __init__(
        self, instances: Sequence[ExecutionInstance], folder: Path, model: str, port: int
    ) -> None:
        super().__init__(instances, folder)
        self._model = model
        self._relay = Relay(port)

    def plane(self, ledger: Path) -> ControlPlane:
        self._relay.start()
        plane = super().plane(ledger)
        plane.register(
            ExecutionInstance(
                SERVED,
                host="127.0.0.1",
                port=self._relay.port,
                model_name=self._model,
                options={
                    "tokenizer": self._model,
                    "max_num_seqs": 16,
                    "health_every_s": 1.0,
                    "first_token_timeout_s": 30.0,
                    "token_timeout_s": 15.0,
                },
            )
        )
        return plane

    async def inject(self, fault: str, chance: random.Random) -> str:
        if fault == GONE:
            await asyncio.to_thread(self._relay.stop)
            await asyncio.sleep(chance.uniform(0.1, 2.0))
            await asyncio.to_thread(self._relay.start)
        elif fault == GARBLES:
            self._relay.garble = chance.randrange(1, 4)
        elif fault == SLOW:
            self._relay.slow_s = chance.uniform(0.02, 0.2)
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            self._relay.slow_s = 0.0
        else:
            return await super().inject(fault, chance)
        return SERVED

    def close(self) -> None:
        self._relay.stop()

    def _make(self, instance: ExecutionInstance, uplink: Uplink) -> Worker:
        return (
            HttpWorker(instance, uplink) if instance.wants_http else super()._make(instance, uplink)
        )

"""The workers that chaos is made with, and what can be done to them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sage_llm_ops.core import ControlPlane, HealthPolicy, RestartPolicy, serving
from sage_llm_ops.engines.base import Uplink, Worker
from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.engines.registry import engine_options
from sage_llm_ops.testing.chaos.spoiled_host import FRAMES, VARIABLE
from sage_llm_ops.types.instances import ExecutionInstance

DEADLY = ("kill -9", "freeze", "truncate", "garbage")
RESTART = RestartPolicy(first_s=0.05, most_s=0.5, stable_s=0.0)
HEALTH = HealthPolicy(interval_s=0.5, silent_s=4.0, stuck_s=600.0)


class ChaosFleet(Protocol):
    """A fleet and its faults. One that is not of processes has other faults by other means."""

    @property
    def faults(self) -> Sequence[str]:
        """Names; each is tried before any comes twice."""

    def plane(self, ledger: Path) -> ControlPlane:
        """With its instances registered, not started."""

    async def inject(self, fault: str, chance: random.Random) -> bool:
        """Do it to somebody; False where nobody was there to do it to."""

    def close(self) -> None:
        """After the plane has stopped: give back what is held besides it."""


class ProcessFleet:
    """Implements `ChaosFleet` over worker processes of one model."""

    faults = (*DEADLY, "pause", "slow", *(each for each in FRAMES if each not in DEADLY))

    def __init__(self, instances: Sequence[ExecutionInstance], folder: Path, engine: str) -> None:
        self._instances = instances
        self._folder = folder
        self._engine = engine
        self._plane: ControlPlane | None = None

    def plane(self, ledger: Path) -> ControlPlane:
        spec = serving(ledger=str(ledger))
        self._plane = ControlPlane(
            spec, default_engine=self._engine, restart=RESTART, health=HEALTH, make=self._make
        )
        for instance in self._instances:
            self._plane.register(instance)
        return self._plane

    async def inject(self, fault: str, chance: random.Random) -> bool:
        assert self._plane is not None
        up = [w for w in self._workers() if w.describe()["state"] == "up"]
        if not up or (fault in DEADLY and len(up) < 2 and chance.random() < 0.9):
            return False  # mostly somebody is left who can be asked
        worker = chance.choice(up)
        pid = worker.describe()["pid"]
        if pid is None:
            return False
        try:
            if fault == "kill -9":
                os.kill(pid, signal.SIGKILL)
            elif fault == "freeze":  # nobody wakes it: its silence has to be noticed
                os.kill(pid, signal.SIGSTOP)
            elif fault == "pause":
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.1, HEALTH.silent_s / 2))
                os.kill(pid, signal.SIGCONT)
            else:
                said = f"slow {chance.uniform(0.01, 0.1):.3f}" if fault == "slow" else fault
                return await self._told(worker, said)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Its processes were the plane's."""

    async def _told(self, worker: Worker, said: str) -> bool:
        """Whether the worker did it within a moment."""
        file = self._file(worker.id)
        part = file.with_suffix(".part")
        part.write_text(said)
        part.replace(file)
        for _ in range(300):
            if not file.exists():
                return True
            await asyncio.sleep(0.01)
        file.unlink(missing_ok=True)
        return False

    def _workers(self) -> list[Worker]:
        assert self._plane is not None
        return list(self._plane.pipeline.hands.workers.values())

    def _file(self, identity: str) -> Path:
        return self._folder / f"{identity}.fault"

    def _make(self, instance: ExecutionInstance, uplink: Uplink) -> Worker:
        return ProcessWorker(
            instance,
            uplink,
            engine=self._engine,
            options=engine_options(instance, self._engine),
            log=self._folder / f"{instance.instance_id}.log",
            environment={VARIABLE: str(self._file(instance.instance_id))},
            entry=(sys.executable, "-m", "sage_llm_ops.testing.chaos.spoiled_host"),
        )

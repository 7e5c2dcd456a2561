"""The workers that chaos is made with, and what can be done to them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sage_llm_ops.core import ControlPlane, HealthPolicy, RestartPolicy, serving
from sage_llm_ops.engines.base import Uplink, Worker
from sage_llm_ops.engines.child import entry
from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.engines.registry import engine_options, make_engine
from sage_llm_ops.testing.chaos.spoiled_host import FRAMES, VARIABLE
from sage_llm_ops.types.instances import ExecutionInstance

SPOILED_HOST = "sage_llm_ops.testing.chaos.spoiled_host"
SIGNALS = ("kill -9", "freeze", "pause")
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

    async def inject(self, fault: str, chance: random.Random) -> str:
        """Do it to somebody, and say to whom; "" where nobody was there to do it to."""

    def close(self) -> None:
        """After the plane has stopped: give back what is held besides it."""


class ProcessFleet:
    """Implements `ChaosFleet` over worker processes of one model, of whatever engines."""

    faults: Sequence[str] = (*SIGNALS, "slow", *FRAMES)

    def __init__(self, instances: Sequence[ExecutionInstance], folder: Path) -> None:
        self._instances = instances
        self._folder = folder
        self._struck: Counter[tuple[str, str]] = Counter()
        """By fault and worker."""
        self._plane: ControlPlane | None = None

    def plane(self, ledger: Path) -> ControlPlane:
        spec = serving(ledger=str(ledger))
        self._plane = ControlPlane(spec, restart=RESTART, health=HEALTH, make=self._make)
        for instance in self._instances:
            self._plane.register(instance)
        return self._plane

    async def inject(self, fault: str, chance: random.Random) -> str:
        up = [worker for worker in self._processes() if worker.describe()["state"] == "up"]
        if fault in DEADLY and len(up) < 2 and chance.random() < 0.9:
            return ""  # mostly somebody is left who can be asked
        # A frame is spoilt where one is sent.
        able = up if fault in SIGNALS else list(filter(self._busy, up))
        if not able:
            return ""
        worker = self._victim(fault, able, chance)
        if not await self._strike(worker, fault, chance):
            return ""
        self._struck[fault, worker.id] += 1
        return worker.id

    def _busy(self, worker: ProcessWorker) -> bool:
        assert self._plane is not None
        return self._plane.pipeline.hands.running_on(worker.id) > 0

    def _victim(
        self, fault: str, able: list[ProcessWorker], chance: random.Random
    ) -> ProcessWorker:
        """By chance among those who have not met this fault, if there are any; the untouched first."""
        touched = {identity for _, identity in self._struck}

        def rank(worker: ProcessWorker) -> tuple[bool, bool, float]:
            return (fault, worker.id) in self._struck, worker.id in touched, chance.random()

        return min(able, key=rank)

    async def _strike(self, worker: ProcessWorker, fault: str, chance: random.Random) -> bool:
        """Whether it was there to be struck."""
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

    async def _told(self, worker: ProcessWorker, said: str) -> bool:
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

    def _processes(self) -> list[ProcessWorker]:
        assert self._plane is not None
        workers = self._plane.pipeline.hands.workers.values()
        return [worker for worker in workers if isinstance(worker, ProcessWorker)]

    def _file(self, identity: str) -> Path:
        return self._folder / f"{identity}.fault"

    def _make(self, instance: ExecutionInstance, uplink: Uplink) -> Worker:
        engine = instance.engine
        assert engine, "a worker of chaos names its engine"
        options = engine_options(instance, engine)
        python = make_engine(engine, options).python
        return ProcessWorker(
            instance,
            uplink,
            engine=engine,
            options=options,
            python=python,
            log=self._folder / f"{instance.instance_id}.log",
            environment={VARIABLE: str(self._file(instance.instance_id))},
            command=entry(python, SPOILED_HOST),
        )

"""Who is held to the contract. To add one: a function that yields it, and a line in `SUBJECTS`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops import ExecutionInstance
from sage_llm_ops.core import ControlPlane, RestartPolicy, serving
from sage_llm_ops.testing.lmdeploy_cpu import CPU_LMDEPLOY, TURBOMIND_HARNESS
from sage_llm_ops.testing.relay import Relay
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.ids import WorkerId
from tests.contract.lmdeploy_server import lmdeploy_server
from tests.lmdeploy_env import lmdeploy_python

MODEL = "subject"
LENGTH = 1024
"""Tokens of the longest prompt with its answer, everywhere."""


@dataclass
class Subject:
    """A started plane over one worker, `w0`."""

    name: str
    plane: ControlPlane
    kill: Callable[[], None]
    """End the worker as a fault would."""
    revive: Callable[[], None] = lambda: None
    """What the plane cannot do itself after `kill`."""
    text: bool = False
    """Whether text travels, so that token ids are unknown."""
    killable: bool = True
    """Whether its restart is worth the time it takes."""
    certain: bool = False
    """Whether its model puts all probability on one token, so that sampling shows nothing."""

    @property
    def can(self) -> Capabilities:
        """What the worker says it can do."""
        return self.plane.pipeline.hands.hellos[WorkerId("w0")].capabilities


Start = Callable[[Path, Callable[[], int]], AbstractContextManager[Subject]]
"""Given a folder for logs, and the port of vLLM's server, which starts when it is asked for."""


@contextmanager
def started(instance: ExecutionInstance, logs: Path) -> Iterator[ControlPlane]:
    plane = ControlPlane(
        serving(),
        default_engine="sim",
        log_dir=logs,
        restart=RestartPolicy(first_s=0.05, most_s=0.2),
    )
    instance.model_name = MODEL
    plane.register(instance)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop(5.0)


@contextmanager
def sim(logs: Path, port: Callable[[], int]) -> Iterator[Subject]:
    options = {"speed": 20.0, "max_model_len": LENGTH, "tasks": ["generate", "embed"]}
    with started(ExecutionInstance("w0", engine="sim", options=options), logs) as plane:
        yield Subject("sim", plane, plane.worker("w0").kill, certain=True)


def vllm(core: str) -> Start:
    @contextmanager
    def start(logs: Path, port: Callable[[], int]) -> Iterator[Subject]:
        options = {"model": str(tiny_model()), "max_model_len": LENGTH, "core": core}
        with started(ExecutionInstance("w0", engine="vllm", options=options), logs) as plane:

            def kill() -> None:
                os.kill(plane.worker("w0").describe()["pid"], signal.SIGKILL)

            # Half a minute for a restart that is the placement's, and shown by the other core.
            killable = core == "inproc" or "SAGE_LLM_OPS_KILLS" in os.environ
            yield Subject(f"vllm-{core}", plane, kill, killable=killable)

    return start


def lmdeploy(name: str, engine: str) -> Start:
    """In its own environment."""

    @contextmanager
    def start(logs: Path, port: Callable[[], int]) -> Iterator[Subject]:
        options = {"model": str(tiny_model()), "session_len": LENGTH, "python": lmdeploy_python()}
        with started(ExecutionInstance("w0", engine=engine, options=options), logs) as plane:

            def kill() -> None:
                os.kill(plane.worker("w0").describe()["pid"], signal.SIGKILL)

            # The harness speaks a script, whatever the sampling.
            yield Subject(name, plane, kill, certain=engine == TURBOMIND_HARNESS)

    return start


@contextmanager
def api_server(logs: Path, port: Callable[[], int]) -> Iterator[Subject]:
    """LMDeploy's: text alone, in both directions; it does not say how long a prompt may be."""
    with lmdeploy_server(logs, MODEL, LENGTH) as at:
        start = http("", "lmdeploy", max_model_len=LENGTH)
        with start(logs, lambda: at) as found:
            yield found


def http(tokenizer: str, server: str = "http", **more: Any) -> Start:
    """Through a relay, which can be gone while the server, which takes long to start, stays."""

    @contextmanager
    def start(logs: Path, port: Callable[[], int]) -> Iterator[Subject]:
        with Relay(port()) as relay:
            source = str(tiny_model()) if tokenizer else ""
            instance = ExecutionInstance(
                "w0",
                host="127.0.0.1",
                port=relay.port,
                options={
                    "tokenizer": source,
                    "start_timeout_s": 120.0,
                    "max_num_seqs": 16,
                    **more,
                },
            )
            with started(instance, logs) as plane:
                text = not tokenizer
                name = f"{server}-text" if text else f"{server}-tokens"

                def revive() -> None:
                    with plane.supervisor.changed:
                        assert plane.supervisor.changed.wait_for(
                            lambda: not plane.supervisor.workers[WorkerId("w0")].up, 30.0
                        )
                    relay.start()

                yield Subject(name, plane, relay.stop, revive, text=text)

    return start


REAL = (pytest.mark.vllm, pytest.mark.slow)
LMDEPLOY = (pytest.mark.lmdeploy, pytest.mark.slow)

SUBJECTS = [
    pytest.param(sim, id="sim"),
    pytest.param(vllm("inproc"), id="vllm-inproc", marks=REAL),
    pytest.param(vllm("async"), id="vllm-async", marks=REAL),
    pytest.param(lmdeploy("lmdeploy", CPU_LMDEPLOY), id="lmdeploy", marks=LMDEPLOY),
    pytest.param(lmdeploy("turbomind", TURBOMIND_HARNESS), id="turbomind", marks=LMDEPLOY),
    pytest.param(api_server, id="lmdeploy-api_server", marks=LMDEPLOY),
    pytest.param(http("tiny"), id="http-tokens", marks=REAL),
    pytest.param(http(""), id="http-text", marks=REAL),
]

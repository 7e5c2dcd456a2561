"""`ControlPlaneVLLMService`: the control plane as a service of a SAGE application.

    env.register_service("llm_control_plane", ControlPlaneVLLMService, "services.toml")
    ...
    class Answer(MapFunction):
        def execute(self, question):
            llm = self.ctx.get_service("llm_control_plane")
            return llm.generate(question, max_tokens=64)["text"]

Outside SAGE it is an object like any other: `with ControlPlaneVLLMService(config) as llm: ...`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from sage.runtime import BaseService

from sage_llm_ops.config import ServiceConfig, load_services, service_of
from sage_llm_ops.core import ControlPlaneManager
from sage_llm_ops.core.defaults import NAMES
from sage_llm_ops.service import answers, ledgers
from sage_llm_ops.service.payload import read_payload
from sage_llm_ops.service.reentry import refuse_call_service, refuse_further
from sage_llm_ops.types.errors import ConfigError, NotRunning
from sage_llm_ops.types.instances import ExecutionInstance

Payload = Mapping[str, Any]
Answer = dict[str, Any]


class ControlPlaneVLLMService(BaseService):
    """`config`: a dict with the keys of `[services.NAME]`, the path of a `services.toml`, or nothing
    for one worker of the default engine.

    Nothing runs before the first request (or `warm_up`), and every method may be called from any
    thread. Each service has its own control plane: two share no worker, queue or metric.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        service: str | None = None,
        **options: Any,
    ) -> None:
        """`service` names the table where a file has several; without it, the name under which
        SAGE knows this one. `options` are further ones of `ControlPlaneManager` (`record`, ...)."""
        super().__init__()
        refuse_call_service(self.name, self.ctx)  # first of all: SAGE polls until we answer
        self.config = self._read(config, service)
        self._options = options
        self._manager: ControlPlaneManager | None = None
        self._stopped = False
        self._lock = threading.Lock()

    # -- life ---------------------------------------------------------------------------------

    def setup(self) -> None:
        """Build, and start nothing. SAGE calls it, and then `start`, which does nothing here: it
        holds a lock over all services meanwhile, and loading a model takes minutes."""
        refuse_further(self.name, self.ctx)
        _ = self.manager

    def warm_up(self, timeout_s: float = 300.0) -> None:
        """Start now, and return once all workers are ready; the first request does it otherwise."""
        self.manager.control.start(timeout_s)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Let what was accepted end, fail the rest by name, free everything; idempotent.

        SAGE calls it at the end of a batch run. After a streaming run nobody does: the interpreter's
        exit will, at once.
        """
        with self._lock:
            self._stopped, manager = True, self._manager
        if manager is not None:
            manager.control.stop(timeout_s)
            ledgers.release(self)

    def cleanup(self) -> None:
        """SAGE's last word; the same as `stop`."""
        self.stop()

    def close(self) -> None:
        """The same as `stop`."""
        self.stop()

    def __enter__(self) -> ControlPlaneVLLMService:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def manager(self) -> ControlPlaneManager:
        """What does the work: instances, metrics, streaming, cancelling."""
        with self._lock:
            if self._stopped:
                raise NotRunning(f"service {self.name!r} was stopped; make a new one")
            if self._manager is None:
                ledgers.claim(self, self.config.ledger)
                self._manager = ControlPlaneManager.from_service(self.config, **self._options)
            return self._manager

    # -- requests -----------------------------------------------------------------------------

    def process(self, payload: Payload) -> Answer | list[Answer]:
        """Answer a payload (its keys: `payload.py`), and return when all of it has ended.

        One input: its answer, or its error raised. Several: a list in their order, served at the
        same time; where one fails, its place holds `{"request_id", "error": {"code", "message"},
        "token_ids"}`. What is wrong with the payload as a whole is raised before anything runs.
        """
        refuse_call_service(self.name, self.ctx)
        batch = read_payload(payload)
        control = self.manager.control
        control.start()
        return answers.wait(control, batch)

    async def aprocess(self, payload: Payload) -> Answer | list[Answer]:
        """`process` for an event loop. Cancelling it cancels its requests."""
        batch = read_payload(payload)
        manager = self.manager
        await manager.start()
        return await answers.gather(manager.control, batch)

    def generate(self, inputs: Any, **fields: Any) -> Any:
        """Text for a prompt (a string or token ids), or for a list of them."""
        return self.process({"task": "generate", "inputs": inputs, **fields})

    def chat(self, inputs: Any, **fields: Any) -> Any:
        """The next turn of a conversation (a list of messages), or of a list of them."""
        return self.process({"task": "chat", "inputs": inputs, **fields})

    def embed(self, inputs: Any, **fields: Any) -> Any:
        """The embedding of a text or token ids, or of each in a list."""
        return self.process({"task": "embed", "inputs": inputs, **fields})

    # -- inside -------------------------------------------------------------------------------

    def _read(self, config: Any, service: str | None) -> ServiceConfig:
        if isinstance(config, (str, os.PathLike)):
            found = load_services(config, known=NAMES)
            names = [one.name for one in found.services]
            return found.service(service or (self.name if self.name in names else None))
        if service is not None:
            raise ConfigError(f"service={service!r} names a table of a file, and none is given")
        if config is None:
            return ServiceConfig(self.name, instances=(ExecutionInstance("w0"),))
        if not isinstance(config, Mapping):
            raise ConfigError(
                f"config={config!r} must be a dict, the path of a services.toml, or left out"
            )
        return service_of(config, self.name)

"""A `services.toml` that is read again while it is served from.

An instance that was added is registered, one that was removed is drained and taken out, one that
changed is replaced. A file that cannot be obeyed changes nothing at all. Only instances can change
this way: settings of the service are part of the graph, and a change of them is named, not obeyed.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_llm_ops.config import ServiceConfig, load_services
from sage_llm_ops.config import default_engine as resolve_engine
from sage_llm_ops.config.services import SETTINGS
from sage_llm_ops.core.defaults import NAMES
from sage_llm_ops.core.ticker import Ticker
from sage_llm_ops.engines.registry import check_instance
from sage_llm_ops.types.errors import ConfigError, SageLlmOpsError
from sage_llm_ops.types.instances import ExecutionInstance

if TYPE_CHECKING:
    from sage_llm_ops.core.control_plane import ControlPlane

log = logging.getLogger("sage_llm_ops.discovery")


@dataclass(frozen=True, slots=True)
class Reload:
    """What reading the file again led to; instances by id, in the file's order."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    """What was asked for and went wrong: an id and why."""
    needs_restart: tuple[str, ...] = ()
    """Settings of the service that the file changes and that only a new control plane obeys."""
    error: ConfigError | None = None
    """The file cannot be obeyed; nothing was changed."""

    def __str__(self) -> str:
        if self.error is not None:
            return f"nothing changed: {self.error}"
        parts = [
            f"{name}: {', '.join(ids)}"
            for name in ("added", "removed", "replaced", "kept", "needs_restart")
            if (ids := getattr(self, name))
        ]
        parts += [f"failed: {identity}: {why}" for identity, why in self.failed]
        return "; ".join(parts) or "no instances"


class Discovery:
    """Compares the file with what it said before, not with the registry: instances that came in
    by other doors (leases, a program) are none of its business."""

    def __init__(
        self,
        plane: ControlPlane,
        service: ServiceConfig,
        *,
        poll_s: float = 2.0,
        timeout_s: float = 300.0,
    ) -> None:
        if service.file is None:
            raise ConfigError(f"service {service.name!r} was not read from a file")
        self.file = service.file
        self._plane = plane
        self._service = service
        self._timeout_s = timeout_s
        self._declared = {each.instance_id: each for each in service.instances}
        self._seen = _stamp(self.file)
        self._lock = threading.Lock()
        self._watching = Ticker("sage-llm-ops-discovery", poll_s, self.poll)

    def start(self) -> None:
        """Look at the file again and again."""
        self._watching.start()

    def stop(self) -> None:
        """End that; a reload that is under way ends by itself."""
        self._watching.stop(wait_s=1.0)

    def poll(self) -> Reload | None:
        """`reload` where the file is another one than before."""
        stamp = _stamp(self.file)
        if stamp == self._seen:
            return None
        return self.reload()

    def reload(self) -> Reload:
        """Read the file and do what it says; told by the report, never raised."""
        with self._lock:
            self._seen = _stamp(
                self.file
            )  # before reading: a change while we read is seen next time
            try:
                service = load_services(self.file, known=NAMES).service(self._service.name)
                self._check(service)
            except ConfigError as error:
                report = Reload(error=error)
                log.error("%s is not obeyed, %s", self.file, report)
                return report
            report = self._obey(service)
            level = logging.ERROR if report.failed or report.needs_restart else logging.INFO
            log.log(level, "%s was read again; %s", self.file, report)
            return report

    def _check(self, service: ServiceConfig) -> None:
        """All instances, before anything is touched."""
        for instance in service.instances:
            undecided = instance.engine is None and not instance.wants_http
            default = resolve_engine(service.default_engine) if undecided else ""
            try:
                check_instance(instance, default)
            except ConfigError as error:
                if error.line is None:
                    line = service.lines.get(instance.instance_id)
                    error.at(file=self.file, line=line, key=error.key)
                raise

    def _obey(self, service: ServiceConfig) -> Reload:
        wanted = {each.instance_id: each for each in service.instances}
        before = self._declared
        removed, added, replaced, kept = list[str](), list[str](), list[str](), list[str]()
        failed: list[tuple[str, str]] = []
        for identity in [each for each in before if each not in wanted]:
            if self._did(failed, identity, self._unregister, identity):
                removed.append(identity)
                del before[identity]
        for identity, instance in wanted.items():
            declared, known = before.get(identity), identity in self._plane.instances
            if known and declared == instance:
                kept.append(identity)
                continue
            mine = copy.deepcopy(instance)  # the plane writes into what it is given
            if known and declared is not None:
                if self._did(failed, identity, self._replace, mine):
                    replaced.append(identity)
                if self._plane.instances.get(identity) is mine:  # also where it does not come up
                    before[identity] = instance
            elif self._did(failed, identity, self._plane.register, mine):
                before[identity] = instance
                added.append(identity)
        needs_restart = tuple(
            name for name in SETTINGS if getattr(service, name) != getattr(self._service, name)
        )
        return Reload(
            tuple(added), tuple(removed), tuple(replaced), tuple(kept), tuple(failed), needs_restart
        )

    @staticmethod
    def _did(
        failed: list[tuple[str, str]], identity: str, act: Callable[[Any], None], given: object
    ) -> bool:
        """Whether it could be done; else why not is noted."""
        try:
            act(given)
        except SageLlmOpsError as error:
            failed.append((identity, str(error)))
            return False
        return True

    def _unregister(self, identity: str) -> None:
        if identity in self._plane.instances:  # it may have been given up, or taken out by hand
            self._plane.unregister(identity, drain=True, timeout_s=self._timeout_s)

    def _replace(self, instance: ExecutionInstance) -> None:
        self._plane.replace(instance, timeout_s=self._timeout_s)


def _stamp(file: str) -> tuple[int, ...]:
    """Changes when the file does; empty where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)

"""A model in this process, for as long as the conversation lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sage_llm_ops.core import ControlPlane


class Local:
    """Implements `Partner` over a control plane."""

    def __init__(self, plane: ControlPlane, model: str, sampling: dict[str, Any]) -> None:
        self._plane, self.model, self._sampling = plane, model, sampling

    def answer(self, messages: list[dict[str, str]]) -> Iterator[str]:
        """Cancels the request where the caller leaves early."""
        from sage_llm_ops.types.requests import RequestMetadata

        handle = self._plane.submit(
            RequestMetadata(
                messages=[dict(turn) for turn in messages],
                model_name=self.model,
                sampling_params=self._sampling,
            )
        )
        decoder = self._plane.tokenizer(self.model).decoder()
        try:
            for ids in handle.iter():
                yield decoder.push(ids)
            yield decoder.flush()
        finally:
            self._plane.cancel(handle.request_id)


@contextlib.contextmanager
def local(
    config: Path | None,
    service: str | None,
    engine: str | None,
    model: str | None,
    sampling: dict[str, Any],
) -> Iterator[Local]:
    """A file's fleet, or one worker of an engine."""
    plane = _plane(config, service, engine, model)
    try:
        served = plane.model_for(model if config else None)
        typer.echo(f"starting {', '.join(plane.instances)}: {served}", err=True)
        plane.start()
        yield Local(plane, served, sampling)
    finally:
        plane.stop(0.0)


def _plane(
    config: Path | None, service: str | None, engine: str | None, model: str | None
) -> ControlPlane:
    from sage_llm_ops.cli.fleet import with_fleet
    from sage_llm_ops.config import load_any
    from sage_llm_ops.core import ControlPlane, ControlPlaneManager, serving
    from sage_llm_ops.types.errors import ConfigError
    from sage_llm_ops.types.pipelines import PipelineSpec

    if config is None:
        return ControlPlane(with_fleet(serving(), engine=engine, instances=1, model=model))
    found = load_any(config)
    if isinstance(found, PipelineSpec):
        if service is not None:
            raise ConfigError(f"--service {service!r}: {config} is a pipeline, and has no services")
        return ControlPlane(found)
    return ControlPlaneManager.from_service(found.service(service)).control

"""Names of engines and placements, and the factories behind them. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from typing import Any

from sage_llm_ops.engines.base import BaseEngine, Uplink, Worker
from sage_llm_ops.types.errors import CapabilityError, ConfigError, UnknownName
from sage_llm_ops.types.instances import PLACEMENTS, ExecutionInstance
from sage_llm_ops.types.registry import Registry

ENGINES: Registry[BaseEngine] = Registry(
    "engine",
    "engines",
    BaseEngine,
    {
        "sim": "sage_llm_ops.engines.sim.engine:SimEngine",
        "vllm": "sage_llm_ops.engines.vllm.engine:VllmEngine",
        "lmdeploy": "sage_llm_ops.engines.lmdeploy.engine:LmdeployEngine",
    },
)
"""With those of plug-ins. A name with a colon, `package.module:Class`, is an engine of your own."""

NOT_BUILT = ("ray",)
OVER_HTTP = (None, "http", "vllm", "lmdeploy")
"""Engines an instance with a host may name: what the server is, where it does not say so itself."""
DEFAULT_PLACEMENT = {"sim": "inline"}
"""Where an engine runs if nobody says; `process` for those not named."""


def engine_class(name: str) -> type[BaseEngine]:
    """Raises `UnknownName`, `PluginError`, or `ConfigError` where one's own cannot be imported."""
    if ":" not in name:
        return ENGINES.resolve(name, "http", "package.module:Class")
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"engine {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseEngine)):
        raise ConfigError(f"engine {name!r} is no subclass of BaseEngine")
    return found


def make_engine(name: str, options: dict[str, Any] | None = None) -> BaseEngine:
    """An engine that is not started. Its class checks the options and refuses unknown ones."""
    found = engine_class(name)
    # An engine whose constructor takes more than a table of options says how it is made from one.
    factory: Callable[[dict[str, Any]], BaseEngine] = getattr(found, "from_options", found)
    return factory(dict(options or {}))


def placement_of(instance: ExecutionInstance, default_engine: str) -> tuple[str, str]:
    """`(engine, placement)` of an instance; raises `ConfigError` or `CapabilityError`."""
    if instance.wants_http:
        _check_http(instance)
        return "http", "http"
    engine = instance.engine or default_engine
    placement = instance.placement or DEFAULT_PLACEMENT.get(engine, "process")
    if placement in NOT_BUILT:
        raise CapabilityError(
            f"instance {instance.instance_id!r}: placement {placement!r} is not built yet; "
            "use placement 'process', 'inline' or 'http'"
        )
    if placement not in PLACEMENTS:
        raise UnknownName("placement", placement, PLACEMENTS)
    return engine, placement


def _check_http(instance: ExecutionInstance) -> None:
    """Its fields must not say "a server" and something else."""
    if instance.placement not in (None, "http"):
        raise ConfigError(
            f"instance {instance.instance_id!r}: placement={instance.placement!r} contradicts engine "
            "'http', a host or a port, which mean a server; leave out one of them"
        )
    if instance.engine not in OVER_HTTP:
        raise ConfigError(
            f"instance {instance.instance_id!r}: engine={instance.engine!r} is not reached over HTTP; "
            "leave it out, or leave out placement, host and port"
        )


def engine_options(instance: ExecutionInstance, engine: str) -> dict[str, Any]:
    """The instance's options with what its other fields say to this engine."""
    complete = getattr(engine_class(engine), "complete_options", None)
    options = dict(instance.options)
    return options if complete is None else complete(instance, options)


def check_instance(instance: ExecutionInstance, default_engine: str) -> None:
    """Refuse what `make_worker` would refuse, without making anything."""
    engine, placement = placement_of(instance, default_engine)
    if placement == "http":
        from sage_llm_ops.engines.http.options import options_of

        options_of(instance)
        return
    make_engine(engine, engine_options(instance, engine))


def make_worker(
    instance: ExecutionInstance,
    uplink: Uplink,
    default_engine: str = "vllm",
    *,
    log: str | os.PathLike[str] | None = None,
    tokenizer_hash: str = "",
    start_timeout_s: float | None = None,
) -> Worker:
    """The worker for an instance, not started. Wrong options are refused here, not in the child."""
    engine, placement = placement_of(instance, default_engine)
    if placement == "http":
        from sage_llm_ops.engines.http.worker import HttpWorker

        http: Worker = HttpWorker(instance, uplink, tokenizer_hash=tokenizer_hash)
        return http
    options = engine_options(instance, engine)
    if placement == "inline":
        from sage_llm_ops.engines.inline import InlineWorker

        if engine != "sim":
            raise CapabilityError(
                f"instance {instance.instance_id!r}: engine {engine!r} owns its thread and device; "
                "use placement 'process'"
            )
        inline: Worker = InlineWorker(instance, options, uplink)
        return inline
    from sage_llm_ops.engines.process import START_TIMEOUT_S, ProcessWorker

    python = _interpreter(make_engine(engine, options))
    return ProcessWorker(
        instance,
        uplink,
        engine=engine,
        options=options,
        tokenizer_hash=tokenizer_hash,
        log=log,
        start_timeout_s=START_TIMEOUT_S if start_timeout_s is None else start_timeout_s,
        python=python,
    )


def _interpreter(engine: BaseEngine) -> str:
    if engine.python and shutil.which(engine.python) is None:
        raise ConfigError(
            f"option python={engine.python!r} of engine {engine.name!r} is no program: give the path "
            "of the interpreter of the environment that the engine is installed in"
        )
    return engine.python

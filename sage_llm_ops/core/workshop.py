"""Makes the workers and the tokenizers of instances."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from sage_llm_ops.config import default_engine as resolve_engine
from sage_llm_ops.engines.base import Tokenizer, Uplink, Worker
from sage_llm_ops.engines.registry import engine_class, make_worker, placement_of
from sage_llm_ops.engines.tokenizers import tokenizer_for
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.instances import ExecutionInstance

MakeWorker = Callable[[ExecutionInstance, Uplink], Worker]


class Workshop:
    """`runs` is what gets the worker of an instance: itself, but for a stand-in."""

    def __init__(
        self,
        uplink: Uplink,
        *,
        default_engine: str | None = None,
        log_dir: str | Path | None = None,
        make: MakeWorker | None = None,
    ) -> None:
        self._uplink = uplink
        self._default_engine = default_engine
        self._log_dir = Path(log_dir) if log_dir is not None else None
        self._make = make
        self._lock = threading.Lock()
        self._tokenizers: dict[tuple[str, str, str], Tokenizer] = {}

    @property
    def default_engine(self) -> str:
        """What instances run that name no engine."""
        return resolve_engine(self._default_engine)

    def worker(
        self, instance: ExecutionInstance, runs: ExecutionInstance, reads: ExecutionInstance
    ) -> Worker:
        """Not started. What cannot be built is refused here, and so is one that would not read its
        model's text as `reads` does, whose tokenizer the callers get."""
        if self._make is not None:
            return self._make(runs, self._uplink)
        default = self._default_for(runs)
        engine, placement = placement_of(runs, default)
        if placement != "http":
            engine_class(engine)  # a wrong name is told before anybody looks for its tokenizer
        if not runs.model_name:
            if engine != "sim":
                raise ConfigError(
                    f"instance {instance.instance_id!r} names no model_name and engine {engine!r} "
                    "has no default; set it"
                )
            instance.model_name = runs.model_name = "sim"
        tokens = self.tokenizer(reads if reads.model_name else runs).hash
        log_file = None
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            log_file = os.fspath(self._log_dir / f"{instance.instance_id}.log")
        return make_worker(runs, self._uplink, default, log=log_file, tokenizer_hash=tokens)

    def tokenizer(self, runs: ExecutionInstance) -> Tokenizer:
        """Loaded once for equal engines, models and options."""
        engine, _ = placement_of(runs, self._default_for(runs))
        key = (engine, runs.model_name, repr(runs.options))
        with self._lock:
            found = self._tokenizers.get(key)
            if found is None:
                found = tokenizer_for(engine, runs.model_name, runs.options)
                self._tokenizers[key] = found
            return found

    def _default_for(self, runs: ExecutionInstance) -> str:
        """Not asked for where nothing depends on it: it may be undecided."""
        return runs.engine or ("http" if runs.wants_http else self.default_engine)

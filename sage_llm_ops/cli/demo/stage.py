"""What the demo runs on: which engine and why, which model, which pipeline, where it writes."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_llm_ops.cli.fleet import TINY, with_fleet
from sage_llm_ops.types.errors import ConfigError

if TYPE_CHECKING:
    from sage_llm_ops.types.pipelines import PipelineSpec

FOLDER = Path(".demo")
PIPELINE = Path("pipelines/serving.toml")
BUILD = "SAGE_LLM_OPS_BUILD"
WORKERS = 2
SEQUENCES = 16
"""A worker's batch: below half of the prompts, so that some of them wait."""
KV_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that is decided before the first act."""

    engine: str
    line: str
    """The first line of the demo."""
    exact: bool
    """Whether equal tokens are required: a real model in half precision may round apart."""
    model: str | None = None

    @property
    def ledger(self) -> Path:
        """Where the decisions are written."""
        return FOLDER / "ledger.jsonl"

    @property
    def recording(self) -> Path:
        """Where the events are written."""
        return FOLDER / "recording.jsonl"

    def pipeline(self) -> PipelineSpec:
        """The pipeline's file with the demo's workers. Makes the tiny model if it is wanted."""
        from sage_llm_ops.config import load_pipeline

        fleet = with_fleet(
            load_pipeline(pipeline_file(), environ={}),
            engine=self.engine,
            instances=WORKERS,
            model=self.model,
            placement="process",
            options=_options(self),
        )
        return dataclasses.replace(fleet, ledger=str(self.ledger))


def choose(
    model: str | None,
    *,
    environ: Mapping[str, str] = os.environ,
    installed: Callable[[str], bool] | None = None,
) -> Stage:
    """vLLM where it is installed; else simulated workers, and the first line says why."""
    from sage_llm_ops.config.settings import importable

    reason = ""
    if environ.get(BUILD, "").strip().lower() == "sim":
        reason = f"asked for by {BUILD}=sim"
    elif not (installed or importable)("vllm"):
        reason = "vLLM is not installed in this environment"
    if not reason:
        return _vllm(model)
    if model is not None:
        raise ConfigError(f"--model {model}: engine=sim ({reason}) has no models; leave it out")
    line = f"engine=sim: {reason}; the {WORKERS} workers are simulated, each in its own process"
    return Stage("sim", line, exact=True)


def prepare() -> None:
    """An empty folder: logs and a rotated ledger of an earlier demo would be read as this one's."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)


def pipeline_file() -> Path:
    """The checkout's file; where there is none, the same pipeline written out."""
    if PIPELINE.is_file():
        return PIPELINE
    from sage_llm_ops.config import dump_pipeline
    from sage_llm_ops.core.defaults import serving

    made = FOLDER / PIPELINE.name
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(dump_pipeline(serving()), encoding="utf-8")
    return made


def _vllm(model: str | None) -> Stage:
    from sage_llm_ops.engines.vllm.versions import check_version

    version = check_version()
    what = model or "a tiny Llama with random weights, made here"
    line = f"engine=vllm {version}: {WORKERS} worker processes; model: {what}"
    if model is not None and not Path(model).expanduser().is_dir():
        # Whoever names a hub's model wants it fetched; workers stay offline otherwise.
        os.environ.setdefault("HF_HUB_OFFLINE", "0")
    return Stage("vllm", line, exact=model is None, model=model or TINY)


def _options(stage: Stage) -> dict[str, Any]:
    if stage.engine == "sim":
        return {"max_num_seqs": SEQUENCES, "block_size": 32, "kv_blocks": 4096}
    options: dict[str, Any] = {"max_num_seqs": SEQUENCES, "enforce_eager": True}
    # Two workers may share one GPU: none may take nine tenths of it.
    options["gpu_memory_utilization"] = 0.4
    if stage.exact:
        return {**options, "kv_cache_memory_bytes": KV_BYTES, "dtype": "float32"}
    return {**options, "kv_cache_memory_bytes": 8 * KV_BYTES, "max_model_len": 1024}

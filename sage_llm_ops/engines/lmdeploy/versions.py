"""Which LMDeploy this room was written and run against, down to the names that it touches."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Mapping, Sequence

from sage_llm_ops.types.errors import EngineStartError

OLDEST = (0, 18)
BEYOND = (0, 19)

SHARED = {
    "lmdeploy.messages:GenerationConfig": (
        "max_new_tokens",
        "top_p",
        "top_k",
        "min_p",
        "temperature",
        "repetition_penalty",
        "random_seed",
        "stop_token_ids",
        "min_new_tokens",
    ),
    "lmdeploy.archs:autoget_backend": ("model_path", "trust_remote_code"),
    "lmdeploy.archs:get_model_arch": ("model_path", "trust_remote_code"),
    "lmdeploy.utils:get_hf_gen_cfg": ("path", "trust_remote_code"),
    "lmdeploy.utils:_get_and_verify_max_len": ("hf_config", "max_model_len"),
}
"""What is called, and the parameters that are passed."""

TOUCHED = {
    "pytorch": {
        "lmdeploy.messages:PytorchEngineConfig": (
            "dtype",
            "tp",
            "session_len",
            "max_batch_size",
            "block_size",
            "num_gpu_blocks",
            "enable_prefix_caching",
            "quant_policy",
            "adapters",
        ),
        "lmdeploy.pytorch.engine.engine:Engine": (
            "model_path",
            "engine_config",
            "trust_remote_code",
        ),
        "lmdeploy.pytorch.engine.engine:Engine.start": (),
        "lmdeploy.pytorch.engine.engine:Engine.close": (),
        "lmdeploy.pytorch.engine.engine:Engine.wait_tasks": (),
        "lmdeploy.pytorch.engine.engine:Engine.create_instance": (),
        "lmdeploy.pytorch.engine.engine:Engine.get_schedule_metrics": (),
        "lmdeploy.pytorch.engine.engine:Engine.get_local_health_status": (),
        "lmdeploy.pytorch.engine.engine_instance:EngineInstance.async_stream_infer": (
            "session_id",
            "input_ids",
            "gen_config",
            "adapter_name",
        ),
        "lmdeploy.pytorch.engine.engine_instance:EngineInstance.async_cancel": ("session_id",),
    },
    "turbomind": {
        "lmdeploy.messages:TurbomindEngineConfig": (
            "tp",
            "dp",
            "cp",
            "session_len",
            "max_batch_size",
            "cache_block_seq_len",
            "cache_max_entry_count",
            "enable_prefix_caching",
            "quant_policy",
            "communicator",
        ),
        "lmdeploy.turbomind.turbomind:TurboMind": (
            "model_path",
            "engine_config",
            "trust_remote_code",
        ),
        "lmdeploy.turbomind.turbomind:TurboMind.create_instance": (),
        "lmdeploy.turbomind.turbomind:TurboMind.get_schedule_metrics": (),
        "lmdeploy.turbomind.turbomind:TurboMindInstance.async_stream_infer": (
            "session_id",
            "input_ids",
            "gen_config",
            "stream_output",
        ),
        "lmdeploy.turbomind.turbomind:TurboMindInstance.async_cancel": ("session_id",),
    },
}


def check_release() -> str:
    """The installed version; `EngineStartError` with the remedy where it, or a name that both backends
    touch, is none of ours."""
    version = check_version()
    check_names(SHARED, version)
    return version


def check_version() -> str:
    """The installed version; `EngineStartError` with the remedy where it is none of ours."""
    try:
        found = importlib.metadata.version("lmdeploy")
    except importlib.metadata.PackageNotFoundError:
        raise EngineStartError(_refusal(f"it is not installed in {sys.prefix}")) from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if not OLDEST <= numbers < BEYOND:
        raise EngineStartError(_refusal(f"{found} was found in {sys.prefix}"))
    return found


def check_backend(backend: str, version: str) -> None:
    """Raises `EngineStartError` where a name that this backend touches is another than expected."""
    if backend == "turbomind":
        _check_binary(version)
    check_names(TOUCHED[backend], version)


def check_names(names: Mapping[str, Sequence[str]], version: str) -> None:
    """Each is there, `module:path`, and takes these parameters; else `EngineStartError`."""
    for place, parameters in names.items():
        wrong = _difference(place, parameters)
        if wrong:
            raise EngineStartError(_refusal(f"in {version} {wrong}"))


def _check_binary(version: str) -> None:
    turbomind = importlib.import_module("lmdeploy.turbomind")
    if not turbomind.is_available():
        why = getattr(turbomind, "_import_error", "no reason given")
        raise EngineStartError(
            f"engine 'lmdeploy' found LMDeploy {version}, but its TurboMind library does not load: "
            f"{why}. It needs a CUDA machine and LMDeploy's released wheel; without them use the "
            "option backend='pytorch'"
        )


def _difference(place: str, parameters: Sequence[str]) -> str:
    """How the name differs from what was expected; empty where it fits."""
    module, _, path = place.partition(":")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        return f"{place} is missing ({error})"
    has = inspect.signature(found).parameters  # type: ignore[arg-type]
    missing = [name for name in parameters if name not in has]
    return f"{place} takes no {', '.join(missing)}" if missing else ""


def _refusal(found: str) -> str:
    wanted = f">={OLDEST[0]}.{OLDEST[1]},<{BEYOND[0]}.{BEYOND[1]}"
    return (
        f"engine 'lmdeploy' needs LMDeploy {wanted}, but {found}: "
        "pip install 'sage-llm-ops[lmdeploy]' into an environment of its own and name its "
        "interpreter with the option python; in a checkout `make lmdeploy` makes .venv-lmdeploy"
    )

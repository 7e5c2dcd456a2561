"""A LoRA adapter for the tiny model: random, small, and large enough to be heard."""

from __future__ import annotations

import json
from pathlib import Path

from sage_llm_ops.testing.tiny_model import CONFIG

RANK = 8


def tiny_lora(directory: Path, seed: int = 1) -> Path:
    """Write an adapter of the generating tiny model into `directory`, which it returns."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.Generator(np.random.PCG64(seed))
    hidden, size = CONFIG["hidden_size"], CONFIG["head_dim"]
    outs = {
        "q_proj": CONFIG["num_attention_heads"] * size,
        "v_proj": CONFIG["num_key_value_heads"] * size,
    }
    weights = {}
    for number in range(CONFIG["num_hidden_layers"]):
        for name, out in outs.items():
            place = f"base_model.model.model.layers.{number}.self_attn.{name}"
            for part, shape in (("lora_A", (RANK, hidden)), ("lora_B", (out, RANK))):
                matrix = (rng.standard_normal(shape) * 0.3).astype(np.float32)
                weights[f"{place}.{part}.weight"] = matrix
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(directory / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(outs),
        "base_model_name_or_path": "tiny",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return directory

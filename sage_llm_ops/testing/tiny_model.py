"""A tiny Llama with random weights and its tokenizer, made offline in about a second.

Nothing is downloaded and nothing foreign is shipped: the tokenizer is trained on sentences made
here, the weights come from a seeded generator. Written without torch or transformers, whose import
would take longer than the work.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sage_llm_ops.types.errors import UnknownName

VERSION = 1
"""Part of the cache path: raise it with every change of what is written."""

KINDS = ("llama", "embedding")
VOCAB = 2048
SPECIALS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BOS, EOS = 0, 1, 2
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "torch_dtype": "float32",
}


def cache_root() -> Path:
    """Where models are kept: under `XDG_CACHE_HOME`, or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sage-llm-ops" / "tiny" / str(VERSION)


def tiny_model(kind: str = "llama", root: Path | None = None) -> Path:
    """Directory of a model that every engine can load; made on first use.

    `llama` generates; `embedding` is the same trunk without a head, which engines take as a pooling
    model. Equal on every call and in every process of a machine.
    """
    if kind not in KINDS:
        raise UnknownName("tiny model", kind, KINDS)
    root = root or cache_root()
    target = root / kind
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=root))
    try:
        _write(kind, work)
        work.chmod(0o755)
        os.rename(work, target)
    except OSError:
        # Somebody else was faster, and made the same; a rename never replaces a full directory.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _write(kind: str, directory: Path) -> None:
    _write_tokenizer(directory)
    from safetensors.numpy import save_file

    save_file(
        _weights("model." if kind == "llama" else "", head=kind == "llama"),
        str(directory / "model.safetensors"),
        metadata={"format": "pt"},
    )
    architecture = "LlamaForCausalLM" if kind == "llama" else "LlamaModel"
    _dump(directory / "config.json", {"architectures": [architecture], **CONFIG})
    if kind == "llama":
        generation = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
        _dump(directory / "generation_config.json", {**generation, "do_sample": False})
    else:
        _write_pooling(directory)


def _write_pooling(directory: Path) -> None:
    """The layout of sentence-transformers: by it engines know a pooling model."""
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    _dump(
        directory / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{name}",
            }
            for number, (path, name) in enumerate(modules)
        ],
    )
    (directory / "1_Pooling").mkdir()
    mean = {"word_embedding_dimension": CONFIG["hidden_size"], "pooling_mode_mean_tokens": True}
    _dump(directory / "1_Pooling" / "config.json", mean)


def _weights(prefix: str, *, head: bool) -> dict[str, Any]:
    """0.08 is wide enough that greedy decoding wanders instead of repeating one token."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(20))
    hidden, inner, size = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    q, kv = CONFIG["num_attention_heads"] * size, CONFIG["num_key_value_heads"] * size

    def matrix(rows: int, columns: int) -> Any:
        return (rng.standard_normal((rows, columns)) * 0.08).astype(np.float32)

    ones = np.ones(hidden, dtype=np.float32)
    out = {f"{prefix}embed_tokens.weight": matrix(VOCAB, hidden)}
    for number in range(CONFIG["num_hidden_layers"]):
        layer = f"{prefix}layers.{number}"
        out |= {
            f"{layer}.self_attn.q_proj.weight": matrix(q, hidden),
            f"{layer}.self_attn.k_proj.weight": matrix(kv, hidden),
            f"{layer}.self_attn.v_proj.weight": matrix(kv, hidden),
            f"{layer}.self_attn.o_proj.weight": matrix(hidden, q),
            f"{layer}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.up_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.down_proj.weight": matrix(hidden, inner),
            f"{layer}.input_layernorm.weight": ones.copy(),
            f"{layer}.post_attention_layernorm.weight": ones.copy(),
        }
    out[f"{prefix}norm.weight"] = ones.copy()
    if head:
        weight = matrix(VOCAB, hidden)
        weight[: len(SPECIALS)] = 0.0  # logit 0: in reach when sampling, never the greedy choice
        out["lm_head.weight"] = weight
    return out


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    tokenizer.save(str(directory / "tokenizer.json"))
    _dump(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "model_max_length": CONFIG["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


_ONSETS = "b c d f g h l m n p r s t v w st tr pl ch"
_COMMON = (
    "the of and to in is that it was for on are as with they at be this from have or by one had not "
    "but what all were when we there can an your which their said if do will each about how up out "
    "them then she many some so these would other into has more her two like him see time could no "
    "make than first been its who now people my made over did down only way find use may water long "
    "little very after words called just where most know request worker model token cache prefix "
    "queue batch stream answer question write explain short story system hello world"
)


def _sentences() -> list[str]:
    """Common words and invented ones; only `Random.random`, whose stream Python guarantees."""
    draw = random.Random(7).random
    parts = [a + b for a in _ONSETS.split() for b in "aeiou"]
    words = _COMMON.split()

    def pick(items: list[str]) -> str:
        return items[int(draw() * len(items))]

    words += ["".join(pick(parts) for _ in range(2 + int(draw() * 3))) for _ in range(1500)]
    return [
        " ".join(words[int(len(words) * draw() ** 2)] for _ in range(12)).capitalize() + ".\n"
        for _ in range(4000)
    ]


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from sage_llm_ops.testing.tiny_model import KINDS, tiny_model
from sage_llm_ops.types.errors import UnknownName


def digest(directory: Path) -> dict[str, str]:
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_equal_in_every_process_and_fast(kind: str, tmp_path: Path) -> None:
    here = digest(tiny_model(kind, tmp_path / "a"))
    code = (
        "import sys, pathlib; from sage_llm_ops.testing.tiny_model import tiny_model; "
        "tiny_model(sys.argv[1], pathlib.Path(sys.argv[2])); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, kind, str(tmp_path / "b")], check=True, timeout=30)
    assert digest(tmp_path / "b" / kind) == here


def test_made_once_by_many(tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(tiny_model(root=tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["llama"], "work directories were left"


def test_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tiny_model()
    assert path.is_relative_to(tmp_path / "sage-llm-ops" / "tiny")
    assert json.loads((path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_unknown_kind() -> None:
    with pytest.raises(UnknownName, match="did you mean 'llama'"):
        tiny_model("lama")

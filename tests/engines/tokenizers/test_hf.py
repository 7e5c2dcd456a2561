import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from sage_llm_ops.engines.tokenizers import tokenizer_for
from sage_llm_ops.engines.tokenizers.hf import HfTokenizer
from sage_llm_ops.testing.tiny_model import VOCAB, tiny_model
from sage_llm_ops.types.errors import ConfigError, InvalidRequest, UnknownName

TEXTS = [
    "",
    "Hello world",
    "Explain the prefix cache, please.\n\n  Now!",
    "Grüße, 世界 🌍 и всё",
    "<s> special </s> inside",
    " leading and trailing ",
]
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is a queue? 🤔"},
]


@pytest.fixture(scope="module")
def tokenizer() -> HfTokenizer:
    return HfTokenizer(str(tiny_model()))


@pytest.mark.slow
def test_equals_transformers(tokenizer: HfTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tiny_model()))
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == theirs(text)["input_ids"], text
        for skip in (True, False):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )
    rendered = theirs.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert tokenizer.chat(CHAT) == theirs(rendered, add_special_tokens=False)["input_ids"]


def test_chat_ends_where_the_assistant_begins(tokenizer: HfTokenizer) -> None:
    text = tokenizer.decode(tokenizer.chat(CHAT), skip_special_tokens=False)
    assert text == "<s><|system|>Be short.<|user|>What is a queue? 🤔<|assistant|>"


@settings(max_examples=300, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_pieces_are_the_whole(data: st.DataObject, skip: bool) -> None:
    tokenizer = HfTokenizer(str(tiny_model()))
    random_ids = st.lists(st.integers(0, VOCAB - 1), max_size=40)
    # Text beyond the corpus is split into single bytes: characters over several tokens.
    from_text = st.text(max_size=20).map(tokenizer.encode)
    ids = data.draw(st.one_of(random_ids, from_text))
    decoder = tokenizer.decoder(skip_special_tokens=skip)
    pieces, at = [], 0
    while at < len(ids):
        step = data.draw(st.integers(1, 4))
        pieces.append(decoder.push(ids[at : at + step]))
        at += step
    pieces.append(decoder.flush())
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_never_shows_half_a_character(tokenizer: HfTokenizer) -> None:
    decoder = tokenizer.decoder()
    pieces = [decoder.push([token]) for token in tokenizer.encode("a🌍b")]
    assert [piece for piece in pieces if piece] == ["a", "🌍", "b"]
    assert decoder.flush() == ""


def test_an_answer_cut_inside_a_character_keeps_its_end(tokenizer: HfTokenizer) -> None:
    ids = tokenizer.encode("a🌍")[:-1]
    decoder = tokenizer.decoder()
    assert decoder.push(ids) == "a"
    assert decoder.flush() == "\ufffd"


def test_threads_may_share_it(tokenizer: HfTokenizer) -> None:
    want, wrong = tokenizer.encode(TEXTS[2]), []

    def work() -> None:
        wrong.extend(1 for _ in range(200) if tokenizer.encode(TEXTS[2]) != want)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_templates_run_in_a_sandbox(tmp_path: Path) -> None:
    _copy(tmp_path, "{{ ''.__class__.__mro__ }}")
    with pytest.raises(InvalidRequest, match="chat template refused"):
        HfTokenizer(str(tmp_path)).chat(CHAT)


def test_a_template_may_refuse(tmp_path: Path) -> None:
    _copy(tmp_path, "{{ raise_exception('no system role') }}")
    with pytest.raises(InvalidRequest, match="no system role"):
        HfTokenizer(str(tmp_path)).chat(CHAT)


def test_the_jinja_file_goes_before_the_config(tmp_path: Path) -> None:
    _copy(tmp_path, "from config")
    (tmp_path / "chat_template.jinja").write_text("from file")
    tokenizer = HfTokenizer(str(tmp_path))
    assert tokenizer.decode(tokenizer.chat(CHAT)) == "from file"


def test_without_template(tmp_path: Path) -> None:
    _copy(tmp_path, None)
    with pytest.raises(InvalidRequest, match="has no chat template"):
        HfTokenizer(str(tmp_path)).chat(CHAT)


def test_no_tokenizer_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        HfTokenizer(str(tmp_path))


def test_factory() -> None:
    model = str(tiny_model())
    assert tokenizer_for("sim", "m").hash == "utf-8-bytes-1"
    assert tokenizer_for("vllm", "served", {"model": model}).hash == HfTokenizer(model).hash
    with pytest.raises(UnknownName, match="tokenizer kind"):
        tokenizer_for("vllm", model, {"tokenizer_kind": "sentencepiece"})


def _copy(target: Path, template: str | None) -> None:
    source = tiny_model()
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text())
    del config["chat_template"]
    if template is not None:
        config["chat_template"] = template
    (target / "tokenizer_config.json").write_text(json.dumps(config))

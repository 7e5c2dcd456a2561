from typing import Any

import pytest

from sage_llm_ops.engines.http.options import options_of
from sage_llm_ops.engines.http.worker import HttpWorker
from sage_llm_ops.engines.registry import check_instance, make_worker
from sage_llm_ops.engines.tokenizers import ByteTokenizer, TextTokenizer, tokenizer_for
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstance


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"placement": "http"}, "http://localhost:8000"),
        ({"host": "gpu1"}, "http://gpu1:8000"),
        ({"port": 8001}, "http://localhost:8001"),
        ({"host": "::1", "port": 80}, "http://[::1]:80"),
        ({"engine": "http", "options": {"base_url": "https://a.b/x/v1/"}}, "https://a.b/x"),
    ],
)
def test_where_it_is(fields: dict[str, Any], url: str) -> None:
    assert options_of(ExecutionInstance("a", model_name="m", **fields)).url == url


def test_what_the_instances_fields_say() -> None:
    found = options_of(
        ExecutionInstance("a", model_name="m", engine="lmdeploy", port=1, instance_type="embedding")
    )
    assert (found.model, found.dialect, found.tasks) == ("m", "lmdeploy", ("embed",))
    other = {"model": "theirs", "dialect": "openai", "tasks": ["generate"]}
    found = options_of(ExecutionInstance("a", model_name="m", engine="vllm", port=1, options=other))
    assert (found.model, found.dialect, found.tasks) == ("theirs", "openai", ("generate",))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"base_ur": "x"}, UnknownName, "did you mean 'base_url'"),
        ({"base_url": "gpu1:8000"}, ConfigError, "must be like http://host:8000"),
        ({"base_url": "http://me:secret@gpu1"}, ConfigError, "api_key_env"),
        ({"api_key": "secret"}, UnknownName, "did you mean 'api_key_env'"),
        ({"dialect": "vlm"}, UnknownName, "did you mean 'vllm'"),
        ({"tokenizer_kind": "byts"}, UnknownName, "did you mean 'bytes'"),
        ({"token_timeout_s": 0}, ConfigError, "token_timeout_s=0"),
        ({"pool_size": "many"}, ConfigError, "Expected `int"),
        ({"max_model_len": -1}, ConfigError, "max_model_len=-1"),
        ({"tasks": []}, ConfigError, "name generate, embed or both"),
        ({"tasks": ["sing"]}, ConfigError, "sing"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    instance = ExecutionInstance("a", engine="http", model_name="m", options=options)
    with pytest.raises(error, match=match) as caught:
        check_instance(instance, "vllm")
    assert "secret" not in str(caught.value)
    with pytest.raises(error, match=match):
        make_worker(instance, RecordingUplink())


def test_the_place_is_said_once() -> None:
    with pytest.raises(ConfigError, match="the same thing twice"):
        options_of(ExecutionInstance("a", port=1, options={"base_url": "http://gpu1"}))


def test_the_tokenizer_decides_what_travels() -> None:
    text, tokens = ExecutionInstance("a", port=1), ExecutionInstance("b", port=1)
    tokens.options = {"tokenizer_kind": "bytes"}
    assert not options_of(text).as_tokens and options_of(tokens).as_tokens
    assert type(tokenizer_for("http", "m", text.options)) is TextTokenizer
    assert type(tokenizer_for("http", "m", tokens.options)) is ByteTokenizer
    HttpWorker(text, RecordingUplink(), tokenizer_hash=TextTokenizer.hash)
    HttpWorker(tokens, RecordingUplink(), tokenizer_hash=ByteTokenizer.hash)
    for instance, planes in ((text, ByteTokenizer.hash), (tokens, TextTokenizer.hash)):
        with pytest.raises(ConfigError, match="with another tokenizer, or as text"):
            HttpWorker(instance, RecordingUplink(), tokenizer_hash=planes)


def test_kv_events_need_token_ids() -> None:
    said = {"kv_events": "tcp://h:5557", "kv_replay": "tcp://h:5558"}
    with pytest.raises(ConfigError, match="give a tokenizer"):
        options_of(ExecutionInstance("i", model_name="m", options=said))
    with pytest.raises(ConfigError, match="kv_events beside"):
        only = {"kv_replay": "tcp://h:5558", "tokenizer_kind": "bytes"}
        options_of(ExecutionInstance("i", model_name="m", options=only))
    found = options_of(
        ExecutionInstance("i", model_name="m", options={**said, "tokenizer_kind": "bytes"})
    )
    assert (found.kv_events, found.block_size) == ("tcp://h:5557", 16)

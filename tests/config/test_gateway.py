from __future__ import annotations

import pytest

from sage_llm_ops.config import load_services, parse_toml, services_from
from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.types.errors import ConfigError

HEAD = '[services.llm]\ntype = "ControlPlaneVLLMService"\n[services.llm.gateway]\n'
KEY = "[[services.llm.gateway.api_keys]]\n"
HASH = "a" * 64


def load(text: str, **environ: str) -> GatewayConfig:
    prefix = "SAGE_LLM_OPS__SERVICES__LLM__GATEWAY__"
    variables = {prefix + name: value for name, value in environ.items()}
    return services_from(parse_toml(HEAD + text, "s.toml"), environ=variables).service().gateway


def test_without_a_table_it_listens_on_this_machine_alone() -> None:
    gateway = load("")
    assert gateway == GatewayConfig()
    assert (gateway.host, gateway.port, gateway.loopback) == ("127.0.0.1", 8889, True)


def test_what_is_written_arrives_and_a_variable_beats_it() -> None:
    text = f"port = 1\nhost = '::1'\n{KEY}name = 'my-app'\nsha256 = '{HASH}'\n"
    gateway = load(text, PORT="2", API_KEYS__MY_APP__ROLE="admin")
    assert (gateway.host, gateway.port) == ("::1", 2)
    (key,) = gateway.api_keys
    assert (key.name, key.sha256, key.role) == ("my-app", HASH, "admin")


def test_the_shipped_file_has_one() -> None:
    assert load_services("configs/services.toml", environ={}).service().gateway.port == 8889


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("prot = 1\n", 4, "did you mean 'port'"),
        ("port = '1'\n", 4, "must be a valid integer"),
        ("port = 70000\n", 4, "between 0 and 65535"),
        ("drain_s = 0\n", 4, "must be above 0"),
        ("host = '0.0.0.0'\n", 4, "allow_unauthenticated = true"),
        ("unknown_model = 'alais'\n", 4, "did you mean 'alias'"),
        ("alias_model = 'm'\n", 4, "unknown_model = 'alias'"),
        (f"{KEY}name = 'a'\nsha256 = 'secret'\n", 6, "no SHA-256"),
        (f"{KEY}name = 'a'\nsha256 = '{HASH}'\nrole = 'root'\n", 7, "unknown role"),
        (f"{KEY}sha256 = '{HASH}'\n", 4, "`name` is required"),
        (
            f"{KEY}name = 'a'\nsha256 = '{HASH}'\n{KEY}name = 'b'\nsha256 = '{HASH}'\n",
            4,
            "two keys have the sha256",
        ),
    ],
)
def test_refusals_say_where(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError, match=r"services\.llm\.gateway") as caught:
        load(text)
    assert caught.value.line == line
    assert words in str(caught.value)

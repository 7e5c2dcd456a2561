import pip_settings
import pytest

MIRROR = "https://user:secret@mirror.example/simple"


def test_the_environment_beats_install_beats_global():
    parsed = pip_settings.parse(
        [
            ":env:.find-links='/env'",
            "global.find-links='/global'",
            "global.index-url='https://global.example'",
            "install.index-url='https://install.example'",
            "download.index-url='https://download.example'",
            "a line that is no setting",
            "global.cert=unquoted",
        ]
    )
    assert parsed == {"find-links": "/env", "index-url": "https://install.example"}


def test_values_over_several_lines(tmp_path):
    parsed = pip_settings.parse([f"global.find-links='\\n{tmp_path}\\nhttps://b.example'"])
    uv = pip_settings.forward(parsed, {})
    assert uv.env == {"UV_FIND_LINKS": f"{tmp_path},https://b.example"}
    assert uv.own_sources


def test_an_index_is_passed_where_other_users_cannot_read_it():
    uv = pip_settings.forward({"index-url": MIRROR}, {})
    assert uv.env == {"UV_DEFAULT_INDEX": MIRROR}
    assert uv.flags == []


def test_several_indexes_are_merged_as_pip_merges_them():
    uv = pip_settings.forward({"extra-index-url": "https://a.example https://b.example"}, {})
    assert uv.env == {
        "UV_EXTRA_INDEX_URL": "https://a.example https://b.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
def test_what_uv_was_told_itself_wins(name):
    uv = pip_settings.forward({"index-url": MIRROR}, {name: "https://own.example"})
    assert uv.env == {}
    assert uv.own_sources


def test_a_folder_that_is_gone_is_left_out(tmp_path):
    gone = tmp_path / "gone"
    pip = {"find-links": f"{gone} file://{gone} {tmp_path} file://{tmp_path}"}
    assert pip_settings.forward(pip, {}).env == {"UV_FIND_LINKS": f"{tmp_path},file://{tmp_path}"}
    uv = pip_settings.forward({"find-links": str(gone)}, {})
    assert uv.env == {}
    assert not uv.own_sources


def test_the_rest():
    pip = {
        "cert": "/ca.pem",
        "proxy": "http://proxy.example:3128",
        "timeout": "60",
        "trusted-host": "a.example b.example",
        "no-index": "true",
    }
    uv = pip_settings.forward(pip, {"HTTPS_PROXY": "http://other.example"})
    assert uv.env == {"SSL_CERT_FILE": "/ca.pem", "UV_HTTP_TIMEOUT": "60"}
    assert uv.flags == [
        *("--allow-insecure-host", "a.example"),
        *("--allow-insecure-host", "b.example"),
        "--no-index",
    ]


def test_without_settings_nothing_is_passed():
    uv = pip_settings.forward({}, {})
    assert (uv.env, uv.flags, uv.own_sources) == ({}, [], False)


def test_a_pip_that_does_not_start_is_no_obstacle(tmp_path):
    assert pip_settings.read(str(tmp_path / "python"), {}) == {}

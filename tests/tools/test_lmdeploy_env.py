import lmdeploy_env
import pytest
import stamp


@pytest.mark.parametrize("build", ["sim", "cuda", None])
def test_it_belongs_to_the_cpu_build(
    build: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = build and stamp.Stamp("key", build, "3.11.7", "/", "", "")
    monkeypatch.setattr(stamp, "read", lambda venv: done)
    assert lmdeploy_env.main() == 0
    assert "it belongs to the CPU build" in capsys.readouterr().out


def test_nothing_is_done_where_it_is_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = stamp.Stamp("key", "cpu", "3.11.7", "/", "", "")
    monkeypatch.setattr(stamp, "read", lambda venv: done)
    monkeypatch.setattr(stamp, "current", lambda *_: done)
    assert lmdeploy_env.main() == 0
    assert capsys.readouterr().out == ""

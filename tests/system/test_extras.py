"""A missing extra is one line with the command that installs it."""

import pytest

from graysam.system import environment


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(environment.MODULES, "demo", "json no_such_module")
    assert environment.missing("demo") == ["no_such_module"]
    with pytest.raises(ValueError, match=r"needs no_such_module, .*: pip install '\.\[demo\]'"):
        environment.check_extra("demo")
    with pytest.raises(SystemExit, match="2"):
        environment.require("demo")
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setitem(environment.MODULES, "demo", "json")
    environment.require("demo")

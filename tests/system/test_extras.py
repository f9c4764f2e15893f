"""A missing extra is one line with the command that installs it."""

import pytest

from graysam.system import environment


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment.MODULES, "demo", "json no_such_module")
    with pytest.raises(ValueError, match=r"needs no_such_module, .*: pip install '\.\[demo\]'"):
        environment.check_extra("demo")
    monkeypatch.setitem(environment.MODULES, "demo", "json")
    environment.check_extra("demo")

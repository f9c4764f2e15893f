"""What results say about where they were computed."""

import importlib.metadata

from graysam.system.environment import NOT_INSTALLED, machine, versions


def test_packages_are_named_with_their_versions_and_absent_ones_too() -> None:
    found = versions(["numpy", "no-such-package"])
    assert found == {"numpy": importlib.metadata.version("numpy"), "no-such-package": NOT_INSTALLED}


def test_the_machine_has_a_name_and_cores() -> None:
    assert machine()["cpu"]
    assert machine()["cores"] >= 1

"""Former options end in one line that names the new one."""

import pytest

from graysam.system.renamed import reject_renamed_options


@pytest.mark.parametrize("given", ["--runtime torch", "--runtime=torch", "-i x --runtime"])
def test_a_former_option_names_its_successor(capsys: pytest.CaptureFixture[str], given: str) -> None:
    reject_renamed_options("predict", ["-i", "--backend", "x"])
    with pytest.raises(SystemExit) as stopped:
        reject_renamed_options("predict", given.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --runtime has been renamed; use --backend\n"

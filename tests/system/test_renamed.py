"""Former options end in one line that names the new one."""

import argparse

import pytest

from graysam.system.renamed import reject_renamed_options


@pytest.mark.parametrize("given", ["--runtime torch", "--runtime=torch", "--runtime"])
def test_a_former_option_names_its_successor(capsys: pytest.CaptureFixture[str], given: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-i", required=True)
    reject_renamed_options(parser, "predict")
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(given.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --runtime has been renamed; use --backend\n"
    assert parser.parse_args(["-i", "x"]) == argparse.Namespace(i="x")
    assert "--runtime" not in parser.format_help()

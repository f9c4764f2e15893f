"""What a command prints never decides whether it works: closed, cut-off, full and narrow standard streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graysam.system.streams import secure_streams

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")
ROOT = Path(__file__).parents[2]
COMMAND = """
import os, subprocess, sys
from graysam.system.command import command

@command("evaluate")
def main(argv):
    print("\\xe9" * 20_000, "\\udce9")
    print("note", file=sys.stderr, flush=True)
    assert open("done", "w").fileno() > 2
    subprocess.run([sys.executable, "-c", "print(1); open('child', 'w')"], check=True)
    print("more")
    raise ValueError("of the work \\xe9")

code = main([])
if END == "_exit":
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
"""


def run(folder: Path, redirection: str, *flags: str, end: str = "exit") -> subprocess.CompletedProcess[bytes]:
    """Run the command with a shell's redirection, its standard output a pipe that nobody reads, unless redirected."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *flags, "-c", f"END = {end!r}\n{COMMAND}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    try:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
            **{"stdout": writer, "stderr": subprocess.PIPE, "cwd": folder, "env": environment},
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("flags", [(), ("-u",)], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("redirection", ["", "2>&1", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_files_and_exit_code_are_those_of_the_work(tmp_path: Path, redirection: str, flags: tuple[str, ...]) -> None:
    for end in ("exit", "_exit") if not flags else ("exit",):
        done = run(tmp_path, redirection, *flags, end=end)
        assert done.returncode == 2
        assert (tmp_path / "done").is_file() and (tmp_path / "child").is_file()
        said = b"" if "2>" in redirection else b"note\nerror: of the work \\xe9\n"
        assert done.stderr == said
        (tmp_path / "done").unlink()


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", rb"\xe9"), ("cp1252", b"\xe9"), ("utf-8", b"\xc3\xa9")])
def test_letters_that_a_stream_cannot_show_are_escapes(encoding: str, shown: bytes) -> None:
    code = "from graysam.system.streams import secure_streams as s; s(); print('\\xe9 \\udce9 \\u4e2d')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True).stdout
    assert said.startswith(shown + rb" \udce9 ")


def test_streams_of_others_stay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout
    secure_streams()
    assert sys.stdout is before
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    secure_streams()
    print("lost", file=sys.stderr)
    sys.stderr.close()

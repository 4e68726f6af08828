"""A shell that an operator keeps open while a document is followed, and what it showed."""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

END = "--- the block has ended: "
LONGEST = 400  # seconds of a block, after which the shell is killed


class Shell:
    """Runs blocks of a document in one bash, here: with other names than the document's."""

    def __init__(self, folder: Path, environ: Mapping[str, str], here: Mapping[str, str]):
        self.here = here  # by what the document says
        self.transcript: list[str] = []
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # without a terminal passwords are read from stdin
        )

    def run(self, block: str, typed: str = "", secrets: Mapping[str, str] | None = None) -> str:
        """Run a block with what is typed meanwhile; return what it printed.

        `secrets` are put in their places before it runs, and are not in the transcript. Every
        command has to succeed, those in the middle too.
        """
        command = block
        for there, here in {**self.here, **(secrets or {})}.items():
            command = command.replace(there, here)
        with tempfile.NamedTemporaryFile("w+", suffix=".typed") as file:
            file.write(typed)
            file.flush()
            self._write(
                "trap 'failed=\"$BASH_COMMAND\"' ERR; set -o pipefail; failed=\n"
                f"{{\n{command}\n}} <{file.name} 2>&1\necho; echo '{END}'$failed\n"
            )
            printed = self._read()
        *lines, last = printed.rstrip("\n").split("\n")
        output = "\n".join(lines).strip("\n")
        self._note(block, output)
        assert last.strip() == END.strip(), self.transcript[-1] + "\n" + last
        return output

    def say(self, text: str) -> None:
        """Add a remark to the transcript."""
        self.transcript.append(f"\n# {text}")

    def close(self) -> None:
        """End the shell."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def _write(self, text: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout
        lines = []
        timer = threading.Timer(LONGEST, os.killpg, (self._process.pid, signal.SIGKILL))
        timer.start()
        for line in self._process.stdout:
            lines.append(line)
            if line.startswith(END):
                break
        timer.cancel()
        timer.join()
        return "".join(lines)

    def _note(self, block: str, output: str) -> None:
        for there, here in self.here.items():
            output = output.replace(here, there)
        commands = "\n".join(f"$ {line}" if line else "" for line in block.strip().splitlines())
        self.transcript.append("\n" + commands + ("\n" + output if output else ""))

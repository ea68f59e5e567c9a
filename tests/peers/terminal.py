"""A program run on a terminal of its own, for the passphrase prompt and the progress bar."""

import os
import pty
import select
import time

from cofre_peers import COFRE, TIMEOUT_S


def on_terminal(args, answers, cwd=None):
    """Runs `cofre ARGS` on a new terminal and types the next of `answers` at each prompt (a text that asks for a
    passphrase and waits). Returns (exit code, all that showed on the terminal)."""
    child, terminal = pty.fork()
    if child == 0:
        if cwd:
            os.chdir(cwd)
        os.execv(COFRE, [COFRE, *map(str, args)])
    shown, asked, waiting = b"", 0, list(answers)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            if terminal not in select.select([terminal], [], [], 1)[0]:
                continue
            try:
                piece = os.read(terminal, 4096)
            except OSError:     # Linux says so when the last user of the terminal is gone
                break
            if not piece:
                break
            shown += piece
            if waiting and prompts(shown) > asked:
                asked = prompts(shown)
                os.write(terminal, waiting.pop(0).encode() + b"\n")
        else:
            raise AssertionError(f"cofre {args}: no end on the terminal; it showed {shown.decode(errors='replace')}")
    finally:
        os.close(terminal)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


def prompts(shown):
    """How often the program asked: the word with a colon after it on the same line."""
    lines = shown.decode(errors="replace").replace("\r", "\n").split("\n")
    return sum("passphrase" in line.lower() and line.rstrip().endswith(":") for line in lines)

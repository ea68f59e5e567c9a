"""A program run on a terminal of its own, for the passphrase prompt, the progress bar and lines that are edited."""

import os
import pty
import select
import time

from cofre_peers import COFRE, TIMEOUT_S


END_OF_INPUT = "\x04"


def on_terminal(args, answers, cwd=None):
    """Runs `cofre ARGS` on a new terminal and types the next of `answers` whenever it waits at a prompt: a last line that
    ends with a colon. When no answer is left it types the end of input. Returns (exit code, all that showed on the terminal)."""
    answered, waiting = 0, list(answers)

    def type_answer(terminal, shown):
        nonlocal answered
        if at_prompt(shown[answered:]):
            answered = len(shown)
            answer = waiting.pop(0) if waiting else END_OF_INPUT
            os.write(terminal, answer.encode() + (b"" if answer == END_OF_INPUT else b"\n"))

    return converse(args, type_answer, cwd)


def converse(args, respond, cwd=None, env=None):
    """Runs `cofre ARGS` on a new terminal and calls respond(terminal, all that showed so far) each time something shows, until the
    program ends. Returns (exit code, all that showed on the terminal)."""
    child, terminal = pty.fork()
    if child == 0:
        if cwd:
            os.chdir(cwd)
        os.execve(COFRE, [COFRE, *map(str, args)], {**os.environ, **(env or {})})
    shown = b""
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
            respond(terminal, shown)
        else:
            raise AssertionError(f"cofre {args}: no end on the terminal; it showed {shown.decode(errors='replace')}")
    finally:
        os.close(terminal)      # hangs up: a program that still runs gets SIGHUP
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


def at_prompt(text):
    return text.replace(b"\r", b"\n").split(b"\n")[-1].rstrip(b" ").endswith(b":")

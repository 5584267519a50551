"""From arguments to an exit code: where every failure becomes one line.

Rules:
1. Global options may stand anywhere before `--`.
2. An error we know is one line without a traceback; one of usage ends with what to look at. An unexpected one is one
   line too, exit code 1, and the traceback with SNAPSHOTS_DEBUG=1.
3. Ctrl-C, and a reader that closes our output, are interruptions.

    run(["--json", "ls"])
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from snapshots.cli.app import app
from snapshots.cli.commands import loaded
from snapshots.cli.exits import BUG, DONE, INTERRUPTED, RETRY, USAGE, UsageError, error_fields, exit_code
from snapshots.cli.output import one_line

PROGRAM = "snapshots"
DEBUG = "SNAPSHOTS_DEBUG"
_OUTPUT_FAILED = frozenset({errno.ENOSPC, errno.EIO, errno.EBADF})  # stores report these as errors of their own
_FLAGS = frozenset({"--json", "--quiet", "--yes"})
_VALUED = frozenset({"--store", "--tenant", "--log"})
# ClickException: typer has it from click or, later, from a copy of its own, and does not export it.
_COMMAND_ERROR = typer.BadParameter.__mro__[2]


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; see `snapshots.cli.main`."""
    _never_fail_on_characters()
    ordered = _global_options_first(arguments)
    as_json = "--json" in ordered[: ordered.index("--")] if "--" in ordered else "--json" in ordered
    if sys.stdout is None:  # before anything is opened: it might become what we write to
        closed = OSError(errno.EBADF, "it is closed")
        return _failed(closed, f"cannot write output: {closed.strerror}", RETRY, as_json=as_json)
    try:
        code = _invoke(ordered)
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        return _failed(KeyboardInterrupt(), "interrupted", INTERRUPTED, as_json=as_json)
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer and rich turn it into an exit of their own
            return _closed_pipe()
        raise
    except OSError as error:
        if error.errno not in _OUTPUT_FAILED:
            return _report(error, ordered, as_json=as_json)
        _drop_output()
        return _failed(error, f"cannot write output: {error.strerror}", RETRY, as_json=as_json)
    except Exception as error:  # noqa: BLE001  rule 2: nothing but one line gets out
        return _report(error, ordered, as_json=as_json)
    return code


def _invoke(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    result = command.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    if result == INTERRUPTED:  # what some versions of typer make of Ctrl-C, without a word
        raise KeyboardInterrupt
    return result if isinstance(result, int) else DONE


def _report(error: Exception, arguments: Sequence[str], *, as_json: bool) -> int:
    if isinstance(error, _COMMAND_ERROR):
        error = UsageError(_reason(error))
    if isinstance(error, UsageError):
        see = error.see or f"{_command_line(arguments)} --help"
        return _failed(UsageError(str(error), see=see), f"{error}; see {see}", USAGE, as_json=as_json)
    code = exit_code(error)
    if code != BUG:
        return _failed(error, str(error), code, as_json=as_json)
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(error)
    message = f"unexpected {type(error).__name__}: {error}; please report it, with what {DEBUG}=1 shows"
    return _failed(error, message, BUG, as_json=as_json)


def _reason(error: Exception) -> str:
    """Return what typer says of arguments, without the words of the library that checked them."""
    text: str = getattr(error, "format_message", error.__str__)().strip() or "no command"
    return text.replace(": Value error, ", ": ", 1).rstrip(".")


def _command_line(arguments: Sequence[str]) -> str:
    """Return the program and the command that was meant, as far as there is one: a group, or the program alone."""
    command: object = typer.main.get_command(app)
    meant = [PROGRAM]
    remaining = iter(arguments)
    for argument in remaining:
        if argument in _VALUED:
            next(remaining, None)
        elif not argument.startswith("-"):
            if not isinstance(command, typer.core.TyperGroup) or argument not in command.commands:
                break
            command = command.commands[argument] if len(meant) > 1 else loaded(argument)
            meant.append(argument)
    return " ".join(meant)


def _failed(error: BaseException, message: str, code: int, *, as_json: bool) -> int:
    line = one_line(message)
    if as_json:
        sys.stderr.write(json.dumps(error_fields(error, line, code), ensure_ascii=False) + "\n")
    else:
        sys.stderr.write(f"error: {line}\n")
    return code


def _closed_pipe() -> int:
    _drop_output()
    return INTERRUPTED


def _drop_output() -> None:
    """Let what is still buffered go nowhere; the interpreter would complain about it at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _never_fail_on_characters() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _global_options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the global options in front (rule 1)."""
    first: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest += [argument, *remaining]
        elif argument in _FLAGS or argument.partition("=")[0] in _VALUED:
            first.append(argument)
            if argument in _VALUED:
                value = next(remaining, None)
                if value is None:
                    return first  # or the name of the command would be taken for the value
                first.append(value)
        else:
            rest.append(argument)
    return first + rest

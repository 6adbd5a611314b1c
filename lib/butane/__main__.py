"""The command: `python -m butane`, with the flags, output and exit statuses of the original.

0 is done (also with warnings), 1 any failure, 2 usage. `--hints` and `--thorough` are ours.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO, NoReturn, TextIO

from butane import BadConfig, Entry, Translation, __version__, display, translate

FAILED, USAGE = 1, 2
_COLORS = ("auto", "always", "never", "yes", "no")
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Failure(Exception):
    """The command cannot go on; the message says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _tell(f"{message}\n{self.format_usage()}")
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("butane", "%(prog)s [options] [input-file]", add_help=False, allow_abbrev=False)
    flag = parser.add_argument
    flag("-c", "--check", action="store_true", help="check config without producing output")
    flag("--color", "--colour", choices=_COLORS, default="auto", help="when to color errors: auto, always or never")
    flag("-d", "--files-dir", default="", metavar="DIR", help="allow embedding local files from this directory")
    flag("-h", "--help", action="help", help="show usage and exit")
    flag("--hints", action="store_true", help="say what to write instead")
    flag("-o", "--output", default="", metavar="FILE", help="write to output file instead of stdout")
    flag("-p", "--pretty", action="store_true", help="output formatted json")
    flag("-r", "--raw", action="store_true", help="never wrap in a MachineConfig (nothing here does)")
    flag("--raw-errors", action="store_true", help="show raw errors, rather than pretty printing them")
    flag("-s", "--strict", action="store_true", help="fail on any warning")
    flag("--thorough", action="store_true", help="go on where the original stops at the first errors")
    flag("-V", "--version", action="version", version=f"Butane v0.29.0 (butane-py {__version__})")
    flag("-D", "--debug", action="store_true", help=argparse.SUPPRESS)
    flag("--input", default="", help=argparse.SUPPRESS)
    flag("file", nargs="*", help=argparse.SUPPRESS)
    return parser


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    # an option whose value may only follow behind "=": alone it means always
    words = ["--color=always" if word in ("--color", "--colour") else word for word in arguments]
    options = parser.parse_args(words)
    if options.input:
        _tell("Flag --input has been deprecated, specify filename directly on command line\n")
        options.file.insert(0, options.input)
    if len(options.file) > 1:
        parser.error("there may be only one input file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Given the command's arguments, run it; return its exit status."""
    options = _arguments(sys.argv[1:] if arguments is None else arguments)
    name = options.file[0] if options.file else ""
    try:
        text = _text(_input(name))
        translation = _translated(text, name or "<stdin>", options)
        if options.strict and translation.report:
            raise Failure("Config produced warnings and --strict was specified")
        if not options.check:
            _write(translation.pretty if options.pretty else translation.json, options.output)
    except Failure as failure:
        _tell(f"{failure}\n")
        return FAILED
    return 0


def _translated(text: str, name: str, options: argparse.Namespace) -> Translation:
    def show(report: Sequence[Entry]) -> None:
        if options.raw_errors:
            _tell(display.raw(report))
        else:
            _tell(display.pretty(report, name, text, _wants_color(options.color, sys.stderr)))

    try:
        done = translate(text, options.files_dir or None, thorough=options.thorough, hints=options.hints)
    except BadConfig as error:
        # where the text is no config the original says nothing but its last word; we show the place too
        if not (error.unread and options.raw_errors):
            show(error.report)
        raise Failure(f"Error translating config: {error.error}") from None
    show(done.report)
    return done


def _tell(text: str) -> None:
    # who closed standard error, or filled it up, wants the status and the config all the same
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def _wants_color(choice: str, stream: TextIO | None) -> bool:
    if choice == "auto":
        return "NO_COLOR" not in os.environ and stream is not None and stream.isatty()
    return choice in ("always", "yes")


def _input(name: str) -> bytes:
    try:
        if not name:
            return sys.stdin.buffer.read() if sys.stdin is not None else b""
        with open(name, "rb") as file:
            return file.read()
    except IsADirectoryError as error:
        raise _failed("read", name, error) from None
    except OSError as error:
        raise _failed("open" if name else "read", name or "/dev/stdin", error) from None


def _text(data: bytes) -> str:
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Failure(f"Error translating config: Error unmarshaling yaml: yaml: line {line}: not {encoding}") from None


def _write(data: bytes, output: str) -> None:
    name = output or "/dev/stdout"
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(open(output, "wb", buffering=0)) if output else _standard_output()
        except OSError as error:
            raise _failed("open", name, error) from None
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) or 0 :]
        except OSError as error:
            raise Failure(f"Failed to write config to {_reason('write', name, error)}") from None


def _standard_output() -> io.RawIOBase | BinaryIO:
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    # past the buffer: what it cannot get rid of Python would try to write again at the end
    return getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)


def _failed(verb: str, name: str, error: OSError) -> Failure:
    return Failure(f"failed to {verb} {_reason(verb, name, error)}")


def _reason(verb: str, name: str, error: OSError) -> str:
    return f"{name}: {verb} {name}: {(error.strerror or 'cannot be used').lower()}"


def run() -> NoReturn:
    """The program: run the command and end with its exit status."""
    raise SystemExit(main())


if __name__ == "__main__":
    run()

"""The command: `python -m butane`, with the flags, output and exit statuses of the original.

0 is done (also with warnings), 1 any failure, 2 usage. `--hints` and `--thorough` are ours.
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

from butane import BadConfig, Entry, Translation, __version__, display, translate

FAILED, USAGE = 1, 2
_STDIN = "<stdin>"
_COLORS = ("auto", "always", "never", "yes", "no")
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Failure(Exception):
    """The command cannot go on; the message says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{message}\n")
        self.print_usage(sys.stderr)
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
        sys.stderr.write("Flag --input has been deprecated, specify filename directly on command line\n")
        options.file.insert(0, options.input)
    if len(options.file) > 1:
        parser.error("there may be only one input file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Given the command's arguments, run it; return its exit status."""
    options = _arguments(sys.argv[1:] if arguments is None else arguments)
    name = options.file[0] if options.file else _STDIN
    try:
        text = _text(_input(name))
        translation = _translated(text, name, options)
        if options.strict and translation.report:
            raise Failure("Config produced warnings and --strict was specified")
        if not options.check:
            _write(translation.pretty if options.pretty else translation.json, options.output)
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        return FAILED
    return 0


def _translated(text: str, name: str, options: argparse.Namespace) -> Translation:
    def show(report: Sequence[Entry]) -> None:
        if options.raw_errors:
            sys.stderr.write(display.raw(report))
        else:
            sys.stderr.write(display.pretty(report, name, text, _wants_color(options.color, sys.stderr)))

    try:
        done = translate(text, options.files_dir or None, thorough=options.thorough, hints=options.hints)
    except BadConfig as error:
        # where the text is no config the original says nothing but its last word; we show the place too
        if not (error.unread and options.raw_errors):
            show(error.report)
        raise Failure(f"Error translating config: {error.error}") from None
    show(done.report)
    return done


def _wants_color(choice: str, stream: TextIO) -> bool:
    if choice == "auto":
        return "NO_COLOR" not in os.environ and stream.isatty()
    return choice in ("always", "yes")


def _input(name: str) -> bytes:
    if name == _STDIN:
        return sys.stdin.buffer.read()
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise _failed(name, error) from None


def _text(data: bytes) -> str:
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Failure(f"Error translating config: Error unmarshaling yaml: yaml: line {line}: not {encoding}") from None


def _write(data: bytes, output: str) -> None:
    if not output:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        with open(output, "wb") as file:
            file.write(data)
    except OSError as error:
        raise _failed(output, error) from None


def _failed(name: str, error: OSError) -> Failure:
    return Failure(f"failed to open {name}: open {name}: {(error.strerror or 'cannot be used').lower()}")


def run() -> NoReturn:
    """The program: run the command and end with its exit status."""
    raise SystemExit(main())


if __name__ == "__main__":
    run()

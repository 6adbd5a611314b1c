"""The command, as somebody uses it who has the original in their scripts."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import butane
from butane.__main__ import main

HEADER = "variant: flatcar\nversion: 1.1.0\n"
WARNS = HEADER + "storage:\n  files:\n    - {path: /a, mode: 644}\nfoo: 1\n"
SPECIAL = "setuid/setgid/sticky bits are not supported or functional in spec versions older than 3.6.0"
DECIMAL = "unreasonable mode would be reasonable if specified in octal; remember to add a leading zero"
RAW = (
    "warning at $.foo, line 6 col 1: unused key foo\n"
    f"warning at $.storage.files.0.mode, line 5 col 24: {DECIMAL}\n"
    f"warning at $.storage.files.0.mode, line 5 col 24: {SPECIAL}\n"
)


class Run:
    """What a run of the command printed, and its status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, given: bytes, *arguments: str) -> None:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        try:
            self.status = main(arguments)
        except SystemExit as end:
            self.status = int(end.code or 0)
        out.flush()
        self.out, self.err = out.buffer.getvalue().decode(), err.getvalue()


def run(monkeypatch: pytest.MonkeyPatch, given: str | bytes, *arguments: str) -> Run:
    return Run(monkeypatch, given.encode() if isinstance(given, str) else given, *arguments)


def test_it_reads_standard_input_and_writes_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, HEADER)
    assert (done.status, done.out, done.err) == (0, '{"ignition":{"version":"3.4.0"}}\n', "")


def test_it_reads_and_writes_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, output = tmp_path / "a.bu", tmp_path / "a.ign"
    config.write_text(HEADER)
    output.write_text("longer than what comes now, and gone")
    done = run(monkeypatch, "", "--pretty", "-o", str(output), str(config))
    assert (done.status, done.out) == (0, "")
    assert output.read_text() == '{\n  "ignition": {\n    "version": "3.4.0"\n  }\n}\n'


def test_warnings_are_shown_with_the_user_s_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, WARNS)
    assert done.status == 0
    assert done.err.startswith(
        "warning[$.foo]:\n"
        "  --> <stdin>:6:1\n"
        "   |\n"
        " 4 |   files:\n"
        " 5 |     - {path: /a, mode: 644}\n"
        " 6 | foo: 1\n"
        "   | ^^^^ unused key foo\n"
        " 7 | \n"
        "   |\n"
        "\n"
        "warning[$.storage.files.0.mode]:\n"
        "  --> <stdin>:5:24\n"
    )
    assert f"   |                        ^^^^ {DECIMAL}\n" in done.err


def test_raw_errors_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, WARNS, "--raw-errors").err == RAW


def test_strict_fails_on_a_warning_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "a.ign"
    done = run(monkeypatch, WARNS, "--strict", "--raw-errors", "--output", str(output))
    assert (done.status, done.out) == (1, "")
    assert done.err == RAW + "Config produced warnings and --strict was specified\n"
    assert not output.exists()
    assert run(monkeypatch, HEADER, "-s").status == 0


def test_check_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = run(monkeypatch, HEADER, "-c", f"-o{tmp_path}/a")
    assert (done.status, done.out) == (0, "")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("flags", [["-d", "files"], ["-dfiles"], ["--files-dir", "files"], ["--files-dir=files"]])
def test_local_files_come_from_the_files_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("x")
    given = HEADER + "storage: {files: [{path: /a, contents: {local: a}}]}\n"
    assert '"source":"data:,x"' in run(monkeypatch, given, *flags).out
    missing = run(monkeypatch, given, "--raw-errors")
    assert missing.status == 1
    assert "must be specified with -d/--files-dir" in missing.err
    assert missing.err.endswith("Error translating config: source config is invalid\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["a", "b"], "one input file"), (["--foo"], "--foo"), (["-d"], "argument"), (["--color=sometimes"], "sometimes")],
)
def test_usage_is_status_2(monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str) -> None:
    done = run(monkeypatch, HEADER, *arguments)
    assert done.status == 2
    assert says in done.err
    assert done.out == ""


def test_a_file_that_cannot_be_used_is_status_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(monkeypatch, "", "no/such")
    assert (done.status, done.err) == (1, "failed to open no/such: open no/such: no such file or directory\n")
    done = run(monkeypatch, HEADER, "-o", "no/such")
    assert (done.status, done.err) == (1, "failed to open no/such: open no/such: no such file or directory\n")


def test_a_folder_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = run(monkeypatch, "", str(tmp_path))
    assert (done.status, done.err) == (1, f"failed to read {tmp_path}: read {tmp_path}: is a directory\n")


def test_no_name_is_standard_input_and_every_name_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, HEADER, "").status == 0
    assert (
        run(monkeypatch, HEADER, "<stdin>").err == "failed to open <stdin>: open <stdin>: no such file or directory\n"
    )


@pytest.mark.parametrize(
    ("redirected", "status", "says"),
    [
        (">&-", 1, "open /dev/stdout: bad file descriptor"),
        (">/dev/full", 1, "Failed to write config to /dev/stdout: write /dev/stdout: no space left on device"),
        ("-o /dev/full", 1, "Failed to write config to /dev/full: write /dev/full: no space left on device"),
        ("2>&-", 0, '{"ignition":'),
        ("2>/dev/full", 0, '{"ignition":'),
        ("<&-", 1, "error parsing variant; must be specified"),
        ("| true; exit ${PIPESTATUS[0]}", 1, "write /dev/stdout: broken pipe"),
    ],
)
def test_what_cannot_be_read_or_written_is_a_status_and_no_traceback(
    tmp_path: Path, redirected: str, status: int, says: str
) -> None:
    source = "https://example.com/" + "a" * 200_000  # more than a pipe holds while nobody reads
    (tmp_path / "a.bu").write_text(
        f"{HEADER}foo: 1\nstorage: {{files: [{{path: /a, contents: {{source: {source}}}}}]}}\n"
    )
    command = f"{sys.executable} -m butane --raw-errors {redirected}"
    done = subprocess.run(
        ["bash", "-c", command if redirected == "<&-" else command.replace("butane", f"butane {tmp_path}/a.bu", 1)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert says in done.stdout + done.stderr


def test_help_and_version_are_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, "", "--help")
    assert done.status == 0
    for flag in ("--check", "--files-dir", "--output", "--pretty", "--strict", "--raw", "--raw-errors", "--version"):
        assert flag in done.out
    assert "debug" not in done.out
    done = run(monkeypatch, "", "-V")
    assert (done.status, done.out) == (0, f"Butane v0.29.0 (butane-py {butane.__version__})\n")


def test_short_flags_stand_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, HEADER, "-psr").out.startswith("{\n")


def test_the_old_way_to_name_the_input_still_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.bu").write_text(HEADER)
    done = run(monkeypatch, "", "--input", f"{tmp_path}/a.bu")
    assert done.status == 0
    assert "deprecated" in done.err


def test_colors_are_for_terminals_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\033[" not in run(monkeypatch, WARNS).err
    for flag in ("--color", "--colour", "--color=always"):
        assert "\033[1;33mwarning\033[0m[$.foo]:\n  \033[1;34m-->\033[0m" in run(monkeypatch, WARNS, flag).err
    assert "\033[" not in run(monkeypatch, WARNS, "--color=never").err


def test_what_is_no_config_is_one_line_with_raw_errors_and_has_its_place_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = HEADER + "passwd:\n  users: [{name: a, uid: x}]\n"
    last = "Error translating config: yaml: unmarshal errors:\n  line 4: cannot unmarshal !!str into int\n"
    assert run(monkeypatch, given, "--raw-errors").err == last
    shown = run(monkeypatch, given)
    assert "  --> <stdin>:4:26\n" in shown.err
    assert shown.err.endswith(last)
    assert run(monkeypatch, "").err.endswith("Error translating config: error parsing variant; must be specified\n")


def test_hints_say_what_to_write_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "  hint: write 0644\n" in run(monkeypatch, WARNS, "--hints").err
    assert "hint" not in run(monkeypatch, WARNS).err


def test_thorough_goes_on_where_the_original_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    given = HEADER + "storage: {trees: [{}], links: [{path: /a}]}\n"
    assert "link target" not in run(monkeypatch, given, "--raw-errors").err
    assert "link target is required" in run(monkeypatch, given, "--raw-errors", "--thorough").err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be"])
def test_a_mark_at_the_start_tells_the_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    mark = "" if encoding == "utf-8-sig" else "\ufeff"
    assert run(monkeypatch, (mark + HEADER + "# é\n").encode(encoding)).status == 0


def test_bytes_that_are_no_text_are_an_error_with_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, HEADER.encode() + b"# \xff\n")
    assert done.status == 1
    assert done.err.startswith("Error translating config: Error unmarshaling yaml: yaml: line 3: ")


def test_it_is_a_program(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(butane.__file__).parents[1])}
    command = [sys.executable, "-m", "butane", "-o", "out.ign"]
    done = subprocess.run(command, input=HEADER.encode(), cwd=tmp_path, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert stat.S_IMODE((tmp_path / "out.ign").stat().st_mode) & 0o111 == 0


def test_the_example_of_the_readme_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readme = Path(butane.__file__).with_name("README.md").read_text()
    make, command, *shown = readme.partition("```console\n")[2].partition("```\n")[0].splitlines(keepends=True)
    monkeypatch.chdir(tmp_path)
    subprocess.run(["sh", "-c", make.removeprefix("$ ")], check=True)
    done = run(monkeypatch, "", *command.removeprefix("$ python -m butane ").split())
    assert (done.status, done.out, done.err) == (0, "", "".join(shown))

"""Files that a config embeds: where they may lie, and what is said when they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import butane

HEADER = "variant: flatcar\nversion: 1.1.0\n"


def using(*paths: str) -> str:
    files = (f"{{path: /f{i}, contents: {{local: {path!r}}}}}" for i, path in enumerate(paths))
    return f"{HEADER}storage: {{files: [{', '.join(files)}]}}\n"


def refusal(text: str, files_dir: Path | str | None) -> str:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(text, files_dir)
    (entry,) = caught.value.report
    assert entry.path == "$.storage.files.0.contents.local"
    return entry.message


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    (directory / "sub").mkdir(parents=True)
    (directory / "motd").write_bytes(b"hello\xff")
    (directory / "sub" / "x").write_bytes(b"x")
    (tmp_path / "outside").write_bytes(b"secret")
    return directory


def test_a_local_file_is_embedded_byte_by_byte_and_listed(files: Path) -> None:
    translation = butane.translate(using("motd", "sub/x", "./motd"), files)
    sources = [file["contents"]["source"] for file in translation.config["storage"]["files"]]
    assert sources == ["data:,hello%FF", "data:,x", "data:,hello%FF"]
    assert translation.files == (f"{files}/motd", f"{files}/sub/x")


def test_an_absolute_path_counts_from_the_files_directory(files: Path) -> None:
    assert butane.translate(using("/motd"), files).files == (f"{files}/motd",)


def test_a_file_can_be_appended(files: Path) -> None:
    text = f"{HEADER}storage: {{files: [{{path: /a, append: [{{local: sub/x}}]}}]}}\n"
    assert butane.translate(text, files).config["storage"]["files"][0]["append"] == [
        {"compression": "", "source": "data:,x"}
    ]


class Store(butane.LocalFiles):
    """Files that are kept elsewhere."""

    def __init__(self, **files: bytes) -> None:
        super().__init__("hosts/x/files")
        self.store = {f"hosts/x/files/{name}": content for name, content in files.items()}

    def load(self, path: str) -> bytes:
        if path not in self.store:
            raise FileNotFoundError(path)
        return self.store[path]


class Memory(butane.LocalFiles):
    """A tree that is on no disk: a folder with a file in it, and another folder, and so on."""

    def __init__(self, depth: int) -> None:
        super().__init__("no/such")
        self.depth = depth

    def look(self, path: str) -> butane.Node:
        return butane.Node(path, "directory")

    def scan(self, path: str) -> list[butane.Node]:
        below = [butane.Node(f"{path}/d", "directory")] if path.count("/") < self.depth else []
        return [butane.Node(f"{path}/f", "file"), *below]

    def load(self, path: str) -> bytes:
        return path.encode()[-3:]


@pytest.mark.slow
def test_a_tree_may_be_elsewhere_and_of_any_depth() -> None:
    made = butane.translate(growing("t"), Memory(1050)).config["storage"]["files"]
    assert sorted(file["path"] for file in made) == sorted(f"/srv{'/d' * depth}/f" for depth in range(1049))


def test_files_are_read_as_the_caller_reads_them() -> None:
    translation = butane.translate(using("a"), Store(a=b"1"))
    assert translation.files == ("hosts/x/files/a",)


def test_a_file_that_the_caller_does_not_find_is_an_error() -> None:
    with pytest.raises(butane.BadConfig, match="open hosts/x/files/a: no such file or directory"):
        butane.translate(using("a"), Store())


def test_without_a_files_directory_there_are_no_local_files() -> None:
    assert refusal(using("a"), None) == (
        "local file paths are relative to a files directory that must be specified with -d/--files-dir"
    )


def test_a_missing_file_is_named(files: Path) -> None:
    assert refusal(using("nope"), files) == f"open {files}/nope: no such file or directory"
    assert refusal(using("sub"), files) == f"read {files}/sub: is a directory"


@pytest.mark.parametrize("path", ["../outside", "sub/../../outside", "/../outside", ".."])
def test_a_path_does_not_leave_the_files_directory(files: Path, path: str) -> None:
    assert refusal(using(path), files) == "local file path traverses outside the files directory"
    with pytest.raises(butane.BadConfig, match="traverses outside"):
        butane.translate(using(path), Store(outside=b"never"))


def test_a_symlink_does_not_leave_the_files_directory(files: Path) -> None:
    (files / "out").symlink_to("../outside")
    (files / "up").symlink_to("..")
    (files / "in").symlink_to("sub/x")
    message = "local file path leaves the files directory by a symlink"
    assert refusal(using("out"), files) == message
    assert refusal(using("up/outside"), files) == message
    assert butane.translate(using("in"), files).config["storage"]["files"][0]["contents"] == {
        "compression": "",
        "source": "data:,x",
    }


def test_a_files_directory_may_be_a_symlink_itself(files: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("files")
    assert butane.translate(using("motd"), tmp_path / "link").files == (f"{tmp_path}/link/motd",)


def test_every_missing_file_is_told_and_nothing_that_follows_from_it(files: Path) -> None:
    text = HEADER + (
        "storage: {files: [{path: /a, overwrite: true, contents: {local: n1}}, {path: /b, contents: {local: n2}}]}\n"
    )
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(text, files)
    assert [entry.path for entry in caught.value.report] == [
        "$.storage.files.0.contents.local",
        "$.storage.files.1.contents.local",
    ]


def test_a_path_that_no_system_takes_is_an_error(files: Path) -> None:
    text = f'{HEADER}storage: {{files: [{{path: /a, contents: {{local: "a\\0b"}}}}]}}\n'
    assert refusal(text, files) == f"open {files}: invalid argument"
    assert refusal(using("a"), "a\0b").endswith(": invalid argument")
    assert refusal(using("a/" * 500_000), files).endswith(": file name too long")


def test_a_pipe_is_not_waited_for(files: Path) -> None:
    os.mkfifo(files / "pipe")
    assert refusal(using("pipe"), files) == f"read {files}/pipe: not a regular file"


def test_without_a_working_directory_a_relative_path_leads_nowhere(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert refusal(using("motd"), "files") == "open files/motd: no such file or directory"
    assert butane.translate(using("motd"), files).files == (f"{files}/motd",)


def test_names_are_utf_8_in_every_locale(files: Path) -> None:
    (files / "sub" / "é").write_bytes(b"1")
    text = growing("sub") + "systemd: {units: [{name: a.service, contents_local: sub/é}]}\n"
    code = f"import sys, butane; sys.stdout.buffer.write(butane.translate({text!a}, 'files').json)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=files.parent,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert done.stdout == butane.translate(text, files).json, done.stderr.decode()


def growing(*trees: str) -> str:
    return f"{HEADER}storage: {{trees: [{', '.join(f'{{local: {tree}, path: /srv}}' for tree in trees)}]}}\n"


def test_a_symlink_in_a_tree_becomes_a_link_and_is_not_followed(files: Path) -> None:
    (files / "sub/out").symlink_to("../../outside")
    translation = butane.translate(growing("sub"), files)
    assert translation.config["storage"]["links"] == [{"path": "/srv/out", "target": "../../outside"}]
    assert translation.files == (f"{files}/sub/x",)
    assert translation.folders == (f"{files}/sub",)


def test_a_tree_does_not_begin_outside_the_files_directory(files: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (files / "away").symlink_to("../elsewhere")
    for tree, message in (
        ("away", "local file path leaves the files directory by a symlink"),
        ("..", "local file path traverses outside the files directory"),
    ):
        with pytest.raises(butane.BadConfig, match=message):
            butane.translate(growing(tree), files)


def test_names_are_taken_in_the_order_of_their_bytes(files: Path) -> None:
    for name in ("b", "a.x", "a", "é", "Z"):
        (files / "sub" / name).write_text(name)
    made = butane.translate(growing("sub"), files).config["storage"]["files"]
    assert [file["path"] for file in made] == [f"/srv/{name}" for name in ("Z", "a", "a.x", "b", "x", "é")]

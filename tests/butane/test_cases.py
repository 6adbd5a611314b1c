"""Our own cases of Butane's rules: what the original says of each, we say."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from casefiles import Case, cases
from comparing import Outcome, disagreements, outcome

import butane

# The dialects that we translate, with the version of Ignition that each becomes.
DIALECTS = {
    "fcos 1.0.0": "3.0.0",
    "fcos 1.1.0": "3.1.0",
    "fcos 1.2.0": "3.2.0",
    "fcos 1.3.0": "3.2.0",
    "fcos 1.4.0": "3.3.0",
    "fcos 1.5.0": "3.4.0",
    "fcos 1.6.0": "3.5.0",
    "fcos 1.7.0": "3.6.0",
    "flatcar 1.0.0": "3.3.0",
    "flatcar 1.1.0": "3.4.0",
}

# The words of all that Butane and Ignition can have against a config of these dialects.
MESSAGES = (
    # the head
    "error parsing variant; must be specified",
    "error parsing version; must be a valid semver",
    "No translator exists for variant",
    "rhcos variant has been removed",
    "Error unmarshaling yaml: ",
    "yaml: unmarshal errors:",
    "source config is invalid",
    "config generated was invalid",
    "unused key ",
    "context tree does not match content tree at",
    # resources, trees and units
    "only one of the following can be set: inline, local, source",
    "only one of the following can be set: contents, contents_local",
    "local file path traverses outside the files directory",
    "local file paths are relative to a files directory that must be specified with -d/--files-dir",
    "trees may only contain files, directories, and symlinks",
    "matching filesystem node has existing contents or different type",
    "root of tree must be a directory",
    "local is required",
    "unreasonable mode would be reasonable if specified in octal; remember to add a leading zero",
    "path is required if with_mount_unit is true and format is not swap",
    "format is required if with_mount_unit is true",
    "path must be under /etc or /var if with_mount_unit is true",
    # boot device, grub, variants
    "layout must be one of: aarch64, ppc64le, s390x-eckd, s390x-virt, s390x-zfcp, x86_64",
    "layout must be one of: aarch64, ppc64le, x86_64",
    "mirroring requires at least two devices",
    "boot_device.layout should be specified when boot_device.mirror is specified",
    "device is required for layouts: s390x-eckd, s390x-zfcp",
    "mirroring not supported on layouts: s390x-eckd, s390x-zfcp, s390x-virt",
    "device name must start with /dev/dasd on s390x-eckd layout or /dev/sd on s390x-zfcp layout",
    "when using cex the targeted architecture must match s390x",
    "no method specified for luks",
    "partitions cannot be reused by label; number must be specified except on boot disk",
    "incorrect partition number; a new partition will be created using reserved label",
    "root should have 8GiB of space assigned",
    "root partition cannot expand; it is set to fill available space but is followed by an auto-positioned partition",
    'field "name" is required',
    'field "password_hash" is required',
    "clevis is not supported in this spec version",
    # configs in a config
    "skipping validation for the merge/replace ignition config due to an unkown version",
    "config is not valid",
    "invalid config version (couldn't parse)",
    # files, directories, links
    "duplicate entry defined",
    "invalid compression method",
    "file path includes link in config",
    "directory path includes link in config",
    "link path includes link in config",
    "link target is required",
    "hard link target is a directory",
    "user/group ignored for hard link",
    "overwrite must be false if source is unspecified",
    "source must be specified if verification is specified",
    "illegal file mode",
    "setuid/setgid/sticky bits are not supported or functional in spec versions older than 3.6.0",
    "cannot set both id and name",
    "path not specified",
    "path not absolute",
    "path is not fully simplified",
    "path conflicts with systemd unit or dropin",
    # disks and file systems
    "disk device is required",
    "partition numbers collide",
    "partitions overlap",
    "shouldExist specified false with other options also specified",
    "shouldExist is false for a partition and other partition(s) has start or size 0",
    "a partition number >= 1 or a label must be specified",
    "cannot use the same partition label twice",
    "partition labels may not exceed 36 characters",
    "partition label will be truncated to text before the colon",
    'doesn\'t match the form "01234567-89AB-CDEF-EDCB-A98765432101"',
    "invalid filesystem format",
    "filesystem must specify format if label is specified",
    "format cannot be empty when path, label, uuid, wipeFilesystem, options, or mountOptions is specified",
    "filesystem labels cannot be longer than 16 characters when using ext4",
    "filesystem labels cannot be longer than 256 characters when using btrfs",
    "filesystem labels cannot be longer than 12 characters when using xfs",
    "filesystem labels cannot be longer than 15 characters when using swap",
    "filesystem labels cannot be longer than 11 characters when using vfat",
    "filesystem overwrites partitioned device",
    "device matches disk with wipeTable enabled; filesystem will be wiped",
    "raid level is required",
    "unrecognized raid level",
    "raid devices required",
    "spares unsupported for linear and raid0 arrays",
    # LUKS
    "luks device labels cannot be longer than 47 characters",
    "device names cannot contain slashes",
    "invalid key-file source",
    "missing required custom clevis pin",
    "missing required custom clevis config",
    "unsupported clevis pin",
    "cannot use custom clevis config with tpm2, tang, or threshold",
    "thumbprint is required",
    "advertisement is not valid JSON",
    "cannot use cex with clevis",
    "cannot use key file with cex",
    # units
    "invalid systemd unit extension",
    "invalid systemd drop-in extension",
    "is enabled, but has no install section so enable does nothing",
    "doesn't have Install section",
    "invalid unit content: unexpected newline encountered while parsing option name",
    "invalid unit content: unable to find end of section",
    "invalid unit content: found garbage after section name",
    "invalid unit content: line too long (max 2048 bytes)",
    "invalid unit content: EOF",
    # sources
    "source is required",
    "invalid url scheme",
    "unable to parse url",
    "unable to parse HTTP header",
    "HTTP header name can't be empty",
    "cannot use HTTP headers with this source scheme",
    "malformed hash specifier",
    "incorrect size for hash sum",
    "unrecognized hash function",
    "invalid S3 ARN format",
    "invalid S3 object VersionId",
    "proxies must be http(s)",
    "insecure plaintext HTTP proxy specified for HTTPS resources",
    # data URLs
    "missing data prefix",
    "missing comma before data",
    "invalid character after data prefix",
    "missing media type slash",
    "invalid media type",
    "invalid character for media type",
    "incomplete media type",
    "invalid character for media subtype",
    "unterminated parameter sequence",
    "invalid character for parameter attribute",
    "invalid character for parameter value",
    "expected base64, got ",
    "expected semicolon or comma",
    "unclosed quoted string",
    "invalid escaped character",
    "invalid data character",
    "illegal base64 data at input byte",
    "unexpected end of unescape sequence",
    "in unescape sequence",
)

CASES = list(cases())
RUNS = [(case, dialect) for case in CASES for dialect in case.dialects]


def name(run: object) -> str | None:
    """Given a case or a dialect, return how a test's name has it."""
    return f"{run.topic}: {run.name}" if isinstance(run, Case) else None


@contextlib.contextmanager
def laid_out(case: Case) -> Iterator[str | None]:
    """Given a case, yield its files directory, as it is called from the working directory."""
    if case.has_files:
        with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
            yield case.lay_out(Path(directory))
    else:
        yield None


def without_version(config: dict[str, Any]) -> dict[str, Any]:
    """Given an Ignition config, return it as cases have it."""
    ignition = {name: value for name, value in config["ignition"].items() if name != "version"}
    return {name: value for name, value in {**config, "ignition": ignition}.items() if value}


@pytest.mark.parametrize(("case", "dialect"), RUNS, ids=name)
def test_what_the_original_says_of_a_config_we_say(case: Case, dialect: str) -> None:
    with laid_out(case) as files_dir:
        ours = outcome(case.text(dialect), files_dir)
    if ours.config is not None:
        assert ours.config["ignition"]["version"] == DIALECTS.get(dialect, ours.config["ignition"]["version"])
        ours = Outcome(without_version(ours.config), ours.report)
    assert disagreements(ours, case.said.get("ignition"), case.said.get("report", [])) == []


@pytest.mark.parametrize(("case", "dialect"), [run for run in RUNS if "output" in run[0].said], ids=name)
def test_what_the_original_prints_we_print_byte_for_byte(case: Case, dialect: str) -> None:
    with laid_out(case) as files_dir:
        translation = butane.translate(case.text(dialect), files_dir)
    assert translation.json.decode() == case.said["output"]


def test_every_message_is_expected_by_a_case() -> None:
    expected = [line for case in CASES for line in case.said.get("report", [])]
    assert [message for message in MESSAGES if not any(message in line for line in expected)] == []


def test_every_dialect_has_cases_that_are_taken_and_cases_that_are_refused() -> None:
    taken = {dialect for case in CASES if "ignition" in case.said for dialect in case.dialects}
    refused = {dialect for case in CASES if "ignition" not in case.said for dialect in case.dialects}
    assert taken == refused == {*DIALECTS, ""}


def test_every_case_has_a_name_of_its_own_and_an_expectation() -> None:
    names = Counter((case.topic, case.name) for case in CASES)
    assert [name for name, times in names.items() if times > 1] == []
    assert [case.name for case in CASES if not {"report", "ignition"} & set(case.said)] == []

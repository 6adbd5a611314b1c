"""The data URL rule, and the URLs that Ignition takes."""

from __future__ import annotations

import base64
import gzip
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

import butane
from butane.urls import header_fault, url_fault


def decoded(source: str, compression: str) -> bytes:
    head, _, body = source.partition(",")
    data = base64.b64decode(body) if head == "data:;base64" else urllib.parse.unquote_to_bytes(body)
    return gzip.decompress(data) if compression == "gzip" else data


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"", "data:,"),
        (b"hello", "data:,hello"),
        (b"a/b\n", "data:,a%2Fb%0A"),
        ("é".encode(), "data:,%C3%A9"),
        (b"-_.!~*'()", "data:,-_.!~*'()"),
        (b"\x00\xff" * 12, "data:;base64," + base64.b64encode(b"\x00\xff" * 12).decode()),
        (b"a\x00\x00\x00", "data:,a%00%00%00"),
        # eight more bytes of base64's own: a tie, and ties stay percent-encoded
        (b"\x00" * 8, "data:;base64,AAAAAAAAAAA="),
    ],
)
def test_small_contents_take_the_shorter_plain_form(data: bytes, source: str) -> None:
    assert butane.data_url(data) == (source, "")


def test_a_tie_keeps_the_percent_form() -> None:
    data = b"\x00" * 5 + b"a"  # 1 + 16 characters, and ";base64," + 8 are one less than that
    assert butane.data_url(data)[0] == "data:;base64,AAAAAABh"
    data = b"\x00" * 5  # ",%00%00%00%00%00" and ";base64,AAAAAAA=" are 16 characters each
    assert butane.data_url(data)[0] == "data:,%00%00%00%00%00"


def test_compressible_contents_are_compressed_as_go_would_head_it() -> None:
    source, compression = butane.data_url(b"hello " * 100)
    assert compression == "gzip"
    packed = base64.b64decode(source.removeprefix("data:;base64,"))
    assert packed[:10] == bytes.fromhex("1f8b08000000000002ff")
    assert gzip.decompress(packed) == b"hello " * 100


@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode) | st.binary(max_size=9).map(lambda b: b * 90))
def test_a_data_url_holds_its_contents_and_is_the_shortest(data: bytes) -> None:
    source, compression = butane.data_url(data)
    assert decoded(source, compression) == data
    assert url_fault(source, 4) is None
    percent = "data:," + urllib.parse.quote(data, safe="!~*'()")
    plain = "data:;base64," + base64.b64encode(data).decode()
    assert len(source) <= min(len(percent), len(plain))
    if not compression:
        assert source == (plain if len(plain) < len(percent) else percent)


def test_big_contents_are_encoded_too() -> None:
    data = bytes(range(256)) * 2048
    assert decoded(*butane.data_url(data)) == data


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a",
        "https://user:pw@example.com:443/a%20b?c=d#e",
        "https://[::1]:8443/",
        "HTTPS://example.com",
        "tftp://example.com/a",
        "gs://bucket/a",
        "s3://bucket/a",
        "s3://bucket/a?versionId=1",
        "arn:aws:s3:::bucket/key",
        "arn:aws:s3:us-west-1:123456789012:accesspoint/name/key",
        "data:,",
        "data:,a%20b",
        "data:text/plain,a",
        "data:text/plain;charset=utf-8;base64,YQ==",
        'data:text/plain;a="b c",x',
        "data:x-a/b,c",
    ],
)
def test_a_url_that_ignition_takes(url: str) -> None:
    assert url_fault(url, 4) is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com", "invalid url scheme"),
        ("example.com/a", "invalid url scheme"),
        ("http://a b/", "unable to parse url"),
        ("http://a/%zz", "unable to parse url"),
        ("http://a/#%zz", "unable to parse url"),
        ("http://a:port/", "unable to parse url"),
        ("http://[::1/", "unable to parse url"),
        ("http://[zz]/", "unable to parse url"),
        ("http://a/\n", "unable to parse url"),
        (":x", "unable to parse url"),
        ("s3://bucket/a?versionId=", "invalid S3 object VersionId"),
        ("arn:aws:s3:::bucket/key?versionId=", "invalid S3 object VersionId"),
        ("arn:aws:ec2:::bucket/key", "invalid S3 ARN format"),
        ("arn:aws:s3:::bucket", "invalid S3 ARN format"),
        ("arn:aws:s3:::accesspoint/name", "invalid S3 ARN format"),
        ("data:text/plain", "incomplete media type"),
        ("data:foo/plain,x", "invalid media type"),
        ("data:text/plain,x y", "invalid data character"),
        ("data:,%z", "rfc2396: invalid char 0x25 in unescape sequence"),
        ("data:,é", "invalid data character"),
        ("data:;base64,YQ", "illegal base64 data at input byte 0"),
        ("data:;base64,Y*==", "invalid data character"),
    ],
)
def test_a_url_that_ignition_refuses(url: str, message: str) -> None:
    assert url_fault(url, 4) == message


def test_an_arn_is_no_url_before_3_4_0() -> None:
    assert url_fault("arn:aws:s3:::bucket/key", 3) == "invalid url scheme"


def test_headers_go_with_http_alone() -> None:
    assert header_fault("http://a/") is None
    assert header_fault("https://a/") is None
    assert header_fault("data:,a") == "cannot use HTTP headers with this source scheme"
    assert header_fault("") == "unable to parse url"

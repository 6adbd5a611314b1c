"""A checking reader of Protocol Buffers' wire format, for the few messages that snapshots hold.

The format: https://protobuf.dev/programming-guides/encoding/. Groups (wire types 3 and 4) are refused: neither etcd
nor Kubernetes has any.
"""

from __future__ import annotations

from collections.abc import Iterator

from i12e.damaged import Damaged

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_MOST_BITS = 63  # of the shift of a varint's tenth byte


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Given data and a place in it, return the number there and the place after it; raise Damaged if there is none."""
    number = shift = 0
    while True:
        if at >= len(data) or shift > _MOST_BITS:
            raise Damaged("a protobuf number that does not end")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if number >> 64:
        raise Damaged("a protobuf number of more than 64 bits")
    return number, at


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Given a message, yield each field's number and value, in the order of the data; raise Damaged if it is none.

    A value is an int (varints) or bytes (all others: what they mean is the caller's to say).
    """
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        if tag < 0x80:  # one byte, as nearly always: what snapshots are slow by
            at += 1
        else:
            tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise Damaged("a protobuf field without a number")
        if kind == _VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise Damaged(f"a protobuf field of the unknown type {kind}")
        if size > end - at:
            raise Damaged("a protobuf field that is longer than its message")
        yield number, data[at : at + size]
        at += size


def bytes_of(data: bytes, wanted: int) -> bytes | None:
    """Given a message and a field's number, return that field's bytes, the last if there are several, or None.

    Raise Damaged if the message is none, or the field a number.
    """
    found: bytes | None = None
    for number, value in fields(data):
        if number == wanted:
            if isinstance(value, int):
                raise Damaged(f"the protobuf field {wanted} is a number")
            found = value
    return found

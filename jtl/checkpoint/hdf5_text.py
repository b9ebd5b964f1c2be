"""The text attributes of an HDF5 object, read without the HDF5 library.

Text of variable length lies in collections apart from the attribute, which holds its length and its place. The library (2.0) allocates
whatever length is written there, 4 GiB for each entry, before it compares, and runs for ever on a collection with an entry of no size;
so a file from outside must not be asked for such attributes through it.
Source: HDF5 File Format Specification 3.0, III.E (global heap), IV.A (object headers and their messages).
"""

import functools
import math
import struct
from collections.abc import Callable, Iterator

from jtl.checkpoint.blob import Blob

TEXT_LIMIT = 1 << 24  # bytes of an object's attributes; the config of the largest model of keras.applications has less than a million
_CONTINUATION, _ATTRIBUTE = 0x10, 0x0C
_TEXT, _VARIABLE = 3, 9


def text_reader(blob: Blob) -> Callable[[int], dict[str, list[str]]]:
    """A function from the address of an object's header to its text attributes, each flattened to a list.

    Attributes of any other kind, and those that very many attributes of newer files are stored in (dense storage), are left out.

    Args:
      blob: an HDF5 file with offsets and lengths of 8 bytes, as all are that were not asked to be otherwise.

    Raises:
      ValueError, struct.error, CheckpointError: from the function, a header or text that cannot be.
    """
    heap = functools.lru_cache(maxsize=16)(functools.partial(_heap, blob))

    def read(address: int) -> dict[str, list[str]]:
        found, room = {}, TEXT_LIMIT
        for kind, body in _messages(blob, address):
            named = _attribute(body) if kind == _ATTRIBUTE else None
            if named is None:
                continue
            name, size, values = named
            if not size:  # variable: length, collection, entry
                places = [struct.unpack('<IQI', value) for value in values]
                room -= sum(length for length, _, _ in places)
                if room < 0:
                    raise ValueError(f'the attribute {name!r:.60} claims more than {TEXT_LIMIT} bytes of text')
                values = [_entry(blob, heap(at), index, length) if length else b'' for length, at, index in places]
            found[name] = [value.split(b'\0')[0].decode('utf-8', 'replace') for value in values]
        return found

    return read


def _messages(blob: Blob, address: int) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message of an object header, of version 1 or 2."""
    head = blob.read(address, 16).tobytes()
    if head[:4] == b'OHDR':
        flags = head[5]
        start, width = address + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0), 1 << (flags & 3)
        blocks = [(start + width, int.from_bytes(blob.read(start, width).tobytes(), 'little'))]
        form, frame = struct.Struct('<BH3x' if flags & 4 else '<BHx'), 4  # a later block has a signature before it and a checksum behind
    elif head[0] == 1:
        blocks, form, frame = [(address + 16, int.from_bytes(head[8:12], 'little'))], struct.Struct('<HH4x'), 0
    else:
        raise ValueError(f'no object header at byte {address}')
    for start, length in blocks:  # grows on the way
        data, at = blob.read(start, length).tobytes(), 0
        while at + form.size <= len(data):
            kind, size = form.unpack_from(data, at)
            body = data[at + form.size : at + form.size + size]
            at += form.size + size
            if kind == _CONTINUATION:
                where, length = struct.unpack_from('<QQ', body)
                if any(where + frame == known for known, _ in blocks) or len(blocks) > 1000:
                    raise ValueError(f'the object header at byte {address} runs in a circle')
                blocks.append((where + frame, length - 2 * frame))
            yield kind, body


def _attribute(body: bytes) -> tuple[str, int, list[bytes]] | None:
    """Name, size of a value (0: variable) and values of an attribute of text; None for one of anything else."""
    version, flags, *sizes = struct.unpack_from('<BBHHH', body)
    if version not in (1, 2, 3) or (version > 1 and flags & 3):  # shared with other attributes: never of text that Keras or h5py write
        return None
    at, parts = 9 if version == 3 else 8, []
    for size in sizes:
        parts.append(body[at : at + size])
        at += -(-size // 8) * 8 if version == 1 else size
    name, datatype, space = parts
    kind, size = datatype[0] & 15, int.from_bytes(datatype[4:8], 'little')
    variable = kind == _VARIABLE and datatype[1] & 15 == 1
    if not size or not (kind == _TEXT or variable) or (space[0] == 2 and space[3] == 2):  # the last: no data at all
        return None
    count = math.prod(struct.unpack_from(f'<{space[1]}Q', space, 8 if space[0] == 1 else 4))
    if (variable and size != 16) or count * size > len(body) - at:
        raise ValueError(f'an attribute claims {count} values of {size} bytes, more than there are')
    values = [body[at + i * size : at + (i + 1) * size] for i in range(count)]
    return name.rstrip(b'\0').decode('utf-8', 'replace'), 0 if variable else size, values


def _heap(blob: Blob, start: int) -> dict[int, tuple[int, int]]:
    """Where the entries of the collection at byte `start` begin, and how long they are."""
    signature, length = struct.unpack('<4s4xQ', blob.read(start, 16).data)
    if signature != b'GCOL':
        raise ValueError(f'no collection of text at byte {start}')
    entries, at = {}, start + 16
    while at + 16 <= start + length:
        index, size = struct.unpack('<H6xQ', blob.read(at, 16).data)
        if not index:  # the rest of the space
            break
        entries[index] = (at + 16, size)
        at += 16 + -(-size // 8) * 8
    return entries


def _entry(blob: Blob, entries: dict[int, tuple[int, int]], index: int, length: int) -> bytes:
    start, size = entries.get(index, (0, 0))
    if length > size:
        raise ValueError(f'a text claims {length} bytes, {size} are there')
    return blob.read(start, length).tobytes()

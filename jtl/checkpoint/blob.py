"""The bytes of a checkpoint file, read by range: memory-mapped where the file is local, and inside zip archives."""

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from jaxtyping import UInt8

from jtl.checkpoint.base import CheckpointError

# Deflate cannot shrink anything further than this, so a member that claims more is lying (RFC 1951: 258 bytes in two bits).
_DEFLATE_LIMIT = 1032


@dataclass(frozen=True)
class Blob:
    """A file as a range of bytes.

    Attributes:
      name: the file as messages call it.
      size: bytes in all.
      read: (offset, length) -> read-only uint8 array; a view of the mapped file where it is local. CheckpointError where the
        range leaves the file.
    """

    name: str
    size: int
    read: Callable[[int, int], UInt8[np.ndarray, ' length']]

    def array(self, offset: int, dtype: np.dtype, shape: Sequence[int], what: str) -> np.ndarray:
        """The row-major array that starts at `offset`; CheckpointError where the file is too short for it."""
        length = math.prod(shape) * dtype.itemsize
        if offset + length > self.size:
            raise CheckpointError(
                f'{self.name}: {what} needs bytes {offset} to {offset + length}, but the file has {self.size}. '
                'It is truncated or damaged: download or copy it again.'
            )
        return as_array(self.read(offset, length), dtype, shape)

    def file(self) -> io.BufferedReader:
        """The bytes as a seekable binary file."""
        return io.BufferedReader(_BlobFile(self), buffer_size=1 << 16)


def as_array(raw: UInt8[np.ndarray, ' length'], dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """`raw` seen as a row-major array; copied only where its address is not aligned for `dtype`."""
    array = np.frombuffer(raw, dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def open_blob(path: epath.Path, name: str) -> Blob:
    """Opens a local or remote (`gs://`) file for reading by range.

    Raises:
      CheckpointError: no such file, not readable, or empty.
    """
    try:
        if '://' in os.fspath(path):
            return _remote(path, name)
        local = os.fspath(path)
        if os.path.getsize(local) == 0:  # noqa: PTH202
            raise CheckpointError(f'{name}: the file is empty. Download or copy it again.')
        mapped = np.memmap(local, np.uint8, 'r').view(np.ndarray)
    except (OSError, ImportError) as error:
        raise CheckpointError(f'{name}: cannot be read ({error}).') from None
    return Blob(name, mapped.size, lambda offset, length: mapped[slice(*_range(name, mapped.size, offset, length))])


def _remote(path: epath.Path, name: str) -> Blob:
    handle = path.open('rb')
    size = handle.seek(0, io.SEEK_END)
    if not size:
        raise CheckpointError(f'{name}: the file is empty. Upload it again.')

    def read(offset: int, length: int) -> UInt8[np.ndarray, ' length']:
        _range(name, size, offset, length)
        try:
            handle.seek(offset)
            data = np.frombuffer(handle.read(length), np.uint8)
        except OSError as error:
            raise CheckpointError(f'{name}: cannot be read ({error}). Try again.') from None
        if data.size != length:
            raise CheckpointError(f'{name}: {length} bytes were asked for at {offset}, {data.size} came. Try again.')
        return data

    return Blob(name, size, read)


def _range(name: str, size: int, offset: int, length: int) -> tuple[int, int]:
    if offset < 0 or length < 0 or offset + length > size:
        raise CheckpointError(
            f'{name}: bytes {offset} to {offset + length} are asked for, but the file has {size}. It is truncated or damaged: download or copy it again.'
        )
    return offset, offset + length


class _BlobFile(io.RawIOBase):
    """A blob behind Python's file protocol, for zipfile and pickletools."""

    def __init__(self, blob: Blob):
        self._blob, self._at = blob, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._blob.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._blob.size - self._at))
        buffer[:length] = self._blob.read(self._at, length).data
        self._at += length
        return length


@dataclass(frozen=True)
class Member:
    """One file inside a zip archive: where its bytes lie in the archive, and what they should be."""

    name: str
    offset: int
    stored: int
    size: int
    deflated: bool
    crc: int


def zip_members(blob: Blob) -> dict[str, Member]:
    """The members of a zip archive by name, every claimed size checked against the archive's own.

    Raises:
      CheckpointError: truncated or damaged, encrypted, two members of one name, or a size that cannot be true.
    """
    try:
        with zipfile.ZipFile(blob.file()) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error) as error:
        raise CheckpointError(
            f'{blob.name}: begins like a zip archive (torch or npz), but its directory at the end is missing or damaged ({error}; '
            f'the file has {blob.size} bytes). It is truncated: download or copy it again.'
        ) from None
    members: dict[str, Member] = {}
    for info in infos:
        if info.filename in members:
            raise CheckpointError(f'{blob.name}: the archive holds two members named {info.filename!r}.')
        members[info.filename] = _member(blob, info)
    return members


def _member(blob: Blob, info: zipfile.ZipInfo) -> Member:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f'{blob.name}: member {info.filename!r} is encrypted or compressed in a way that is not supported.')
    header = blob.read(info.header_offset, 30).tobytes()
    if header[:4] != b'PK\x03\x04':
        raise CheckpointError(
            f'{blob.name}: member {info.filename!r} is not where the directory says ({info.header_offset}). The file is damaged.'
        )
    name_length, extra_length = struct.unpack('<HH', header[26:30])
    offset = info.header_offset + 30 + name_length + extra_length
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    most = info.compress_size * _DEFLATE_LIMIT + 64 if deflated else info.compress_size
    if offset + info.compress_size > blob.size or info.file_size > most:
        raise CheckpointError(
            f'{blob.name}: member {info.filename!r} claims {info.file_size} bytes ({info.compress_size} in the archive at {offset}), '
            f'but the file has only {blob.size}. It is truncated or damaged: download or copy it again.'
        )
    return Member(info.filename, offset, info.compress_size, info.file_size, deflated, info.CRC)


def read_member(blob: Blob, member: Member, first: int | None = None) -> UInt8[np.ndarray, ' length']:
    """The bytes of a member: a view of the file where it is stored, decompressed where it is deflated.

    Args:
      blob: the archive.
      member: one of its `zip_members`.
      first: only the first so many bytes, unchecked; None reads all and compares the checksum.

    Raises:
      CheckpointError: damaged data.
    """
    data = blob.read(member.offset, member.stored if member.deflated or first is None else min(first, member.size))
    if member.deflated:
        most = max(1, member.size if first is None else first)  # 0 would mean no limit
        try:
            data = np.frombuffer(zlib.decompressobj(-15).decompress(data.data, most), np.uint8)
        except zlib.error as error:
            raise CheckpointError(f'{blob.name}: member {member.name!r} cannot be decompressed ({error}). The file is damaged.') from None
    if first is None and (data.size != member.size or zlib.crc32(data.data) != member.crc):
        raise CheckpointError(
            f'{blob.name}: the data of member {member.name!r} do not match their checksum (CRC-32). The file is damaged '
            '(or was written with checksums switched off): download or copy it again.'
        )
    return data

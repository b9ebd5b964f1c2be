"""Pictures in files: what the sources that name them one by one share."""

import hashlib
from dataclasses import dataclass

import numpy as np
from etils import epath

from jtl.data.base import Example
from jtl.data.images import decode, verify


def place_of(root: str, file: str) -> epath.Path:
    """Where a file lies that is named relative to a folder, or absolutely (`gs://` too)."""
    return epath.Path(file) if '://' in file else epath.Path(root) / file


@dataclass(frozen=True)
class FileExamples:
    """Examples read from files, a file at every access."""

    root: str
    files: tuple[str, ...]  # relative to root, or absolute
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return {'image': decode(place_of(self.root, self.files[index])), 'label': self.targets[index]}

    def digest(self, index: int) -> bytes:
        """SHA-256 of the file, after a look whether it can be read to its end."""
        path = place_of(self.root, self.files[index])
        try:
            content = path.read_bytes()
        except OSError:
            content = b''
        verify(content, str(path))
        return hashlib.sha256(content).digest()

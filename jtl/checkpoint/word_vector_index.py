"""Word vectors as a 2-d `.npy` with an index beside it. The array is mapped into memory: only the rows that are wanted are read."""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from etils import epath

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.blob import as_array, open_blob
from jtl.checkpoint.npz_file import HEADER_LIMIT, npy_header
from jtl.checkpoint.word_vector_files import DAMAGED, MAX_DIM, NPY, Found, finite, lines, reading
from jtl.errors import UserError, some_of

INDEX_SUFFIXES = ('.txt', '.vocab', '.json', '.parquet')
"""Of the index beside an array, in order of preference."""


def read_npy(path: epath.Path, name: str, wanted: Collection[bytes]) -> Found:
    """The rows of the words `wanted`; of a word that the index has twice, the first.

    The index is the file of the array's name with one of INDEX_SUFFIXES, or the only file beside it with one of these:

    - `.txt`, `.vocab`: a word a line;
    - `.json`: a list of words, or a mapping from word to row;
    - `.parquet`: one column of words, read by pyarrow, which tensorflow-datasets brings.

    A JSON index is whole in memory while it is read; the others are not.

    Args:
      path: of the array, (words, numbers) of any float dtype; local or remote.
      name: of the array, for messages.
      wanted: words as UTF-8.

    Raises:
      CheckpointError: an array of another kind, truncated, or with an index that is damaged, of another length, or not there.
    """
    blob = open_blob(path, name)
    dtype, shape, fortran, start = npy_header(blob.read(0, min(blob.size, HEADER_LIMIT)).tobytes(), name)
    if len(shape) != 2 or not shape[0] or not 1 <= shape[1] <= MAX_DIM or dtype.kind in 'biucUS':
        raise CheckpointError(f'{name}: {dtype} {shape}; word vectors are floats (words, numbers), at most {MAX_DIM:,} numbers a word.')
    count, dim = shape
    whole = count * dim * dtype.itemsize
    if start + whole != blob.size:
        raise CheckpointError(f'{name}: {dtype} {shape} needs {whole:,} bytes, but {blob.size - start:,} follow its header. {DAMAGED}')
    index = _index_of(path, name)
    beside = f'{name}: its index {index.name}'
    places = _places(index, beside, wanted, count)
    if fortran:
        array = as_array(blob.read(start, whole), dtype, (dim, count)).T
        rows = {word: array[row] for word, row in places.items()}
    else:
        width = dim * dtype.itemsize
        rows = {word: as_array(blob.read(start + row * width, width), dtype, (dim,)) for word, row in places.items()}
    return Found(NPY, dim, {word: finite(row, f'{name}, row {places[word]:,}') for word, row in rows.items()})


def _index_of(path: epath.Path, name: str) -> epath.Path:
    for suffix in INDEX_SUFFIXES:
        if (path.parent / (path.stem + suffix)).is_file():
            return path.parent / (path.stem + suffix)
    others = sorted(other for other in path.parent.iterdir() if other.suffix in INDEX_SUFFIXES)
    if len(others) == 1:
        return others[0]
    found = f'which of these it is cannot be told: {some_of([other.name for other in others])}' if others else 'there is none'
    raise CheckpointError(
        f'{name}: an array needs an index beside it, the words of its rows; {found}. '
        f'Name it {path.stem} with one of {", ".join(INDEX_SUFFIXES)}.'
    )


def _places(index: epath.Path, name: str, wanted: Collection[bytes], count: int) -> dict[bytes, int]:
    """The row of each word that is wanted and there."""
    if index.suffix == '.json':
        words = _json_words(index, name)
        if isinstance(words, dict):
            return _mapped(words, name, wanted, count)
    else:
        words = _parquet_words(index, name) if index.suffix == '.parquet' else _text_words(index, name)
    places: dict[bytes, int] = {}
    rows = 0
    for word in words:
        if word in wanted and word not in places:
            places[word] = rows
        rows += 1
    _check_count(name, rows, count)
    return places


def _mapped(words: dict[bytes, Any], name: str, wanted: Collection[bytes], count: int) -> dict[bytes, int]:
    _check_count(name, len(words), count)
    for word, row in words.items():
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < count:
            raise CheckpointError(f'{name}: {word.decode(errors="replace")!r} has row {row!r}, but the rows are 0 to {count - 1:,}.')
    return {word: row for word, row in words.items() if word in wanted}


def _check_count(name: str, found: int, count: int) -> None:
    if found != count:
        raise CheckpointError(f'{name} has {found:,} words, but the array has {count:,} rows: they do not belong together.')


def _text_words(index: epath.Path, name: str) -> Iterator[bytes]:
    with reading(index, name) as file:
        for _, line in lines(file, name):
            yield line.rstrip(b'\r\n')


def _json_words(index: epath.Path, name: str) -> Iterable[bytes] | dict[bytes, Any]:
    try:
        with reading(index, name) as file:
            found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{name} is no JSON ({error!s:.100}). {DAMAGED}') from None
    if isinstance(found, dict):
        return {_utf8(word): row for word, row in found.items()}
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise CheckpointError(f'{name} is neither a list of words nor a mapping from word to row.')
    return map(_utf8, found)


def _parquet_words(index: epath.Path, name: str) -> Iterator[bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f'{name} is read by pyarrow, which is not installed. Install it: pip install pyarrow') from None
    with reading(index, name) as file:
        try:
            table = parquet.ParquetFile(file)
            columns = table.schema_arrow
            if len(columns) != 1:
                raise CheckpointError(f'{name} has the columns {some_of(columns.names)}; it should have one, the words in row order.')
            for batch in table.iter_batches():
                for word in batch.column(0).to_pylist():
                    if not isinstance(word, str):
                        raise CheckpointError(f'{name}: {word!r} in the column {columns.names[0]} is no word.')
                    yield _utf8(word)
        except pyarrow.ArrowException as error:
            raise CheckpointError(f'{name} is no parquet file that pyarrow can read ({error!s:.100}). {DAMAGED}') from None


def _utf8(word: str) -> bytes:
    return word.encode(errors='surrogatepass')

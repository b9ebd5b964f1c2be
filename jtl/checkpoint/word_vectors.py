"""Word vectors as a checkpoint of one array, a row for each word of a vocabulary."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jaxtyping import Float32

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.sources import hub_file, hub_place, in_package, package_folders
from jtl.checkpoint.word_vector_files import NPY, read_lines_or_binary, word_vector_format
from jtl.checkpoint.word_vector_index import INDEX_SUFFIXES, read_npy
from jtl.errors import UserError, did_you_mean, some_of

MISSING = ('normal', 'zeros')
PADDING = ('', '[PAD]', '<pad>', '<PAD>')
"""Words that stand for no word: filling, and ids that a tokenizer does not use."""

_SUFFIXES = ('.txt', '.vec', '.bin', '.npy', '.gz')  # what may be word vectors where no file is named


def open_word_vectors(where: str, words: Sequence[str], *, missing: str = 'normal', seed: int = 0) -> Checkpoint:
    """The vectors of a vocabulary, out of a file that may be larger than memory: what is kept is the rows of these words.

    Read are GloVe, fastText (`.vec`) and word2vec text, word2vec binary, and `.npy` with its index; see `word_vector_files` and
    `word_vector_index`.

    A word is looked up as it is, then in lower case. Of a word that the file has twice, the first counts. PADDING gets zeros.
    Words that the file lacks, special tokens such as '[UNK]' among them, are drawn from a normal distribution around zero with the
    deviation of the found vectors (all their numbers together), each from a key of its own made of `seed` and the word, so that neither
    the order of the vocabulary nor other missing words change them; or are zero.

    Args:
      where: a file (also `gs://...`), a folder or `package:name` with one file of word vectors in it, `package:name/file`, or
        `hf://owner/name[@revision]/file`.
      words: in row order.
      missing: 'normal' or 'zeros', for words that the file lacks.
      seed: of what is drawn.

    Returns:
      A checkpoint with the one key `embedding` (len(words), dim) float32; `metadata['note']` is a sentence that tells how many words were
      found, and what the others got.

    Raises:
      CheckpointError: not there, damaged, or without a vector for any of the words.
      UserError: an option out of range; the package or the Hub cannot be reached.
    """
    if missing not in MISSING:
        raise UserError(f'missing: one of {", ".join(MISSING)}, found {missing!r}.')
    path = _located(where)
    if path is None:
        raise CheckpointError(f'{where}: there are no word vectors here. {_hint(where)}'.rstrip())
    name = where if where.endswith(path.name) else f'{where} ({path.name})'
    real = [word for word in words if word not in PADDING]
    wanted = {_utf8(spelling) for word in real for spelling in (word, word.lower())}
    form = word_vector_format(path, name)
    found = read_npy(path, name, wanted) if form == NPY else read_lines_or_binary(path, name, wanted, form)

    sources = {word: next((key for key in (_utf8(word), _utf8(word.lower())) if key in found.rows), None) for word in real}
    used = sorted({key for key in sources.values() if key is not None})
    if not used:
        raise CheckpointError(
            f'{name}: it has a vector for none of the {len(real):,} words, such as {some_of(real)}. Is it of this language?'
        )
    deviation = _deviation([found.rows[key] for key in used])
    table = np.zeros((len(words), found.dim), np.float32)
    for row, word in zip(table, words, strict=True):
        key = sources.get(word)
        if key is not None:
            row[:] = found.rows[key]
        elif word not in PADDING and missing == 'normal':
            row[:] = deviation * _drawn(seed, word, found.dim)
    exact = sum(key == _utf8(word) for word, key in sources.items())
    lowered = sum(key is not None for key in sources.values()) - exact
    note = _note(name, len(sources), exact, lowered, f'{deviation:.2g}' if missing == 'normal' else '', len(real) < len(words))
    specs = {'embedding': jax.ShapeDtypeStruct(table.shape, table.dtype)}
    return Checkpoint(where, found.format, specs, lambda key: table, {'note': note})


def looks_like_word_vectors(where: str) -> bool:
    """Whether word vectors are what lies at a place, by the content; False too where nothing is there.

    Raises:
      UserError: the package or the Hub cannot be reached, or several files of a folder or package are word vectors.
    """
    path = _located(where)
    return path is not None and word_vector_format(path, where) is not None


def _located(where: str) -> epath.Path | None:
    """The file that is meant; None where there is none."""
    if where.startswith('hf://'):
        return _on_hub(where)
    if where.startswith('package:'):
        _, file, folders = package_folders(where)
        place = in_package(folders, file) if file else None
        if file and (place is None or place.is_file()):
            return place and epath.Path(place)
        files: Iterable[Path] = (path for folder in ([place] if place else folders) for path in folder.rglob('*'))
        return _only(where, map(epath.Path, files))
    try:
        path = epath.Path(where).expanduser()
        return _only(where, path.iterdir()) if path.is_dir() else path if path.exists() else None
    except OSError as error:
        raise CheckpointError(f'{where}: cannot be read ({error.strerror or error}).') from None


def _only(where: str, files: Iterable[epath.Path]) -> epath.Path | None:
    """The one file of word vectors among these. UserError where there are several."""
    found = [path for path in sorted(files) if path.suffix in _SUFFIXES and path.is_file() and word_vector_format(path, str(path))]
    if len(found) > 1:
        raise UserError(f'{where}: {len(found)} files of word vectors: {some_of([path.name for path in found])}. Name one of them.')
    return found[0] if found else None


def _on_hub(where: str) -> epath.Path | None:
    repo, revision, file = hub_place(where)
    if not file:
        return None
    path = hub_file(where, repo, revision, file)
    if path.suffix == '.npy':
        for suffix in INDEX_SUFFIXES:  # its index comes to lie beside it, if it has this name
            with contextlib.suppress(UserError):
                hub_file(where, repo, revision, file.removesuffix('.npy') + suffix)
    return path


def _hint(where: str) -> str:
    if where.startswith(('hf://', 'package:')):
        return f'Name the file: {where.rstrip("/")}/<file>.'
    path = epath.Path(where).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        return f'Looked for files ending in {", ".join(_SUFFIXES)}.' if path.is_dir() else f'There is no directory {path.parent}.'
    return did_you_mean(path.name, [other.name for other in path.parent.iterdir()])


def _deviation(rows: Sequence[Float32[np.ndarray, ' d']]) -> float:
    """The standard deviation of all numbers, without another copy of them."""
    count = sum(row.size for row in rows)
    mean = sum(float(row.sum(dtype=np.float64)) for row in rows) / count
    return (sum(float(np.square(row - mean, dtype=np.float64).sum()) for row in rows) / count) ** 0.5


def _drawn(seed: int, word: str, dim: int) -> np.ndarray:
    key = hashlib.blake2b(f'{seed} '.encode() + _utf8(word), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, 'little'))).standard_normal(dim)


def _note(name: str, words: int, exact: int, lowered: int, deviation: str, padded: bool) -> str:
    rest = words - exact - lowered
    others = f'the other {rest:,} {"is" if rest == 1 else "are"} '
    others += f'drawn from a normal distribution with the deviation of the found vectors, {deviation}' if deviation else 'zero'
    said = [f'{exact + lowered:,} of {words:,} words have vectors (exact {exact:,}, lower-cased {lowered:,})']
    return f'{name}: ' + '; '.join([*said, *([others] if rest else []), *(['padding is zero'] if padded else [])])


def _utf8(word: str) -> bytes:
    return word.encode(errors='surrogatepass')

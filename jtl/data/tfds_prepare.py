"""Preparing TFDS data sets as array_record without TensorFlow.

TFDS 4.9 needs TensorFlow to open an archive (`tf.io.gfile`, in its extractor) although nothing in that work is TensorFlow's:
here archives are opened as plain files. What a definition itself does with TensorFlow stays out of reach: `tf.io.gfile` (mnist,
cifar10), and pictures handed over as arrays, which `features.Image` encodes with `tf.image`.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import tensorflow_datasets as tfds
from etils import epath

from jtl.errors import UserError


def preparation(name: str, data_dir: str) -> str:
    """The command that prepares a data set as array_record (that of TFDS, `tfds build`, wants apache-beam and mlcroissant too)."""
    call = f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record').download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'


def conversion(path: str) -> str:
    """The command that adds array_record files to a data set prepared as tfrecord, beside these; it runs where TensorFlow and apache-beam are."""
    return f'python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={path} --out_file_format=array_record'


def prepare(name: str, data_dir: epath.Path) -> Any:
    """Download and prepare a TFDS data set below `data_dir`; its `tfds.core.DatasetBuilder`.

    Archives that lie in `<data_dir>/downloads/manual` under their published names are not downloaded.

    Raises:
      UserError: a step that needs TensorFlow (which the message names), no network, wrong checksums, ...
    """
    try:
        with quiet():
            builder = tfds.builder(name, data_dir=str(data_dir), try_gcs=False, file_format='array_record')
            make = builder._make_download_manager
            builder._make_download_manager = lambda **options: without_tensorflow(make(**options))
            builder.download_and_prepare(
                download_dir=str(data_dir / 'downloads'), download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except ImportError as error:
        missing = 'TensorFlow' if (error.name or 'tensorflow') == 'tensorflow' else error.name
        raise UserError(
            f'data.download: preparing {name} needs {missing} ({_step(error)}). Prepare it once where {missing} is installed: '
            f'{preparation(name, "DIR")} and set data.root=DIR. Reading it needs no TensorFlow.'
        ) from None
    except Exception as error:  # network, checksums, missing manual downloads: each source fails in its own way
        raise UserError(
            f'data.download: {name} could not be prepared in {data_dir} ({type(error).__name__}: {first_line(error)}).'
        ) from None
    return builder


def without_tensorflow(manager: Any) -> Any:
    """The download manager, its archives opened as plain files."""

    def iter_archive(resource: Any) -> Iterator[tuple[str, Any]]:
        resource = _resource(resource)
        with epath.Path(resource.path).open('rb') as file:
            yield from tfds.core.download.extractor.iter_archive(file, resource.extract_method)

    def extract(resources: Any) -> Any:
        return jax.tree.map(lambda resource: _extract(_resource(resource), manager._extract_dir), resources)

    manager.iter_archive = iter_archive
    manager.extract = extract
    manager.download_and_extract = lambda urls: extract(manager.download(urls))
    return manager


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TFDS announces itself on stdout, draws bars, and warns of what is simply not prepared yet."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


def first_line(error: Exception) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _resource(path: Any) -> Any:
    return path if isinstance(path, tfds.download.Resource) else tfds.download.Resource(path=path)


def _extract(resource: Any, extract_dir: epath.Path) -> epath.Path:
    """Where the content of an archive lies; unpacked there once, by a rename, so that what is there is whole."""
    method, path = resource.extract_method, epath.Path(resource.path)
    if method == tfds.download.ExtractMethod.NO_EXTRACT:
        return path
    final = epath.Path(extract_dir) / f'{method.name}.{path.name}'
    if final.exists():
        return final
    aside = epath.Path(tempfile.mkdtemp(prefix='.extracting_', dir=extract_dir)) / 'content'
    try:
        with path.open('rb') as file:
            # TFDS's iterator leaves out absolute paths and those that climb out of the archive.
            for member, content in tfds.core.download.extractor.iter_archive(file, method):
                target = aside / member if member else aside  # .gz and .bz2 hold one nameless file
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open('wb') as out:
                    shutil.copyfileobj(content, out)
        aside.rename(final)
    finally:
        aside.parent.rmtree()
    return final


def _step(error: BaseException) -> str:
    """Which line of TFDS asked for the missing module, for the message."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get('__name__', '')
        if module.startswith('tensorflow_datasets.') and 'lazy_imports' not in module:
            lines.append(f'{module.removeprefix("tensorflow_datasets.")}, {trace.tb_frame.f_code.co_name}')
        trace = trace.tb_next
    return f'in {lines[-1]}' if lines else 'on import'

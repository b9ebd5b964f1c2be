"""Where checkpoints come from: content over names, directories, packages, the Hub (a fake one), buckets."""

import contextlib
import io
import json
import sys
from pathlib import Path

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization
from huggingface_hub import errors

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.beside import LIMIT
from jtl.checkpoint.blob import open_blob
from jtl.checkpoint.runs import RunCheckpoints
from jtl.checkpoint.sources import open_checkpoint
from jtl.checkpoint.torch_file import open_torch_zip
from jtl.errors import UserError

GOLDEN = Path(__file__).parent / 'golden'
W = {'w': np.arange(3, dtype=np.float32)}


def contents() -> dict[str, bytes]:
    npz = io.BytesIO()
    np.savez(npz, **W)
    return {
        'torch zip': (GOLDEN / 'zip.pth').read_bytes(),
        'torch legacy': (GOLDEN / 'legacy.pth').read_bytes(),
        'safetensors': safetensors.numpy.save(W),
        'flax msgpack': serialization.to_bytes(W),
        'npz': npz.getvalue(),
    }


@pytest.mark.parametrize('form', list(contents()))
def test_the_content_says_the_format_not_the_name(tmp_path, form):
    for name in ('model.bin', 'model.safetensors', 'noname'):
        (tmp_path / name).write_bytes(contents()[form])
        found = open_checkpoint(str(tmp_path / name))
        assert found.format == form
        assert found.origin == str(tmp_path / name)


@pytest.mark.parametrize(
    'content,message',
    [
        (b'', 'is empty'),
        (b'\x89HDF\r\n\x1a\n....', 'HDF5'),
        (b'GGUF....', 'GGUF'),
        (b'version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
        (b'\x93NUMPY\x01\x00', 'single array'),
        (b'\x1f\x8b\x08\x00', 'gzip'),
        (b'<!DOCTYPE html>', 'web page'),
        (b'\x80\x04K\x01.', 'Python pickle'),
        (b'{"a": 1}', 'weight_map'),
        (b'hello, world', 'not a checkpoint of a known format'),
        (b'PK\x03\x04 and no more', 'zip archive'),
        (b'\0' * 100, 'not a checkpoint of a known format'),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, message):
    (tmp_path / 'f').write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(tmp_path / 'f'))
    assert str(tmp_path / 'f') in str(caught.value)


def test_missing_paths(tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(contents()['safetensors'])
    with pytest.raises(CheckpointError, match=r"Did you mean 'model\.safetensors'"):
        open_checkpoint(str(tmp_path / 'modle.safetensors'))
    with pytest.raises(CheckpointError, match='no directory'):
        open_checkpoint(str(tmp_path / 'no' / 'where'))


def test_folders(tmp_path):
    with pytest.raises(CheckpointError, match='It holds: nothing'):
        open_checkpoint(str(tmp_path))
    (tmp_path / 'config.json').write_text('{}')
    (tmp_path / 'model.safetensors').write_bytes(contents()['safetensors'])
    assert np.array_equal(open_checkpoint(str(tmp_path)).read('w'), W['w'])
    (tmp_path / 'model.safetensors').rename(tmp_path / 'b.safetensors')
    (tmp_path / 'a.bin').write_bytes(contents()['torch zip'])
    with pytest.raises(CheckpointError, match=r'2 weight files: a\.bin, b\.safetensors'):
        open_checkpoint(str(tmp_path))


def test_a_folder_of_transformers_opens_as_on_the_hub(tmp_path):
    for other in ('training_args.bin', 'optimizer.pt', 'rng_state.pth'):
        (tmp_path / other).write_bytes(b'not to be opened')
    (tmp_path / 'config.json').write_text('{}')
    for name, form in (('flax_model.msgpack', 'flax msgpack'), ('pytorch_model.bin', 'torch zip'), ('model.safetensors', 'safetensors')):
        (tmp_path / name).write_bytes(contents()[form])
        assert open_checkpoint(str(tmp_path)).format == form


def test_runs_and_bundles(tmp_path):
    bundle = tmp_path / 'run' / 'bundle'
    bundle.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r'no bundle\.json'):
        open_checkpoint(str(tmp_path / 'run'))
    leaves = {'backbone/stem/conv/kernel': np.ones((3, 3, 1, 2), np.float32)}
    (bundle / 'bundle.json').write_text(json.dumps({'labels': ['cat', 'dog']}))
    with pytest.raises(CheckpointError, match=r'no model\.safetensors'):
        open_checkpoint(str(tmp_path / 'run'))
    safetensors.numpy.save_file(leaves, bundle / 'model.safetensors')
    for where in (tmp_path / 'run', bundle):
        found = open_checkpoint(str(where))
        assert found.format == 'jtl bundle'
        assert found.metadata == {'labels': ['cat', 'dog']}
        assert list(found.specs) == ['backbone/stem/conv/kernel']
    (bundle / 'bundle.json').write_text('{')
    with pytest.raises(CheckpointError, match='no JSON'):
        open_checkpoint(str(bundle))
    unfinished = tmp_path / 'unfinished'
    (unfinished / 'checkpoints').mkdir(parents=True)
    (unfinished / 'config.json').write_text('{}')
    with pytest.raises(CheckpointError, match='has not finished'):
        open_checkpoint(str(unfinished))


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / 'site' / 'some_weights'
    (root / 'models').mkdir(parents=True)
    (root / '__init__.py').write_text('raise RuntimeError("imported")')
    monkeypatch.syspath_prepend(str(tmp_path / 'site'))
    yield root
    assert 'some_weights' not in sys.modules


def test_packages(package):
    with pytest.raises(CheckpointError, match='holds no weight file'):
        open_checkpoint('package:some_weights')
    (package / 'models' / 'a.pth').write_bytes(contents()['torch legacy'])
    for where in ('package:some_weights', 'package:some-weights', 'package:some_weights/models/a.pth', 'package:some_weights/models'):
        found = open_checkpoint(where)
        assert (found.format, found.origin) == ('torch legacy', where)
    (package / 'b.safetensors').write_bytes(contents()['safetensors'])
    with pytest.raises(CheckpointError, match=r'2 weight files: b\.safetensors, models/a\.pth'):
        open_checkpoint('package:some_weights')
    with pytest.raises(CheckpointError, match=r"no file 'model/a\.pth'. Did you mean 'models/a\.pth'"):
        open_checkpoint('package:some_weights/model/a.pth')
    (package.parent / 'outside.safetensors').write_bytes(contents()['safetensors'])
    with pytest.raises(CheckpointError, match='no file'):
        open_checkpoint('package:some_weights/../outside.safetensors')
    (package / 'b.safetensors').write_bytes(contents()['safetensors'][:-1])
    with pytest.raises(CheckpointError, match=r'package:some_weights/b\.safetensors.*truncated'):
        open_checkpoint('package:some_weights/b.safetensors')


@pytest.mark.parametrize('name', ['no_such_weights', 'no-such-weights'])
def test_a_package_that_is_not_installed(name):
    with pytest.raises(UserError, match='pip install no-such-weights'):
        open_checkpoint(f'package:{name}')


def test_files_beside_the_weights(tmp_path):
    where = str(tmp_path / 'model.safetensors')
    (tmp_path / 'model.safetensors').write_bytes(contents()['safetensors'])
    found = open_checkpoint(where)
    assert found.beside('config.json') is None
    (tmp_path / 'config.json').write_bytes(b'{"a": "\xc3\xa9"}')
    assert found.beside('config.json') == open_checkpoint(str(tmp_path)).beside('config.json') == b'{"a": "\xc3\xa9"}', (
        'read when asked for'
    )
    (tmp_path.parent / 'outside.json').write_text('{}')
    for name in ('../outside.json', '..', '.', '', '..\\outside.json', str(tmp_path / 'config.json'), 'config.json\0'):
        with pytest.raises(CheckpointError, match='is not the name of a file beside') as caught:
            found.beside(name)
        assert str(caught.value).startswith(where)
    with (tmp_path / 'vocab.txt').open('wb') as file:
        file.truncate(LIMIT)  # without data on the disk
        assert len(found.beside('vocab.txt')) == LIMIT
        file.truncate(LIMIT + 1)
    with pytest.raises(CheckpointError, match=r'vocab\.txt beside the weights has 67,108,865 bytes'):
        found.beside('vocab.txt')


def test_files_beside_an_index_a_bundle_and_a_runs_checkpoint(tmp_path):
    sharded = tmp_path / 'sharded'
    sharded.mkdir()
    (sharded / 'model-1.safetensors').write_bytes(contents()['safetensors'])
    (sharded / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'w': 'model-1.safetensors'}}))
    (sharded / 'config.json').write_text('sharded')
    assert open_checkpoint(str(sharded)).beside('config.json') == b'sharded'
    run = tmp_path / 'run'
    with contextlib.closing(RunCheckpoints(run / 'checkpoints' / 'last')) as checkpoints:
        checkpoints.save(3, {'w': jnp.ones(3)}, {})
    (run / 'config.json').write_text('run')
    for place in ('', '/3', '/3/leaves'):
        assert open_checkpoint(f'{run}/checkpoints/last{place}').beside('config.json') == b'run'
    (run / 'bundle').mkdir()
    (run / 'bundle' / 'bundle.json').write_text('{}')
    (run / 'bundle' / 'tokenizer.json').write_text('tokenizer')
    (run / 'bundle' / 'model.safetensors').write_bytes(contents()['safetensors'])
    found = open_checkpoint(str(run))
    assert found.beside('tokenizer.json') == b'tokenizer' and found.beside('config.json') is None


class Hub:
    """A hub of one repository, as the two functions of huggingface_hub that are used."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.error, self.asked = folder, None, []
        monkeypatch.setattr(huggingface_hub, 'list_repo_files', self.list)
        monkeypatch.setattr(huggingface_hub, 'hf_hub_download', self.download)
        monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda repo, name, revision: self.cached.get(name))
        self.cached = {}

    def list(self, repo, revision=None):
        self.asked.append((repo, revision))
        if self.error:
            raise self.error
        return sorted(p.name for p in self.folder.iterdir())

    def download(self, repo, name, revision=None):
        self.asked.append((repo, name, revision))
        if name in self.cached:
            return self.cached[name]
        if self.error:
            raise self.error
        if not (self.folder / name).exists():
            raise errors.EntryNotFoundError(f'no {name}')
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / 'hub').mkdir()
    return Hub(tmp_path / 'hub', monkeypatch)


def test_hub_files_in_order_of_preference(hub):
    (hub.folder / 'README.md').write_text('x')
    with pytest.raises(CheckpointError, match=r'none of model\.safetensors.*It holds: README\.md'):
        open_checkpoint('hf://owner/name')
    (hub.folder / 'weights.npz').write_bytes(contents()['npz'])
    with pytest.raises(CheckpointError, match=r'Name one of its files: hf://owner/name/weights\.npz'):
        open_checkpoint('hf://owner/name')
    assert open_checkpoint('hf://owner/name/weights.npz').format == 'npz'
    for name, form in (('flax_model.msgpack', 'flax msgpack'), ('pytorch_model.bin', 'torch zip'), ('model.safetensors', 'safetensors')):
        (hub.folder / name).write_bytes(contents()[form])
        found = open_checkpoint('hf://owner/name')
        assert (found.format, found.origin) == (form, 'hf://owner/name')


def test_hub_revisions_and_folders(hub):
    (hub.folder / 'sub').mkdir()
    (hub.folder / 'sub' / 'x.safetensors').write_bytes(contents()['safetensors'])
    open_checkpoint('hf://owner/name@refs%2Fpr%2F1/sub/x.safetensors')
    assert hub.asked == [('owner/name', 'sub/x.safetensors', 'refs/pr/1')]


def test_hub_shards(hub):
    (hub.folder / 'model-1.safetensors').write_bytes(contents()['safetensors'])
    (hub.folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'w': 'model-1.safetensors'}}))
    found = open_checkpoint('hf://owner/name@v1')
    assert np.array_equal(found.read('w'), W['w'])
    assert ('owner/name', 'model-1.safetensors', 'v1') in hub.asked
    (hub.folder / 'model-1.safetensors').unlink()
    with pytest.raises(UserError, match=r'no such file \(no model-1\.safetensors\)'):
        open_checkpoint('hf://owner/name')


def response(code: int):
    library = sys.modules[errors.HTTPError.__module__.partition('.')[0]]
    return library.Response(code, request=library.Request('GET', 'http://localhost'))


@pytest.mark.parametrize(
    'error,message',
    [
        (lambda: errors.RepositoryNotFoundError('x', response=response(404)), 'no repository owner/name'),
        (lambda: errors.GatedRepoError('x', response=response(403)), 'is gated'),
        (lambda: errors.RevisionNotFoundError('x', response=response(404)), "no revision 'v9'"),
        (lambda: errors.OfflineModeIsEnabled('offline mode'), 'cannot be reached'),
        (lambda: errors.LocalEntryNotFoundError('x'), 'cannot be reached'),
        (lambda: ConnectionError('name resolution'), 'cannot be reached'),
        (lambda: errors.HFValidationError('bad id'), 'bad id'),
    ],
)
def test_hub_errors_in_the_users_words(hub, error, message):
    hub.error = error()
    for where in ('hf://owner/name@v9', 'hf://owner/name@v9/model.safetensors'):
        with pytest.raises(UserError, match=message) as caught:
            open_checkpoint(where)
        assert str(caught.value).startswith(where)


def test_hub_offline_takes_what_is_cached(hub, tmp_path):
    (tmp_path / 'cached').write_bytes(contents()['torch zip'])
    hub.error = errors.OfflineModeIsEnabled('offline mode')
    hub.cached = {'pytorch_model.bin': str(tmp_path / 'cached')}
    assert open_checkpoint('hf://owner/name').format == 'torch zip'


def test_hub_files_beside_the_weights(hub):
    (hub.folder / 'model.safetensors').write_bytes(contents()['safetensors'])
    (hub.folder / 'config.json').write_text('config')
    found = open_checkpoint('hf://owner/name@v1')
    asked = len(hub.asked)
    assert found.beside('config.json') == b'config' and hub.asked[asked:] == [('owner/name', 'config.json', 'v1')]
    assert found.beside('tokenizer.json') is None and len(hub.asked) == asked + 1, 'the listing says that it is not there'
    with pytest.raises(CheckpointError, match='is not the name of a file'):
        found.beside('../config.json')
    hub.error = errors.OfflineModeIsEnabled('offline mode')
    with pytest.raises(UserError, match='cannot be reached'):
        found.beside('config.json')


def test_hub_files_beside_a_named_file_are_those_of_its_folder(hub):
    (hub.folder / 'sub').mkdir()
    (hub.folder / 'sub' / 'x.safetensors').write_bytes(contents()['safetensors'])
    (hub.folder / 'config.json').write_text('above')
    found = open_checkpoint('hf://owner/name/sub/x.safetensors')
    assert found.beside('config.json') is None and hub.asked[-1] == ('owner/name', 'sub/config.json', None)
    (hub.folder / 'sub' / 'config.json').write_text('beside')
    assert found.beside('config.json') == b'beside'


def test_hub_offline_gives_what_is_cached_beside_the_weights(hub, tmp_path):
    for name, content in (('pytorch_model.bin', contents()['torch zip']), ('config.json', b'cached')):
        (tmp_path / name).write_bytes(content)
        hub.cached[name] = str(tmp_path / name)
    (hub.folder / 'tokenizer.json').write_text('not cached')
    hub.error = errors.LocalEntryNotFoundError('offline')
    found = open_checkpoint('hf://owner/name')
    assert found.beside('config.json') == b'cached' and found.beside('tokenizer.json') is None


@pytest.mark.parametrize('where', ['hf://owner', 'hf://', 'hf://owner/', 'hf://owner/name/', 'hf://owner/name@'])
def test_hub_addresses_that_are_none(hub, where):
    with pytest.raises(UserError, match='is written hf://owner/name'):
        open_checkpoint(where)
    assert not hub.asked


class Remote:
    """A path in a bucket, as far as a reader of bytes needs one."""

    def __init__(self, content: bytes):
        self.content = content

    def __fspath__(self):
        return 'gs://bucket/model.pth'

    def open(self, mode):
        assert mode == 'rb'
        return io.BytesIO(self.content)


def test_files_that_cannot_be_mapped():
    blob = open_blob(Remote(contents()['torch zip']), 'gs://bucket/model.pth')
    found = open_torch_zip(blob, 'gs://bucket/model.pth')
    local = open_checkpoint(str(GOLDEN / 'zip.pth'))
    assert found.specs == local.specs
    assert all(np.array_equal(found.read(key), local.read(key)) for key in local.specs)
    with pytest.raises(CheckpointError, match='empty'):
        open_blob(Remote(b''), 'gs://bucket/model.pth')

"""PyTorch files without PyTorch: golden files, and hostile ones written by hand."""

import copyreg
import dataclasses
import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from etils import epath

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.blob import open_blob
from jtl.checkpoint.sources import open_checkpoint
from jtl.checkpoint.torch_file import LEGACY_MAGIC, open_torch_legacy, open_torch_zip

GOLDEN = Path(__file__).parent / 'golden'
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = {
    'model_state.plain': BASE,
    'model_state.transposed': BASE.T,
    'model_state.strided': BASE[1:3, ::2],
    'model_state.shared': np.arange(6, 12, dtype=np.float32),
    'model_state.parameter': np.float32([0.5, 1.5, 2.5]),
    'model_state.half': np.arange(5, dtype=np.float16),
    'model_state.bf16': np.array([0, 0.5, 1, 1.5, 2], ml_dtypes.bfloat16),
    'model_state.int8': np.int8([-1, 2]),
    'model_state.int64': np.int64([2**40, -3]),
    'model_state.bool': np.array([True, False, True]),
    'model_state.scalar': np.array(7.0),
    'model_state.empty': np.zeros((0, 3), np.float32),
    'model_state.expanded': np.int32([[0, 1, 2], [0, 1, 2]]),
    'optimizer_state.slots.0': np.ones(2, np.float32),
}


def read_all(found: Checkpoint) -> dict[str, np.ndarray]:
    return {key: found.read(key) for key in found.specs}


@pytest.mark.parametrize('name', ['zip', 'legacy'])
def test_golden_files(name):
    found = open_checkpoint(str(GOLDEN / f'{name}.pth'))
    assert found.format == f'torch {name}'
    assert list(found.specs) == list(EXPECTED)
    for key, want in EXPECTED.items():
        array = found.read(key)
        assert (array.dtype, array.shape) == (want.dtype, want.shape) == (found.specs[key].dtype, found.specs[key].shape), key
        assert np.array_equal(array, want), key
        assert array.flags.c_contiguous
    assert found.metadata == {'optimizer_state.lr': 0.125, 'epoch': 3, 'note': 'golden'}


def test_torch_is_not_imported():
    code = f"""import sys; from jtl.checkpoint.sources import open_checkpoint
found = open_checkpoint({str(GOLDEN / 'zip.pth')!r}); [found.read(k) for k in found.specs]; assert 'torch' not in sys.modules"""
    subprocess.run([sys.executable, '-c', code], check=True)


# A pickle by hand: opcodes are documented in Python's pickletools.


def text(s: str) -> bytes:
    return b'X' + len(s.encode()).to_bytes(4, 'little') + s.encode()


def number(n: int) -> bytes:
    return b'I%d\n' % n


def numbers(*ns: int) -> bytes:
    return b'(' + b''.join(map(number, ns)) + b't'


def tensor(numel=4, start=0, shape=(4,), stride=(1,), storage=b'ctorch\nFloatStorage\n', key='0') -> bytes:
    pid = b'(' + text('storage') + storage + text(key) + text('cpu') + number(numel) + b't'
    rest = number(start) + numbers(*shape) + numbers(*stride) + b'\x89ccollections\nOrderedDict\n)R'
    return b'ctorch._utils\n_rebuild_tensor_v2\n(' + pid + b'Q' + rest + b'tR'


def state_dict(value: bytes) -> bytes:
    return b'\x80\x02}' + text('w') + value + b's.'


def write_zip(path: Path, pickled: bytes, data: bytes = b'\0' * 16, compression: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', pickled)
        archive.writestr('archive/data/0', data)
        archive.writestr('archive/version', '3\n')
    return str(path)


def write_legacy(path: Path, pickled: bytes, data: bytes = b'\0' * 16) -> str:
    head = b'\x80\x02' + LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps({'little_endian': True, 'protocol_version': 1001}, 2)
    path.write_bytes(head + pickled + pickle.dumps(['0'], 2) + (len(data) // 4).to_bytes(8, 'little') + data)
    return str(path)


WRITERS = pytest.mark.parametrize('write', [write_zip, write_legacy])


@WRITERS
def test_hand_made_files_read(tmp_path, write):
    data = np.arange(4, dtype=np.float32)
    found = open_checkpoint(write(tmp_path / 'f', state_dict(tensor()), data.tobytes()))
    assert np.array_equal(found.read('w'), data)
    found = open_checkpoint(write(tmp_path / 'g', state_dict(tensor(start=1, shape=(2,), stride=(2,))), data.tobytes()))
    assert np.array_equal(found.read('w'), [1, 3])


def test_compressed_members_read(tmp_path):
    data = np.arange(4, dtype=np.float32)
    where = write_zip(tmp_path / 'f', state_dict(tensor()), data.tobytes(), zipfile.ZIP_DEFLATED)
    assert np.array_equal(open_checkpoint(where).read('w'), data)


def bombs(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that run a shell command when unpickled, with the global each asks for."""
    command = f'touch {marker}'
    line = command.encode()
    return {
        'reduce': (b'\x80\x02cos\nsystem\n' + text(command) + b'\x85R.', 'os.system'),
        'inside a state dict': (state_dict(b'cos\nsystem\n' + text(command) + b'\x85R'), 'os.system'),
        'stack_global': (
            b'\x80\x04' + text('builtins') + text('exec') + b'\x93' + text(f'import os; os.system({command!r})') + b'\x85R.',
            'builtins.exec',
        ),
        'inst': (b"(S'" + line + b"'\nios\nsystem\n.", 'os.system'),
        'obj': (b'(cos\nsystem\n' + text(command) + b'o.', 'os.system'),
        'newobj': (b'\x80\x02csubprocess\nPopen\n(' + text('touch') + text(str(marker)) + b'l\x85\x81.', 'subprocess.Popen'),
        'pickle in pickle': (
            b'\x80\x02cpickle\nloads\nC' + bytes([len(line) + 20]) + b'cos\nsystem\n' + text(command) + b'\x85R.\x85R.',
            'pickle.loads',
        ),
        'getattr': (b'\x80\x02cbuiltins\ngetattr\ncos\nsystem\n' + text('x') + b'\x86R.', 'builtins.getattr'),
        'torch.load': (b'\x80\x02ctorch.serialization\nload\n' + text('x') + b'\x85R.', 'torch.serialization.load'),
        'dotted': (b'\x80\x04' + text('torch') + text('_utils.os.system') + b'\x93' + text(command) + b'\x85R.', 'torch._utils.os.system'),
    }


@pytest.mark.parametrize('kind', ['reduce', 'inside a state dict', 'stack_global', 'inst', 'obj'])
def test_the_bombs_are_live(tmp_path, kind):
    marker = tmp_path / 'ran'
    pickle.loads(bombs(marker)[kind][0])
    assert marker.exists()


@WRITERS
@pytest.mark.parametrize('kind', list(bombs(Path('x'))))
def test_bombs_are_refused_by_name_and_do_not_run(tmp_path, kind, write):
    marker = tmp_path / 'ran'
    pickled, asked = bombs(marker)[kind]
    where = write(tmp_path / 'bomb.pth', pickled)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(where)
    assert asked in str(caught.value)
    assert where in str(caught.value)
    assert not marker.exists()


def rebuilt() -> bytes:
    return b'ctorch._utils\n_rebuild_tensor_v2\n'


HOSTILE = {
    'attributes of a stand-in': state_dict(rebuilt() + b'}' + text('__defaults__') + b')sb'),
    'slots of a stand-in': state_dict(rebuilt() + b'N}' + text('_name') + text('os.system') + b's\x86b'),
    'state of a dtype': state_dict(b'ctorch\nfloat32\n(I3\n' + text('>') + b'NNNI8\nI8\nI0\ntb'),
    'state of a tensor': state_dict(tensor() + b'}' + text('x') + text('y') + b'sb'),
    'a dtype called': state_dict(b'ctorch\nfloat32\n)R'),
    'a marker called': state_dict(b'ctorch\nTensor\n)R'),
    'text called': state_dict(text('x') + b')R'),
    'rebuild by text': state_dict(
        b'ctorch._tensor\n_rebuild_from_type_v2\n(' + text('os.system') + b'ctorch\nTensor\n' + text('x') + b'\x85}tR'
    ),
    'a new stand-in': state_dict(rebuilt() + b')\x81'),
    'extension registry': b'\x80\x02\x82\x01.',
    'textual reference': b'\x80\x02Pmodule\n.',
    'reference to a module': b'\x80\x02(' + text('module') + text('a') + text('b') + text('c') + text('d') + b'tQ.',
    'huge memo': b'\x80\x02}r\xf0\xff\xff\xff.',
    'huge bytes': b'\x80\x05\x8e' + (1 << 40).to_bytes(8, 'little') + b'x.',
    'huge bytearray': b'\x80\x05\x96' + (1 << 40).to_bytes(8, 'little') + b'x.',
    'huge frame': b'\x80\x04\x95' + (1 << 40).to_bytes(8, 'little') + b'}.',
    'storage of 1 TB': state_dict(tensor(numel=1 << 38, shape=(1 << 38,))),
    'tensor of 1 TB': state_dict(tensor(shape=(1 << 38,))),
    'broadcast to 1 TB': state_dict(tensor(shape=(1 << 38,), stride=(0,))),
    'start outside': state_dict(tensor(start=1)),
    'negative start': state_dict(tensor(start=-4)),
    'negative stride': state_dict(tensor(stride=(-1,))),
    'negative shape': state_dict(tensor(shape=(-4,))),
    'strides outside': state_dict(tensor(shape=(2, 2), stride=(3, 1))),
    'fewer strides': state_dict(tensor(shape=(2, 2), stride=(1,))),
    'numel negative': state_dict(tensor(numel=-1, shape=(0,))),
    'storage that is not there': state_dict(tensor(key='7')),
    'path as storage': state_dict(tensor(key='../data.pkl')),
    'storage of a function': state_dict(tensor(storage=rebuilt())),
    'contains itself': b'\x80\x02}q\x00' + text('a') + b'h\x00s.',
    'a thousand million leaves': b'\x80\x02'
    + tensor()
    + b'q\x00'
    + b''.join(b'(h%bh%bl' % (bytes([i]), bytes([i])) + b'q%b' % bytes([i + 1]) for i in range(30))
    + b'.',
    'no end': b'\x80\x02}',
    'stack underflow': b'\x80\x02s.',
    'unknown opcode': b'\x80\x02\xff.',
    'no tensor': b'\x80\x02}.',
    'nothing': b'',
}


@WRITERS
@pytest.mark.parametrize('kind', list(HOSTILE))
def test_hostile_pickles_are_refused(tmp_path, kind, write):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(write(tmp_path / 'hostile.pth', HOSTILE[kind]))
    assert str(tmp_path / 'hostile.pth') in str(caught.value)
    # Nothing that a refused file did may stay behind: the next one is read as ever.
    data = np.arange(4, dtype=np.float32)
    assert np.array_equal(open_checkpoint(write(tmp_path / 'good', state_dict(tensor()), data.tobytes())).read('w'), data)


@WRITERS
def test_stand_ins_cannot_be_changed(tmp_path, write):
    for state in (b'N}' + text('_name') + text('torch.Size') + b's\x86b', b'N}' + text('other') + b'Ns\x86b'):
        both = b'\x80\x02}(' + text('w') + tensor() + text('x') + rebuilt() + state + b'u.'
        with pytest.raises(CheckpointError, match='changed by the file'):
            open_checkpoint(write(tmp_path / 'f', both))


@pytest.fixture
def registry():
    """os.system in the process-wide extension registry, and in its cache, from where a pickle takes it without asking for a name."""
    copyreg.add_extension('os', 'system', 240)
    pickle.loads(b'\x80\x02\x82\xf0.')
    yield
    copyreg.remove_extension('os', 'system', 240)
    copyreg.clear_extension_cache()


@WRITERS
def test_the_extension_registry_is_out_of_reach(tmp_path, registry, write):
    marker = tmp_path / 'ran'
    bomb = state_dict(b'\x82\xf0' + text(f'touch {marker}') + b'\x85R')
    with pytest.raises(CheckpointError, match='EXT1'):
        open_checkpoint(write(tmp_path / 'f', bomb))
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists()  # the bomb was live


@pytest.mark.parametrize('name', ['zip', 'legacy'])
def test_every_truncation_is_one_message(tmp_path, name):
    whole = (GOLDEN / f'{name}.pth').read_bytes()
    cut = tmp_path / 'cut.pth'
    for length in [*range(0, 40), *range(40, len(whole), 61), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r'cut\.pth'):
            open_checkpoint(str(cut))


def test_a_changed_byte_of_the_data_is_noticed(tmp_path):
    where = Path(write_zip(tmp_path / 'f', state_dict(tensor()), b'payload-payload-'))
    where.write_bytes(where.read_bytes().replace(b'payload-payload-', b'payload-pAyload-'))
    with pytest.raises(CheckpointError, match='checksum'):
        open_checkpoint(str(where)).read('w')


@pytest.mark.parametrize('name', ['zip', 'legacy'])
def test_changed_bytes_never_give_anything_but_arrays_or_one_message(tmp_path, name):
    whole = bytearray((GOLDEN / f'{name}.pth').read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 250):
        changed = whole.copy()
        changed[place] ^= int(rng.integers(1, 256))
        (tmp_path / 'f').write_bytes(changed)
        try:
            read_all(open_checkpoint(str(tmp_path / 'f')))
        except CheckpointError as error:
            assert '/f' in str(error)


@pytest.mark.parametrize('write,open_', [(write_zip, open_torch_zip), (write_legacy, open_torch_legacy)])
def test_listing_does_not_read_the_data(tmp_path, write, open_):
    where = write(tmp_path / 'f', state_dict(tensor(numel=1 << 20, shape=(1 << 20,))), b'\0' * (4 << 20))
    blob = open_blob(epath.Path(where), where)
    lengths = []

    def read(offset, length):
        lengths.append(length)
        return blob.read(offset, length)

    found = open_(dataclasses.replace(blob, read=read), where)
    assert sum(lengths) < 200_000
    assert found.read('w').shape == (1 << 20,)


def test_stored_data_are_mapped_and_read_only():
    blob = open_blob(epath.Path(GOLDEN / 'zip.pth'), 'zip.pth')
    array = open_torch_zip(blob, 'zip.pth').read('model_state.plain')
    assert np.shares_memory(array, blob.read(0, blob.size))
    assert not array.flags.writeable


def test_script_and_big_endian_archives_are_explained(tmp_path):
    for member, body, message in (('constants.pkl', b'x', 'TorchScript'), ('byteorder', b'big', 'big-endian')):
        where = write_zip(tmp_path / member, state_dict(tensor()))
        with zipfile.ZipFile(where, 'a') as archive:
            archive.writestr(f'archive/{member}', body)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(where)


def test_zip_members_that_lie(tmp_path):
    # A directory that claims more than the file has, at the place where it keeps the stored size of data/0.
    where = Path(write_zip(tmp_path / 'f', state_dict(tensor())))
    whole = where.read_bytes()
    entry = whole.index(b'PK\x01\x02', whole.index(b'PK\x01\x02') + 1)
    for field in (20, 24):
        lying = bytearray(whole)
        lying[entry + field : entry + field + 4] = (1 << 31).to_bytes(4, 'little')
        where.write_bytes(lying)
        with pytest.raises(CheckpointError):
            open_checkpoint(str(where))
    doubled = io.BytesIO(whole)
    with zipfile.ZipFile(doubled, 'a') as archive, pytest.warns(UserWarning, match='Duplicate'):
        archive.writestr('archive/data/0', b'1' * 16)
    where.write_bytes(doubled.getvalue())
    with pytest.raises(CheckpointError, match='two members'):
        open_checkpoint(str(where))

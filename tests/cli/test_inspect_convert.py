"""`jtl inspect` and `jtl convert` by their argument parsers."""

import argparse
import json

import numpy as np
import pytest

from jtl.checkpoint.sources import open_checkpoint
from jtl.checkpoint.write import write_checkpoint
from jtl.cli import convert, inspect
from jtl.errors import UserError

LEAVES = {f'layer.{i}.weight': np.full((4, 3), i, np.float32) for i in range(12)} | {'head.bias': np.zeros(5, np.int8), 'step': np.array(1)}


def call(command, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args, rest = parser.parse_known_args(words)
    return command.run(args, rest)


@pytest.fixture
def source(tmp_path):
    write_checkpoint(tmp_path / 'm.safetensors', LEAVES, 'safetensors')
    return str(tmp_path / 'm.safetensors')


def test_inspect_prints_a_short_table(source, capsys):
    assert call(inspect, source) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{source}: safetensors'
    assert lines[1] == '14 tensors, 150 parameters, 589 bytes'
    rows = [line.split() for line in lines[3:]]
    assert ['layer.{0...11}.weight', 'float32', '4', 'x', '3', '12', '144'] in rows
    assert ['head.bias', 'int8', '5', '1', '5'] in rows
    assert ['step', 'int64', 'scalar', '1', '1'] in rows
    assert len(rows) == 4


def test_inspect_json(source, capsys):
    assert call(inspect, source, '--json') == 0
    found = json.loads(capsys.readouterr().out)
    assert (found['format'], found['tensors'], found['parameters'], found['bytes']) == ('safetensors', 14, 150, 589)
    assert found['keys']['layer.7.weight'] == {'shape': [4, 3], 'dtype': 'float32'}
    assert len(found['keys']) == 14


@pytest.mark.parametrize('suffix', ['safetensors', 'npz', 'msgpack', 'orbax'])
def test_convert_by_suffix(source, tmp_path, suffix, capsys):
    target = str(tmp_path / f'out.{suffix}')
    assert call(convert, source, target) == 0
    assert '14 tensors' in capsys.readouterr().out
    found = open_checkpoint(target)
    assert set(found.specs) == set(LEAVES)
    assert all(np.array_equal(found.read(key), LEAVES[key]) for key in LEAVES)
    with pytest.raises(UserError, match=r'exists already.*--force'):
        call(convert, source, target)
    assert call(convert, source, target, '--force') == 0


def test_convert_by_format(source, tmp_path):
    assert call(convert, source, str(tmp_path / 'x'), '--format=npz') == 0
    assert open_checkpoint(str(tmp_path / 'x')).format == 'npz'


def test_wrong_use(source, tmp_path):
    with pytest.raises(UserError, match='says no format'):
        call(convert, source, str(tmp_path / 'x.pth'))
    with pytest.raises(UserError, match="'hdf5' is unknown"):
        call(convert, source, str(tmp_path / 'x'), '--format=hdf5')
    with pytest.raises(UserError, match='no such file'):
        call(convert, str(tmp_path / 'nowhere'), str(tmp_path / 'x.npz'))
    with pytest.raises(UserError, match='unknown arguments --colour'):
        call(inspect, source, '--colour')
    assert [p.name for p in tmp_path.iterdir()] == ['m.safetensors']

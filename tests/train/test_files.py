"""The run directory: files whole or not at all, one process at a time, and a log that a resume continues."""

import importlib.util
import json
import os

import pytest
from etils import epath

from jtl.errors import UserError
from jtl.train.files import RunFiles, RunLog, alone, read_json, run_files, write_json


def test_a_run_directory_is_absolute_and_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_files('runs/a').root == epath.Path(tmp_path / 'runs' / 'a')
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'--workdir: file is a file; give a directory'):
        run_files('file')


@pytest.mark.skipif(importlib.util.find_spec('gcsfs') is not None, reason='gcsfs is here')
def test_a_package_that_is_missing_is_named():
    with pytest.raises(UserError, match=r'--workdir: gs://bucket/run cannot be reached: .*gcsfs'):
        run_files('gs://bucket/run')


def test_one_process_at_a_time(tmp_path):
    files = run_files(str(tmp_path / 'new' / 'run'))
    with alone(files):
        with pytest.raises(UserError, match=r'new/run: another process is training in this run directory'), alone(files):
            pass
        with alone(run_files(str(tmp_path / 'other'))):
            pass
    with pytest.raises(ZeroDivisionError), alone(files):
        raise ZeroDivisionError
    with alone(files):
        assert list(files.root.iterdir()) == []  # it leaves nothing behind


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_directory_that_cannot_be_made(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r'--workdir: .*run cannot be made \(Permission denied\)'), alone(run_files(str(tmp_path / 'run'))):
        pass


def test_a_directory_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with (
        pytest.raises(UserError, match=r'--workdir: .*file/run cannot be made \(Not a directory\)'),
        alone(run_files(str(tmp_path / 'file' / 'run'))),
    ):
        pass


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = epath.Path(tmp_path / 'a' / 'b.json')
    write_json(path, {'x': [1, None]})
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_json(path, {'x': float('nan')})
    assert read_json(path) == {'x': [1, None]} and [p.name for p in path.parent.iterdir()] == ['b.json']


@pytest.mark.parametrize('content', [b'{"a"', b'\xff', b'3', b'[]'])
def test_what_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / 'x.json').write_bytes(content)
    with pytest.raises(UserError, match=r'x\.json'):
        read_json(epath.Path(tmp_path / 'x.json'))


def test_a_resumed_log_goes_on_after_the_step(tmp_path, capsys):
    files = RunFiles(epath.Path(tmp_path))
    row = {'phase': 0, 'phase_name': 'probe', 'train/loss': 1.0}
    with RunLog(files, 0, 10) as log:
        for step in (2, 4, 6):
            log.train_row({'step': step, **row}, batch_size=8)
        log.row({'step': 6, 'validation/loss': float('nan')})
    with files.metrics.open('a') as file:
        file.write('{"step": 8, "tr')  # cut by a kill
    with RunLog(files, 4, 10) as log:
        log.row({'step': 5, 'validation/loss': 2.0})
        log.say('one', 'two')
    found = [json.loads(line) for line in files.metrics.read_text().splitlines()]
    assert [r['step'] for r in found] == [2, 4, 5] and found[0]['examples_per_second'] > 0
    assert capsys.readouterr().err.splitlines()[-2:] == ['one', 'two']
    with RunLog(files, 0, 10):
        assert files.metrics.read_text() == ''


def test_events_after_the_step_resumed_from_are_hidden(tmp_path, monkeypatch):
    purged = []
    monkeypatch.setattr('jtl.train.files.Events', lambda folder, step: purged.append(step) or type('E', (), {'close': lambda self: None})())
    files = RunFiles(epath.Path(tmp_path))
    for first in (0, 7):
        with RunLog(files, first, 10):
            pass
    files.events.mkdir()
    with RunLog(files, 0, 10):  # killed before the first checkpoint: there are events of steps that come again
        pass
    assert purged == [None, 7, 0]

import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.report.logs import Events, MetricsFile, Progress, read_rows, truncate


def test_rows_are_on_disk_as_soon_as_written(tmp_path):
    path = tmp_path / 'run' / 'metrics.jsonl'
    with MetricsFile(path) as metrics:
        metrics.write({'step': 1, 'train/loss': np.float32(0.5), 'phase_name': 'probe'})
        assert [json.loads(line) for line in path.read_text().splitlines()] == [{'step': 1, 'train/loss': 0.5, 'phase_name': 'probe'}]
        metrics.write({'step': np.int64(2), 'train/loss': math.nan, 'grad_norm': math.inf})
        assert read_rows(path)[1] == {'step': 2, 'train/loss': None, 'grad_norm': None}


def test_appends_to_what_is_there(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    for step in (1, 2):
        with MetricsFile(path) as metrics:
            metrics.write({'step': step})
    assert [row['step'] for row in read_rows(path)] == [1, 2]


def test_a_row_needs_a_step(tmp_path):
    with MetricsFile(tmp_path / 'metrics.jsonl') as metrics, pytest.raises(ValueError, match="'step'"):
        metrics.write({'loss': 1.0})


def test_truncate_keeps_rows_up_to_the_step_byte_for_byte(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    lines = [f'{{"step":  {step}, "x": 0.10}}\n' for step in (1, 2, 2, 3, 4)]
    path.write_text(''.join(lines) + '{"step": 5, "tra')
    truncate(path, 2)
    assert path.read_text() == ''.join(lines[:3])
    assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_half_a_line_is_dropped_and_a_whole_one_without_newline_kept(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n{"step": 2, "loss": 0.')
    assert read_rows(path) == [{'step': 1}]
    with MetricsFile(path) as metrics:
        metrics.write({'step': 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 1}\n{"step": 2}')
    truncate(path, 9)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize('broken', ['{"step": 1, "lo', '[1]', '{"loss": 1}'])
def test_a_broken_line_that_is_not_the_last_is_an_error(tmp_path, broken):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(f'{{"step": 0}}\n{broken}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match=r'metrics\.jsonl, line 2: expected a JSON object'):
        read_rows(path)
    with pytest.raises(UserError):
        truncate(path, 5)
    assert len(path.read_text().splitlines()) == 3  # an error leaves the file alone


def test_no_file_means_no_rows(tmp_path):
    truncate(tmp_path / 'none.jsonl', 3)
    assert read_rows(tmp_path / 'none.jsonl') == []
    assert not list(tmp_path.iterdir())


def test_events_hold_the_numbers_and_purge_after_the_step(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with Events(tmp_path, step=10) as events:
        events.write({'step': 11, 'train/loss': 0.25, 'phase_name': 'probe', 'lr/head': None})
    (file,) = tmp_path.iterdir()
    raw, found = file.read_bytes(), []
    while raw:  # records: length (8), checksum (4), data, checksum (4)
        size = int.from_bytes(raw[:8], 'little')
        found.append(Event.FromString(raw[12 : 12 + size]))
        raw = raw[16 + size :]
    scalars = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    assert scalars == [(11, 'train/loss', 0.25)]
    # A session that starts at 11 hides what an earlier process wrote from 11 on.
    assert [e.step for e in found if e.session_log.status == 1] == [11]


def test_plain_progress_is_one_line_a_log():
    stream, now = io.StringIO(), iter([0.0, 30.0, 200.0])
    with Progress(1100, first=100, stream=stream, clock=lambda: next(now)) as progress:
        progress.step(101)
        progress.log(200, phase='probe', loss=0.51234, rate=812.3456)  # 100 steps in 30 s, 900 to go
        progress.say('validation accuracy 81 %')
        progress.log(1100, phase='full', loss=0.1, rate=12.0)
    assert stream.getvalue().splitlines() == [
        'step 200/1100 · probe · loss 0.5123 · 812 examples/s · 4:30 left',
        'validation accuracy 81 %',
        'step 1100/1100 · full · loss 0.1000 · 12 examples/s · 0.0 s left',
    ]


def test_a_bar_is_drawn_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '120')
    stream = Terminal()
    with Progress(10, stream=stream) as progress:
        progress.step(4)
        progress.log(4, phase='[probe]', loss=0.5, rate=100)
        progress.say('[red]not markup')
    text = stream.getvalue()
    assert '4/10' in text and '[probe]' in text and 'loss 0.5000' in text and '100 examples/s' in text and '[red]not markup' in text


def test_events_leave_torch_alone_where_it_is_installed(tmp_path):
    (tmp_path / 'torch.py').write_text(f'open({str(tmp_path / "imported")!r}, "w")\n')
    code = f"import sys\nfrom jtl.report.logs import Events\nEvents({str(tmp_path / 'events')!r}).close()\nprint('torch' in sys.modules)\nimport torch"
    done = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.strip() == 'False', done.stderr
    assert (tmp_path / 'imported').exists(), 'afterwards it can be imported'

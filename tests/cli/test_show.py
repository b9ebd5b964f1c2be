"""`jtl show` as a user types it."""

import subprocess
import sys

import pytest
from PIL import Image

from jtl.cli.main import main

CONFIG = """
from jtl import default_config

def get_config():
    config = default_config()
    config.model.update(channels=(4,), dense=(), image_size=8)
    config.data.update(name='digits', classes=('0', '1'))
    config.augment.update(crop=0.8, flip=True, mixup=0.2, cutmix=1.0)
    config.tune.recipe = 'lp_ft'
    config.steps, config.batch_size = 10, 8
    return config
"""


@pytest.fixture
def show(tmp_path, capsys, monkeypatch):
    (tmp_path / 'config.py').write_text(CONFIG)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(['show', '--config=config.py', *arguments])
        written = capsys.readouterr()
        assert 'Traceback' not in written.err
        return code, written.out, written.err

    return run


def test_a_sheet_is_drawn_and_its_place_said(show, tmp_path):
    code, out, _ = show('--phase=full', '--step=2', '--batches=2', '--pictures=4', '--output=sheets/digits.png')
    assert code == 0 and out.strip() == 'sheets/digits.png'
    sheet = Image.open(tmp_path / 'sheets' / 'digits.png')
    assert sheet.format == 'PNG' and sheet.height > sheet.width  # two rows of four pairs
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.py', 'sheets']  # no run directory


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--phase=probes'], "there is no phase 'probes'; the run has probe, full. Did you mean 'probe'"),
        (['--step=100'], 'the phase probe has the steps 0 to 2, found 100'),
        (['--step=-1'], 'found -1'),
        (['--pictures=0'], '--pictures: at least 1, found 0'),
        (['--batches=0'], '--batches: at least 1, found 0'),
        (['--output=sheet.jpg'], 'give a name that ends in .png, found sheet.jpg'),
        (['--output=config.py/sheet.png'], '--output: config.py/sheet.png cannot be written'),
        (['--config.augment.mixip=1.0'], "Did you mean 'mixup'"),
        (['--workdir=runs'], '--workdir'),
    ],
)
def test_wrong_use_is_one_message(show, arguments, said):
    code, _, err = show(*arguments)
    assert code == 2 and err.startswith('jtl show: ') and said in err


def test_help_imports_no_jax():
    code = 'import sys\nfrom jtl.cli.main import main\ntry: main(["show", "--help"])\nexcept SystemExit: pass\nprint("jax" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.endswith('False\n')

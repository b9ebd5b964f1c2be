"""Bad data and a head that does not fit, as a user meets them: one message on stderr, exit status 2, no run directory with results."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl.cli.main import main

CONFIG = """
from jtl import default_config


def get_config():
    config = default_config()
    config.model.update(name='convnet', image_size=8, channels=(2,), dense=(), image_channels=3)
    config.data.name = 'folder'
    config.steps, config.batch_size = 2, 4
    return config
"""
RNG = np.random.default_rng(0)


def tiff(pixels):
    """An uncompressed TIFF (H, W, C), by the standard: header, one directory, one strip."""
    height, width, channels = pixels.shape
    short, long = 3, 4
    tags = 10
    bits_at = 8 + 2 + 12 * tags + 4
    data_at = bits_at + 2 * channels
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, bits_at),
        (259, short, 1, 1),
        (262, short, 1, 2 if channels == 3 else 1),
        (273, long, 1, data_at),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, pixels.size),
        (284, short, 1, 1),
    ]
    head = b'II*\0' + struct.pack('<IH', 8, tags)
    directory = b''.join(struct.pack('<HHII', *entry) for entry in entries) + struct.pack('<I', 0)
    return head + directory + struct.pack(f'<{channels}H', *[8] * channels) + pixels.tobytes()


@pytest.fixture
def root(tmp_path):
    for label in ('cat', 'dog'):
        (tmp_path / 'data' / label).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / 'data' / label / f'{k}.png')
    (tmp_path / 'config.py').write_text(CONFIG)
    return tmp_path


@pytest.fixture
def fails(root, capsys):
    def fails(*overrides):
        """What `jtl train` says, which must be one message with exit status 2."""
        argv = [f'--config.{override}' for override in overrides]
        if not any(override.startswith('data.root=') for override in overrides):
            argv.append(f'--config.data.root={root / "data"}')
        assert main(['train', f'--config={root / "config.py"}', *argv, f'--workdir={root / "run"}']) == 2
        said = capsys.readouterr()
        assert 'Traceback' not in said.err and not (root / 'run' / 'result.json').exists()
        return said.err

    return fails


def test_unreadable_pictures(root, fails):
    whole = (root / 'data/cat/0.png').read_bytes()
    (root / 'data/cat/0.png').write_bytes(whole[: len(whole) // 2])
    (root / 'data/dog/1.png').write_bytes(b'')
    assert fails() == (
        'jtl train: data: 2 of the 12 examples opened cannot be read, and data.max_unreadable is 0:\n'
        f'  {root}/data/cat/0.png cannot be read: image file is truncated.\n'
        f'  {root}/data/dog/1.png cannot be read: it is no picture that Pillow knows.\n'
        'Mend or remove them, or set data.max_unreadable=2 to leave them out.\n'
    )


def test_a_wrong_number_of_channels(root, fails):
    five = RNG.integers(0, 256, (8, 8, 5), np.uint8)
    with Image.open(io.BytesIO(tiff(five[..., :3]))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), five[..., :3])  # what is written above is a TIFF
    (root / 'data/cat/9.tif').write_bytes(tiff(five))
    assert 'data/cat/9.tif cannot be read: it is a TIFF of 5 channels, a picture has 1 to 4.' in fails()
    np.savez(root / 'five.npz', train_images=five[None].repeat(8, 0), train_labels=np.arange(8) % 2)
    said = fails('data.name=arrays', f'data.root={root / "five.npz"}')
    assert said.startswith(
        'jtl train: The pictures have 5 channels, the model reads RGB. Set model.image_channels=5, or give pictures of 1 to 4'
    )
    said = fails('data.name=arrays', f'data.root={root / "five.npz"}', 'model.image_channels=6')
    assert said == 'jtl train: The pictures have 5 channels, the model reads 6: set model.image_channels=5.\n'
    colours = ('model.image_channels=5', 'augment.hue=0.1')
    assert 'colours are of grey or RGB pictures, the model reads 5' in fails('data.name=arrays', f'data.root={root / "five.npz"}', *colours)


def test_pictures_of_one_pixel(root, fails):
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(root / 'data/dog/3.png')
    assert f'  {root}/data/dog/3.png cannot be read: it has one pixel, which shows nothing.\nMend or remove them, or set' in fails()
    np.savez(root / 'one.npz', train_images=np.zeros((8, 1, 1, 3), np.uint8), train_labels=np.arange(8) % 2)
    said = fails('data.name=arrays', f'data.root={root / "one.npz"}')
    assert said == 'jtl train: arrays: images of train have one pixel each, which shows nothing, found shape (8, 1, 1, 3).\n'


def test_a_label_that_is_missing_and_a_class_that_train_lacks(root, fails):
    csv = root / 'data' / 'labels.csv'
    csv.write_text('path,label\ncat/0.png,cat\ncat/1.png,\n')
    said = fails('data.name=csv', f'data.root={csv}')
    assert said == f"jtl train: data.root: {csv}, line 3: the column 'label' is empty. Fill it, or remove the row.\n"
    csv.write_text('path,label,split\ncat/0.png,cat,train\ndog/0.png,dog,train\ncat/1.png,cats,validation\n')
    assert f"{csv}, line 4: 'cats' is no label of any training row. Did you mean 'cat'?" in fails('data.name=csv', f'data.root={csv}')
    for split, label in (('train', 'cat'), ('train', 'dog'), ('val', 'bird')):
        (root / 'split' / split / label).mkdir(parents=True)
        (root / 'split' / split / label / 'a.png').write_bytes((root / 'data/cat/0.png').read_bytes())
    assert "has a class folder 'bird' that" in fails(f'data.root={root / "split"}')


def test_a_head_of_other_classes(root, fails):
    """Of another number, and of the same number in another order, which no shape tells."""
    leaves = {
        'backbone/conv_0/conv/kernel': np.zeros((3, 3, 3, 2), np.float32),
        'backbone/conv_0/conv/bias': np.zeros(2, np.float32),
        'heads/main/output/kernel': np.zeros((2, 3), np.float32),
        'heads/main/output/bias': np.zeros(3, np.float32),
    }
    bundle = root / 'bundle'
    bundle.mkdir()
    described = {'format': 1, 'model': {}, 'task': {}, 'labels': ['ant', 'cat', 'dog'], 'preprocessing': PREPROCESSING}
    (bundle / 'bundle.json').write_text(json.dumps(described))
    save_file(leaves, bundle / 'model.safetensors')
    said = fails(f'init_from={bundle}', 'init_head=keep')
    assert 'mismatched  heads/main/output/kernel  heads/main/output/kernel  (2, 3) float32, needed (2, 2) float32' in said
    assert "a head for other classes starts new with config.init_head='new'" in said

    leaves |= {path: leaf[..., :2] for path, leaf in leaves.items() if path.startswith('heads/')}
    save_file({path: np.ascontiguousarray(leaf) for path, leaf in leaves.items()}, bundle / 'model.safetensors')
    (bundle / 'bundle.json').write_text(json.dumps({**described, 'labels': ['dog', 'cat']}))
    assert fails(f'init_from={bundle}', 'init_head=keep') == (
        "jtl train: config.init_head='keep': the head's outputs are dog, cat, the classes of the data cat, dog. "
        "Name the classes in the head's order (config.data.classes), or let a new head learn them: config.init_head='new'.\n"
    )
    argv = [f'--config.data.root={root / "data"}', f'--config.init_from={bundle}', '--config.init_head=keep']
    assert main(['plan', f'--config={root / "config.py"}', *argv, "--config.data.classes=('dog', 'cat')"]) == 0


PREPROCESSING = {
    'size': [8, 8], 'mean': [127.5] * 3, 'std': [127.5] * 3, 'scale': 1.0, 'channels': 'RGB', 'interpolation': 'bilinear', 'crop': 1.0
}  # fmt: skip

"""Generated data of the schema that each config reads, and overrides that make its net tiny."""

import io
from pathlib import Path

import config_texts
import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

import jtl
from jtl.config import parse

CONFIGS = Path(__file__).parents[1] / 'configs'

SMALL = {
    'bit_hyper_rule.py': ('model.depths=(1,)', 'model.width=32', 'model.image_size=32'),
    'clothing.py': ('model.depth=0.2', 'model.width=0.25', 'model.image_size=32', 'tune.recipe=probe'),
    'dinov2_probe.py': ('model.depth=1', 'model.width=32', 'model.heads=2', 'model.image_size=28', 'probe.k=3'),
    'resnet18_finetune.py': ('model.depths=(1,)', 'model.width=8', 'model.image_size=32'),
    'vgg16_classical.py': ('model.depths=(1,1)', 'model.width=8', 'model.image_size=32'),
    'vit_b16_pets.py': ('model.depth=1', 'model.width=32', 'model.heads=2', 'model.image_size=32'),
    'vtab_1k.py': ('model.depths=(1,)', 'model.width=32', 'model.image_size=32'),
}


def folder(root):
    """An image folder with the splits and more classes than one batch has."""
    random = np.random.default_rng(0)
    for split, count in (('train', 12), ('validation', 2), ('test', 2)):
        for label in ('hat', 'shirt', 'shoes'):
            place = root / split / label
            place.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(place / f'{k}.png')
    return root


def tfds_like(name, root, count=24):
    """Below `root`, a data set under TFDS's own name and version with the features of the real one and random content."""
    real = tfds.builder(name, data_dir=str(root))
    features = real.info.features

    def value(feature, k):
        if isinstance(feature, tfds.features.Image):
            file, random = io.BytesIO(), np.random.default_rng(k)
            shape = [side or 40 for side in feature.shape[:2]] + [feature.shape[2]]
            pixels = random.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels).save(file, 'png')
            return file.getvalue()
        if isinstance(feature, tfds.features.ClassLabel):
            return k % min(feature.num_classes, 4)  # some examples of each, so that a split has its share
        return f'{k}' if isinstance(feature, tfds.features.Text) else np.zeros(feature.shape, feature.np_dtype)

    with tfds.core.registered.skip_registration():  # the name is taken by the real one

        class Like(tfds.core.GeneratorBasedBuilder):
            VERSION = real.version
            pkg_dir_path = None

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=features, supervised_keys=real.info.supervised_keys, disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples() for split in ('train', 'test')}

            def _generate_examples(self):
                for k in range(count):
                    yield k, {key: value(feature, k) for key, feature in features.items()}

    Like.name = name
    Like(data_dir=str(root), file_format='array_record').download_and_prepare()
    return root


def config_on(name, root, *fields):
    """The config of a file, reading generated data below `root`: pictures from random weights, for what trains does not depend on them;
    texts from tiny checkpoints, for theirs say which net it is and how they are read."""
    argument = f':{config_texts.ARGUMENTS[name]}' if name in config_texts.ARGUMENTS else ''
    overrides = ['--config.batch_size=8', *(f'--config.{field}' for field in fields)]
    config = parse([f'--config={CONFIGS / name}{argument}', *overrides]).config
    if name in config_texts.SMALL:
        return config_texts.point(config, root)
    config.init_from = None
    if config.data.name == 'folder':
        config.data.root = str(root / 'pictures')
        if not (root / 'pictures').exists():
            folder(root / 'pictures')
    elif config.data.name != 'digits':
        config.data.root = str(root / 'tfds')
        if not (root / 'tfds' / config.data.name).exists():
            tfds_like(config.data.name, root / 'tfds')
    return config


def leaves_of(experiment):
    """Random parameters and plain statistics. (Compiling the initialisers takes longer than all else.)"""
    random = np.random.default_rng(0)
    leaves = {
        path: jax.numpy.asarray(random.normal(scale=0.1, size=spec.shape), spec.dtype) for path, spec in experiment.net.params.items()
    }
    return leaves | {path: jax.numpy.full(spec.shape, path.endswith('/var'), spec.dtype) for path, spec in experiment.net.stats.items()}


def trained(experiment, steps=2):
    """The trained parameters before the first step of a run, and the state after some steps."""
    frozen, state = jtl.start(experiment, leaves_of(experiment))
    before = jax.device_get(state.params)
    batches = jtl.batches(experiment)
    batch = next(batches)
    quick = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
    step = jtl.training_step(experiment).lower(frozen, state, batch).compile(compiler_options=quick)
    for _ in range(steps):
        state, batch = step(frozen, state, batch), next(batches)
    return before, state

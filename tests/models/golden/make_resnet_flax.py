"""Writes resnet_flax.msgpack and resnet_flax.npz: a tiny FlaxResNetForImageClassification, as transformers itself saves it, and its logits.

transformers 5 has no Flax classes; the last that have them want an older jax, so this runs in an environment of its own:

    python3.11 -m venv flax && flax/bin/pip install transformers==4.46.3 flax==0.8.5 jax==0.4.30 jaxlib==0.4.30
    flax/bin/python tests/models/golden/make_resnet_flax.py
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent
SIZE = (37, 52)  # odd and even sides, so that strides end in different ways


def main() -> None:
    """Run the original."""
    import golden_case
    from flax.traverse_util import flatten_dict, unflatten_dict
    from transformers import FlaxResNetForImageClassification, ResNetConfig

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[2, 1], layer_type='basic', num_labels=3)
    model = FlaxResNetForImageClassification(config, input_shape=(1, *SIZE, 3))
    model.params = unflatten_dict(
        {key: golden_case.weight(key, leaf.shape) for key, leaf in flatten_dict(model.params, sep='/').items()}, sep='/'
    )
    logits = np.asarray(model(golden_case.images(SIZE).transpose(0, 3, 1, 2)).logits)  # the class takes channels first
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        (GOLDEN / 'resnet_flax.msgpack').write_bytes((Path(directory) / 'flax_model.msgpack').read_bytes())
    versions = [f'{name} {version(name)}' for name in ('transformers', 'flax', 'jax')]
    np.savez_compressed(GOLDEN / 'resnet_flax.npz', logits=logits, versions=np.array(versions))
    print(f'logits {logits.round(3).tolist()}')


if __name__ == '__main__':
    sys.path.insert(0, str(GOLDEN.parent))
    main()

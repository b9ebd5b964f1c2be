"""Writes vit_<source>.* with tiny ViTs of transformers' Flax classes, vision_transformer and big_vision: files of their own, and logits.

transformers 5 has no Flax classes, and neither vision_transformer nor big_vision is on a package index. All run in one environment beside
checkouts of both: google-research/vision_transformer at 06862cdaf01e68e19de60c1853b3437a107d9c2c (vit_jax/models_vit.py) and
google-research/big_vision at 0b73d7b02f47d030d61362ef920fed15f36e7bba (big_vision/models/vit.py, and big_vision/utils.py, whose
`save_checkpoint` made the published files; it wants tensorflow for its GFile alone):

    python3.11 -m venv flax && flax/bin/pip install transformers==4.46.3 flax==0.8.5 jax==0.4.30 jaxlib==0.4.30 \
        numpy==1.26.4 scipy==1.13.1 einops ml_collections tensorflow
    PYTHONPATH=vision_transformer:big_vision flax/bin/python tests/models/golden/make_vit_flax.py
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent
SIZE = (8, 12)  # of 2 x 3 patches
SQUARE = (12, 12)  # as transformers' Flax classes have it

sys.path.insert(0, str(GOLDEN.parent))

import golden_case  # noqa: E402


def fill(params: Any) -> Any:
    """Weights by golden_case's rule, with tokens and positions as large as what they are added to."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    flat = {key: golden_case.weight(key, leaf.shape) for key, leaf in flatten_dict(params, sep='/').items()}
    return unflatten_dict({key: 4 * x if 'pos' in key or 'cls' in key else x for key, x in flat.items()}, sep='/')


def transformers_flax() -> np.ndarray:
    """The logits of FlaxViTForImageClassification; writes vit_flax.msgpack."""
    from transformers import FlaxViTForImageClassification, ViTConfig

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=SQUARE[0], patch_size=4, num_labels=3
    )
    model = FlaxViTForImageClassification(config)
    model.params = fill(model.params)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        (GOLDEN / 'vit_flax.msgpack').write_bytes((Path(directory) / 'flax_model.msgpack').read_bytes())
    return np.asarray(model(golden_case.images(SQUARE).transpose(0, 3, 1, 2)).logits)  # the class takes channels first


def published(params: Any) -> Any:
    """As the published files count the parts of a block, which are older than Linen: vit_jax reads them by `convert_pre_linen`."""
    import jax
    from flax.training.checkpoints import convert_pre_linen
    from flax.traverse_util import flatten_dict, unflatten_dict

    names = {'MultiHeadDotProductAttention_0': 'MultiHeadDotProductAttention_1', 'LayerNorm_1': 'LayerNorm_2', 'MlpBlock_0': 'MlpBlock_3'}
    old = unflatten_dict({tuple(names.get(part, part) for part in path): x for path, x in flatten_dict(params).items()})
    jax.tree.map(np.testing.assert_array_equal, dict(convert_pre_linen(old)), params)
    return old


def vision_transformer() -> np.ndarray:
    """The logits of vit_jax.models_vit; writes vit_vision_transformer.npz, and vit_vision_transformer_linen.npz as it is today."""
    import jax
    from big_vision.utils import save_checkpoint
    from vit_jax.models_vit import VisionTransformer

    model = VisionTransformer(
        num_classes=3,
        patches=SimpleNamespace(size=(4, 4)),
        hidden_size=8,
        transformer={'num_layers': 2, 'mlp_dim': 12, 'num_heads': 2, 'attention_dropout_rate': 0.0, 'dropout_rate': 0.0},
    )
    x = golden_case.images(SIZE)
    params = fill(model.init(jax.random.key(0), x, train=False)['params'])
    save_checkpoint(published(params), str(GOLDEN / 'vit_vision_transformer.npz'))
    save_checkpoint(params, str(GOLDEN / 'vit_vision_transformer_linen.npz'), compressed=True)
    return np.asarray(model.apply({'params': params}, x, train=False))


def big_vision(name: str, wrap: Any, **options: Any) -> np.ndarray:
    """The logits of big_vision.models.vit; writes the file `name` with what `wrap` makes of the parameters."""
    import jax
    from big_vision.models.vit import Model
    from big_vision.utils import save_checkpoint

    model = Model(3, width=8, depth=2, mlp_dim=12, num_heads=2, patch_size=(4, 4), **options)
    x = golden_case.images(SIZE)
    params = fill(model.init(jax.random.key(0), x)['params'])
    save_checkpoint(wrap(params), str(GOLDEN / name))
    return np.asarray(model.apply({'params': params}, x)[0])


def main() -> None:
    """Run the originals."""
    logits = {
        'flax': transformers_flax(),
        'vision_transformer': vision_transformer(),
        'big_vision_token': big_vision('vit_big_vision_token.npz', lambda params: params, pool_type='tok'),
        'big_vision_mean': big_vision(
            'vit_big_vision_mean.npz', lambda params: {'params': params}, pool_type='gap', posemb='sincos2d', rep_size=6
        ),
    }
    versions = [f'{name} {version(name)}' for name in ('transformers', 'flax', 'jax')]
    np.savez_compressed(GOLDEN / 'vit_logits.npz', versions=np.array(versions), **logits)
    for name, values in logits.items():
        print(f'{name}: logits {values.round(3).tolist()}')


if __name__ == '__main__':
    main()

"""Where the leaves of a ResNet lie in torchvision's, timm's, Hugging Face's and Keras's checkpoints."""

from collections.abc import Sequence
from typing import Any

from jtl.checkpoint.adapt import NameTable
from jtl.rules import as_rules

_TO_HWIO = ('transpose', 2, 3, 1, 0)
_STEM = ('channels',)  # the first kernel fits itself to the number of channels of the pictures
_TORCH_NORM = {'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
# Convolution and norm of a block, and where both of transformers' ResNets have them below the block.
_PARTS = {
    ('conv_1', 'bn_1'): 'layer.0',
    ('conv_2', 'bn_2'): 'layer.1',
    ('conv_3', 'bn_3'): 'layer.2',
    ('shortcut', 'shortcut_bn'): 'shortcut',
}

Rules = list[tuple[str, Any]]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def _table(name: str, detect: Sequence[str], rules: Rules, head: Rules, ignore: Sequence[str] = (), shapes: Shapes = ()) -> NameTable:
    return NameTable(
        name=name,
        detect=tuple(detect),
        rules=as_rules(rules, optional=True, origin=name),
        head=as_rules(head, optional=True, origin=name),
        ignore=tuple(ignore),
        shapes=shapes,
    )


def _torch_head(key: str) -> Rules:
    return [(r'heads/[^/]+/output/kernel', (f'{key}.weight', ('transpose', 1, 0))), (r'heads/[^/]+/output/bias', f'{key}.bias')]


def _torch_norms(norms: dict[str, str]) -> Rules:
    return [(f'backbone/{path}/{ours}', f'{key}.{theirs}') for path, key in norms.items() for ours, theirs in _TORCH_NORM.items()]


TORCH = _table(
    'torchvision or timm ResNet',
    ('conv1.weight', 'bn1.running_mean', 'layer1.0.conv1.weight', 'layer1.0.bn1.weight'),
    [
        (r'backbone/stem/conv/kernel', ('conv1.weight', _TO_HWIO, _STEM)),
        (r'backbone/layer_(\d+)_(\d+)/conv_(\d)/kernel', (r'layer\1.\2.conv\3.weight', _TO_HWIO)),
        (r'backbone/layer_(\d+)_(\d+)/shortcut/kernel', (r'layer\1.\2.downsample.0.weight', _TO_HWIO)),
        *_torch_norms(
            {
                r'stem/bn': 'bn1',
                r'layer_(\d+)_(\d+)/bn_(\d)': r'layer\1.\2.bn\3',
                r'layer_(\d+)_(\d+)/shortcut_bn': r'layer\1.\2.downsample.1',
            }
        ),
    ],
    _torch_head('fc'),
    (r'.*\.num_batches_tracked',),
)


def hugging_face(groups: int) -> NameTable:
    """ResNetForImageClassification of transformers, which counts groups and convolutions from 0.

    Args:
      groups: of like blocks.
    """
    kernels: Rules = [(r'backbone/stem/conv/kernel', ('resnet.embedder.embedder.convolution.weight', _TO_HWIO, _STEM))]
    norms = {r'stem/bn': 'resnet.embedder.embedder.normalization'}
    for i in range(groups):
        for ours, theirs in _PARTS.items():
            conv, bn = ours
            block = rf'resnet.encoder.stages.{i}.layers.\1.{theirs}'
            kernels.append((rf'backbone/layer_{i + 1}_(\d+)/{conv}/kernel', (f'{block}.convolution.weight', _TO_HWIO)))
            norms[rf'layer_{i + 1}_(\d+)/{bn}'] = f'{block}.normalization'
    return _table(
        'transformers ResNet',
        ('resnet.embedder.embedder.convolution.weight', 'resnet.encoder.stages.0.layers.0.layer.0.convolution.weight'),
        kernels + _torch_norms(norms),
        _torch_head('classifier.1'),
        (r'.*\.num_batches_tracked',),
    )


def hugging_face_flax(groups: int, bottleneck: bool) -> NameTable:
    """FlaxResNetForImageClassification of transformers 4: kernels lie as they do here; a basic block's convolutions are `layer_0`, `layer_1`.

    Args:
      groups: of like blocks.
      bottleneck: the kind of the blocks.
    """
    rules: Rules = [(r'backbone/stem/conv/kernel', ('params/resnet/embedder/embedder/convolution/kernel', _STEM))]
    norms = {r'stem/bn': 'resnet/embedder/embedder/normalization'}
    for i in range(groups):
        for ours, theirs in _PARTS.items():
            conv, bn = ours
            part = theirs.replace('.', '/') if bottleneck else theirs.replace('.', '/layer_')
            block = rf'resnet/encoder/stages/{i}/layers/\1/{part}'
            rules.append((rf'backbone/layer_{i + 1}_(\d+)/{conv}/kernel', f'params/{block}/convolution/kernel'))
            norms[rf'layer_{i + 1}_(\d+)/{bn}'] = f'{block}/normalization'
    for path, key in norms.items():
        rules += [(f'backbone/{path}/{leaf}', f'params/{key}/{leaf}') for leaf in ('scale', 'bias')]
        rules += [(f'backbone/{path}/{leaf}', f'batch_stats/{key}/{leaf}') for leaf in ('mean', 'var')]
    first = '0/layers/0/layer/0' if bottleneck else '0/layers/0/layer/layer_0'
    return _table(
        'transformers FlaxResNet',
        ('params/resnet/embedder/embedder/convolution/kernel', f'params/resnet/encoder/stages/{first}/convolution/kernel'),
        rules,
        [(rf'heads/[^/]+/output/{leaf}', f'params/classifier/1/{leaf}') for leaf in ('kernel', 'bias')],
    )


def keras(depths: Sequence[int]) -> NameTable:
    """ResNet50, ResNet101 and ResNet152 of keras.applications in a file that names its layers (`.h5`)."""
    norm = {'scale': 'gamma', 'bias': 'beta', 'mean': 'moving_mean', 'var': 'moving_variance'}
    rules: Rules = [(r'backbone/stem/conv/kernel', ('conv1_conv/kernel', _STEM)), (r'backbone/stem/conv/bias', 'conv1_conv/bias')]
    rules += [(f'backbone/stem/bn/{ours}', f'conv1_bn/{theirs}') for ours, theirs in norm.items()]
    for i, depth in enumerate(depths, 1):
        for j in range(depth):
            block, layer = f'backbone/layer_{i}_{j}', f'conv{i + 1}_block{j + 1}'
            rules.append((rf'{block}/conv_(\d)/(kernel|bias)', rf'{layer}_\1_conv/\2'))
            rules.append((rf'{block}/shortcut/(kernel|bias)', rf'{layer}_0_conv/\1'))
            rules += [(rf'{block}/bn_(\d)/{ours}', rf'{layer}_\1_bn/{theirs}') for ours, theirs in norm.items()]
            rules += [(f'{block}/shortcut_bn/{ours}', f'{layer}_0_bn/{theirs}') for ours, theirs in norm.items()]
    detect = ('conv1_conv/kernel', 'conv1_bn/moving_mean', 'conv2_block1_0_conv/kernel', 'conv2_block1_3_bn/gamma')
    return _table('Keras ResNet', detect, rules, [(rf'heads/[^/]+/output/{leaf}', f'predictions/{leaf}') for leaf in ('kernel', 'bias')])


def keras_by_place(depths: Sequence[int], width: int) -> NameTable:
    """The same in a file that counts its layers (`.weights.h5`, `.keras`): convolutions and norms each in the order of depth.

    Where a block has a shortcut of its own, it comes before the last convolution.
    """
    parts = [('stem/conv', 'stem/bn')]
    for i, depth in enumerate(depths, 1):
        for j in range(depth):
            names = ('conv_1', 'conv_2', *(() if j else ('shortcut',)), 'conv_3')
            parts += [(f'layer_{i}_{j}/{n}', f'layer_{i}_{j}/{n.replace("conv", "bn").replace("cut", "cut_bn")}') for n in names]
    rules: Rules = []
    for k, (conv, bn) in enumerate(parts):
        count = f'_{k}' if k else ''
        fit = () if k else (_STEM,)
        rules.append((f'backbone/{conv}/kernel', (f'layers/conv2d{count}/vars/0', *fit)))
        rules.append((f'backbone/{conv}/bias', f'layers/conv2d{count}/vars/1'))
        rules += [
            (f'backbone/{bn}/{leaf}', f'layers/batch_normalization{count}/vars/{n}')
            for n, leaf in enumerate(('scale', 'bias', 'mean', 'var'))
        ]
    last = f'layers/conv2d_{len(parts) - 1}/vars/0'
    inner = width * 2 ** (len(depths) - 1)
    return _table(
        'Keras ResNet, layers counted',
        ('layers/conv2d/vars/0', 'layers/batch_normalization/vars/3', last),
        rules,
        [(rf'heads/[^/]+/output/{leaf}', f'layers/dense/vars/{n}') for n, leaf in enumerate(('kernel', 'bias'))],
        shapes=((last, (1, 1, inner, 4 * inner)),),
    )

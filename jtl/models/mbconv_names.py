"""Where the leaves of inverted bottlenecks lie in the checkpoints of torchvision, timm, Hugging Face and Keras."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jtl.checkpoint.adapt import NameTable
from jtl.rules import as_rules

Module = tuple[str, str, str]
"""Our path of a module, its key in the checkpoint, and its kind, which is a key of the layout."""

HEAD = 'heads/[^/]+/output'

Layout = Mapping[str, Mapping[str, Any]]
"""For every kind of module: from our leaf to the end of the template, alone or followed by leaf functions."""


class Names(NamedTuple):
    """What the names of a block depend on: its group and its place there, both from 0, and which of its parts there are."""

    group: int
    place: int
    expands: bool
    squeezes: bool


_TO_HWIO = ('transpose', 2, 3, 1, 0)
_DEPTHWISE = ('transpose', 0, 1, 3, 2)  # Keras: (h, w, channels, 1)
_POINTWISE = (('squeeze', 0), ('squeeze', 0))  # a dense layer written as a 1 x 1 convolution
TORCH: Layout = {
    'first': {'kernel': ('.weight', _TO_HWIO, ('channels',))},
    'conv': {'kernel': ('.weight', _TO_HWIO)},
    'depthwise': {'kernel': ('.weight', _TO_HWIO)},
    'norm': {'scale': '.weight', 'bias': '.bias', 'mean': '.running_mean', 'var': '.running_var'},
    'pointwise': {'kernel': ('.weight', _TO_HWIO, *_POINTWISE), 'bias': '.bias'},
    'dense': {'kernel': ('.weight', ('transpose', 1, 0)), 'bias': '.bias'},
}
_KERAS_WEIGHTS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    'first': {'kernel': ('kernel', ('channels',))},
    'conv': {'kernel': ('kernel',)},
    'depthwise': {'kernel': ('kernel', _DEPTHWISE)},
    'norm': {'scale': ('gamma',), 'bias': ('beta',), 'mean': ('moving_mean',), 'var': ('moving_variance',)},
    'pointwise': {'kernel': ('kernel', *_POINTWISE), 'bias': ('bias',)},
    'dense': {'kernel': ('kernel',), 'bias': ('bias',)},
}
KERAS: Layout = {
    kind: {leaf: (f'/{weight}', *functions) for leaf, (weight, *functions) in leaves.items()} for kind, leaves in _KERAS_WEIGHTS.items()
}
KERAS_PLACES: Layout = {  # a layer's weights are numbered as it builds them
    kind: {leaf: (f'/vars/{i}', *functions) for i, (leaf, (_, *functions)) in enumerate(leaves.items())}
    for kind, leaves in _KERAS_WEIGHTS.items()
}
_KERAS_CLASSES = {'norm': 'batch_normalization', 'depthwise': 'depthwise_conv2d', 'dense': 'dense'}  # every other kind is a Conv2D
TORCH_IGNORE = (r'.*\.num_batches_tracked',)


def torchvision_block(path: str, key: str, names: Names) -> Iterator[Module]:
    """A block whose parts torchvision numbers, those that are not there left out."""
    there = {'expand': names.expands, 'depthwise': True, 'squeeze_excite': names.squeezes, 'project': True}
    for n, part in enumerate(part for part, is_there in there.items() if is_there):
        if part == 'squeeze_excite':
            yield f'{path}/{part}/reduce', f'{key}.{n}.fc1', 'pointwise'
            yield f'{path}/{part}/expand', f'{key}.{n}.fc2', 'pointwise'
        else:
            yield f'{path}/{part}', f'{key}.{n}.0', 'depthwise' if part == 'depthwise' else 'conv'
            yield f'{path}/{part}_bn', f'{key}.{n}.1', 'norm'


def timm_block(path: str, names: Names) -> Iterator[Module]:
    """A block of timm's EfficientNet and MobileNetV3; a block that does not expand counts its norms from the depthwise one."""
    key = f'blocks.{names.group}.{names.place}'
    expanding = {'expand': 'conv_pw', 'depthwise': 'conv_dw', 'project': 'conv_pwl'}
    for n, (part, conv) in enumerate((expanding if names.expands else {'depthwise': 'conv_dw', 'project': 'conv_pw'}).items()):
        yield f'{path}/{part}', f'{key}.{conv}', 'depthwise' if part == 'depthwise' else 'conv'
        yield f'{path}/{part}_bn', f'{key}.bn{n + 1}', 'norm'
    if names.squeezes:
        yield f'{path}/squeeze_excite/reduce', f'{key}.se.conv_reduce', 'pointwise'
        yield f'{path}/squeeze_excite/expand', f'{key}.se.conv_expand', 'pointwise'


def hugging_face_block(path: str, i: int, names: Names) -> Iterator[Module]:
    """The i-th block of transformers' EfficientNet."""
    key = f'efficientnet.encoder.blocks.{i}'
    if names.expands:
        yield f'{path}/expand', f'{key}.expansion.expand_conv', 'conv'
        yield f'{path}/expand_bn', f'{key}.expansion.expand_bn', 'norm'
    yield f'{path}/depthwise', f'{key}.depthwise_conv.depthwise_conv', 'depthwise'
    yield f'{path}/depthwise_bn', f'{key}.depthwise_conv.depthwise_norm', 'norm'
    yield f'{path}/squeeze_excite/reduce', f'{key}.squeeze_excite.reduce', 'pointwise'
    yield f'{path}/squeeze_excite/expand', f'{key}.squeeze_excite.expand', 'pointwise'
    yield f'{path}/project', f'{key}.projection.project_conv', 'conv'
    yield f'{path}/project_bn', f'{key}.projection.project_bn', 'norm'


def keras_block(path: str, key: str, names: Names) -> Iterator[Module]:
    """A block of Keras's EfficientNet, in the order of its layers."""
    if names.expands:
        yield f'{path}/expand', f'{key}_expand_conv', 'conv'
        yield f'{path}/expand_bn', f'{key}_expand_bn', 'norm'
    yield f'{path}/depthwise', f'{key}_dwconv', 'depthwise'
    yield f'{path}/depthwise_bn', f'{key}_bn', 'norm'
    yield f'{path}/squeeze_excite/reduce', f'{key}_se_reduce', 'pointwise'
    yield f'{path}/squeeze_excite/expand', f'{key}_se_expand', 'pointwise'
    yield f'{path}/project', f'{key}_project_conv', 'conv'
    yield f'{path}/project_bn', f'{key}_project_bn', 'norm'


def keras_mobilenet_block(path: str, key: str, names: Names) -> Iterator[Module]:
    """A block of Keras's MobileNetV3, in the order of its layers."""
    if names.expands:
        yield f'{path}/expand', f'{key}_expand', 'conv'
        yield f'{path}/expand_bn', f'{key}_expand_bn', 'norm'
    yield f'{path}/depthwise', f'{key}_depthwise', 'depthwise'
    yield f'{path}/depthwise_bn', f'{key}_depthwise_bn', 'norm'
    if names.squeezes:
        yield f'{path}/squeeze_excite/reduce', f'{key}_squeeze_excite_conv', 'pointwise'
        yield f'{path}/squeeze_excite/expand', f'{key}_squeeze_excite_conv_1', 'pointwise'
    yield f'{path}/project', f'{key}_project', 'conv'
    yield f'{path}/project_bn', f'{key}_project_bn', 'norm'


def by_place(modules: Sequence[Module]) -> list[Module]:
    """The same modules under the keys of Keras 3's `.weights.h5`, which counts the layers of each class.

    Args:
      modules: in the order of the model's layers.
    """
    counts: Counter[str] = Counter()
    found = []
    for path, _, kind in modules:
        layer = _KERAS_CLASSES.get(kind, 'conv2d')
        found.append((path, f'layers/{layer}_{counts[layer]}' if counts[layer] else f'layers/{layer}', kind))
        counts[layer] += 1
    return found


def table(
    name: str,
    detect: Sequence[str],
    modules: Iterable[Module],
    layout: Layout = TORCH,
    ignore: Sequence[str] = TORCH_IGNORE,
    unread: Sequence[str] = (),
) -> NameTable:
    """A name table of these modules of the backbone; that with the path HEAD is the classifier.

    Args:
      name: for people.
      detect: keys that tell this layout.
      modules: in any order.
      layout: how their arrays are called and lie.
      ignore: patterns of keys that nobody misses.
      unread: keys of modules that the model leaves out.
    """
    rules: dict[bool, list[tuple[str, Any]]] = {False: [], True: []}
    for path, key, kind in modules:
        for leaf, value in layout[kind].items():
            end, *functions = (value,) if isinstance(value, str) else value
            ours = f'{path}/{leaf}' if path == HEAD else f'backbone/{path}/{leaf}'
            rules[path == HEAD].append((ours, (f'{key}{end}', *functions)))
    return NameTable(
        name=name,
        detect=tuple(detect),
        rules=as_rules(rules[False], optional=True, origin=name),
        head=as_rules(rules[True], optional=True, origin=name),
        ignore=(*ignore, *(f'{re.escape(key)}[./].+' for key in unread)),
    )

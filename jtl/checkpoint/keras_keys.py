r"""One stable set of keys for the arrays of Keras's HDF5 files, whichever Keras wrote them.

*Layers by name* (`model.save('m.h5')`, and the published `.h5` weights of Keras 1 to 3) become `<layer>/<weight>`:

| in the file | key |
|-|-|
| `block1_conv1/block1_conv1/kernel:0` (Keras 2), `block1_conv1/block1_conv1/kernel` (Keras 3) | `block1_conv1/kernel` |
| `block1_conv1/block1_conv1_W_1:0` (Keras 1) | `block1_conv1/kernel` |
| `stem_bn/stem_bn/gamma:0`, `beta`, `moving_mean`, `moving_variance` | `stem_bn/gamma`, ... |
| `dw/dw/depthwise_kernel:0` (a DepthwiseConv2D of Keras 2; a SeparableConv2D keeps `depthwise_kernel` beside `pointwise_kernel`) | `dw/kernel` |
| `vgg16/block1_conv1/kernel:0`, `vgg16/vgg16/block1_conv1/kernel` (a model inside a model) | `vgg16/block1_conv1/kernel` |

Layers that Keras named itself count up over all models of a session (`conv2d_95`). They are counted anew in the model's order, each
class by itself from `conv2d`, `conv2d_1`, as Keras 3 counts in `.weights.h5` (there, layers that were given a name count too); models
inside a model are left as they are.

*Layers by place* (`model.save_weights('m.weights.h5')` and `m.keras` of Keras 3) keep the file's own keys, such as `layers/conv2d_3/vars/0`:
the 4th Conv2D of `model.layers`, which for a functional model is the order of depth. The `vars` are in the order in which the layer
builds them: kernel, bias; of a BatchNormalization gamma, beta, moving mean, moving variance, without those that it lacks; of a
SeparableConv2D depthwise kernel, pointwise kernel, bias. `_layer_checkpoint_dependencies/` of early files is read as `layers/`.

Kernels are (h, w, in, out), depthwise kernels (h, w, channels, multiplier), dense kernels (in, out).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

# Keras's own names of the layers that have weights: the class in snake case.
_AUTOMATIC: Final = re.compile(
    r'((?:depthwise_|separable_)?conv[12]d|conv3d|conv[123]d_transpose|dense|einsum_dense|embedding|p_re_lu|normalization|simple_rnn|gru|lstm'
    r'|(?:batch|layer|group|unit|spectral|rms)_normalization|(?:multi_head|group_query)_attention|bidirectional|time_distributed)(?:_\d+)?'
)
# Keras 1 joins layer and weight with '_', has other names, and counts the use of a name: conv1_W_1.
_KERAS_1: Final = {
    'W': 'kernel',
    'b': 'bias',
    'gamma': 'gamma',
    'beta': 'beta',
    'running_mean': 'moving_mean',
    'running_std': 'moving_variance',  # a variance in spite of its name
}


def by_name(paths: Sequence[str], layers: Sequence[str]) -> dict[str, str]:
    """From each path of an array below the weights' group to its key, in the order of `layers`.

    Args:
      paths: such as 'block1_conv1/block1_conv1/kernel:0'.
      layers: `layer_names` of the file, in the model's order. A path below none of them keeps its name.
    """
    named = _counted(layers)
    separable = {path.rpartition('/')[0] for path in paths if path.removesuffix(':0').endswith('/pointwise_kernel')}
    found: list[tuple[int, str, str]] = []
    places = {layer: i for i, layer in enumerate(layers)}
    for path in paths:
        parts = path.split('/')
        above = ('/'.join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
        layer = next((name for name in above if name in places), None)
        if layer is None:
            found.append((len(places), path, path.removesuffix(':0')))
            continue
        weight = _weight(layer, path[len(layer) + 1 :].removesuffix(':0'))
        if weight.endswith('depthwise_kernel') and path.rpartition('/')[0] not in separable:
            weight = weight.removesuffix('depthwise_kernel') + 'kernel'
        found.append((places[layer], path, f'{named[layer]}/{weight}'))
    return {path: key for _, path, key in sorted(found, key=lambda item: item[0])}


def by_place(paths: Iterable[str]) -> dict[str, str]:
    """From each path of an array to its key; `_layer_checkpoint_dependencies/` gives way to `layers/` where both are there."""
    paths = sorted(paths, key=_natural)
    there = set(paths)
    keys = {path: path.replace('_layer_checkpoint_dependencies/', 'layers/') for path in paths}
    return {path: key for path, key in keys.items() if key == path or key not in there}


def is_by_place(paths: Sequence[str]) -> bool:
    """Whether every array lies in a group `vars`."""
    return bool(paths) and all(f'/{path}'.rpartition('/')[0].endswith('/vars') for path in paths)


def left_out(path: str) -> str | None:
    """What an array is that is no weight: the optimizer's state, or that of a random generator; None for a weight."""
    first, *rest = path.split('/')
    if first == 'optimizer_weights' or (first == 'optimizer' and rest[:1] == ['vars']):
        return 'optimizer'
    return 'random generators' if 'seed_generator' in rest[:-1] or first == 'seed_generator' else None


def _weight(layer: str, name: str) -> str:
    """The weight's own name: what comes after the layer's in `name`."""
    match = re.match(rf'(?:.*?/)?{re.escape(layer)}(?:_\d+)?/(.+)', name)
    if match:
        return match[1]
    match = re.fullmatch(rf'{re.escape(layer)}_(\w+?)(?:_\d+)?', name)
    return _KERAS_1.get(match[1], name) if match else name


def _counted(layers: Iterable[str]) -> dict[str, str]:
    """Each layer's name, those that Keras gave counted anew."""
    counts: Counter[str] = Counter()
    named = {}
    for layer in layers:
        match = _AUTOMATIC.fullmatch(layer)
        if match:
            base = match[1]
            named[layer] = f'{base}_{counts[base]}' if counts[base] else base
            counts[base] += 1
        else:
            named[layer] = layer
    return named


def _natural(path: str) -> list[str | int]:
    """Sorts `vars/2` before `vars/10`."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r'([0-9]{1,18})', path))]

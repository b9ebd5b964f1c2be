"""What parity tests share: the original libraries, weights at random in their models, and jtl's way from their file to outputs.

import reference  # before torchvision or timm
"""

import contextlib
from typing import Any

import jax
import numpy as np
import torch

import jtl
from jtl.data.base import Data, Split
from jtl.models.base import unflatten
from jtl.tasks.base import HEAD

# torchvision's compiled operators need the CUDA build of torch; its models do not need them. Declared, it imports without.
_LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')
for _name in ('nms', 'qnms'):
    with contextlib.suppress(RuntimeError):
        _LIBRARY.define(f'{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model in evaluation mode, all of it random: weights, biases, scales near 1, BatchNorm's statistics too."""
    draw = torch.Generator().manual_seed(seed)
    for name, x in model.state_dict().items():
        if not x.is_floating_point():
            continue
        if name.endswith('running_var') or (x.ndim == 1 and name.endswith('weight')):
            x.copy_(0.5 + torch.rand(x.shape, generator=draw))
        elif x.ndim <= 1:
            x.copy_(0.2 * torch.randn(x.shape, generator=draw))
        else:
            fan_in = max(x[0].numel(), 1)
            x.copy_(torch.randn(x.shape, generator=draw) * fan_in**-0.5)
    return model.eval()


def images(size: tuple[int, int], n: int = 2, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Normalised pictures (n, H, W, C) float32."""
    return np.random.default_rng(seed).normal(size=(n, *size, channels)).astype(np.float32)


def torch_outputs(model: Any, x: np.ndarray) -> np.ndarray:
    """The torch model's outputs on (n, H, W, C) pictures."""
    with torch.no_grad():
        out = model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    out = getattr(out, 'logits', out)
    return out.numpy()


def experiment(init_from: str, model: dict, *, classes: int, size: tuple[int, int], head: str = 'keep', task: dict | None = None, **config):
    """A config resolved as a user's would be: the model, an untouched file of the original's own library, and its head kept.

    Args:
      init_from: the file's path.
      model: the config's `model` section; `image_size` is set to `size`.
      classes: of the head.
      size: of the pictures.
      head: `init_head`.
      task: further options of the classification task.
      config: further top-level fields.
    """
    fields = jtl.default_config()
    with fields.unlocked(), fields.ignore_type():
        fields.model.update({'image_size': size, **model})
        fields.task.update(task or {})
    fields.init_from, fields.init_head, fields.steps = str(init_from), head, 1
    for key, value in config.items():
        with fields.ignore_type():
            fields[key] = value
    examples = [{'image': np.zeros((*size, 3), np.uint8), 'label': 0}] * 2
    split = Split(examples, np.zeros(2, np.int32), str)
    return jtl.build(fields, data=Data({'train': split}, tuple(f'class {k}' for k in range(classes))))


def outputs(experiment: Any, x: np.ndarray) -> np.ndarray:
    """jtl's outputs (n, classes) on normalised pictures, through its own reading of the file."""
    leaves = jtl.load_leaves(experiment)
    run = jax.jit(lambda leaves, x: experiment.net.apply(leaves, {'image': x}, heads=[HEAD])[0][HEAD])
    return np.asarray(run(leaves, x))


def pooled(experiment: Any, x: np.ndarray) -> np.ndarray:
    """jtl's features (n, D) behind the pooling of the task."""
    leaves = jtl.load_leaves(experiment)
    found = {kind: unflatten({path: leaves[path] for path in paths}, 'backbone') for kind, paths in _collections(experiment.net).items()}
    return np.asarray(jax.jit(experiment.net.backbone.apply)(found, {'image': x})['pooled'])


def check_bare(path: Any, original: Any, model: dict, size: tuple[int, int], tolerance: float = 1e-5) -> float:
    """A model of transformers without a head, saved by it: nothing of the backbone is new, and pooled features are equal.

    Args:
      path: a folder to save in.
      original: such as a ResNetModel, with weights at random.
      model: the config's `model` section.
      size: of the pictures.
      tolerance: of the features.

    Returns:
      The largest difference, which it prints too.
    """
    original.save_pretrained(path)
    built = experiment(str(path), model, classes=2, size=size, head='new')
    fresh = {leaf.path for leaf in built.plan.leaves if leaf.status == 'new'}
    assert fresh == {'heads/main/output/kernel', 'heads/main/output/bias'}, fresh
    x = images(size)
    with torch.no_grad():
        wanted = original(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).pooler_output.flatten(1).numpy()
    found = pooled(built, x)
    assert found.shape == wanted.shape and float(np.abs(wanted[0] - wanted[1]).max()) > 0.05, 'two pictures give the same'
    difference = float(np.abs(found - wanted).max())
    print(f'largest difference {difference:.2e} of features up to {np.abs(wanted).max():.2f}')
    assert difference <= tolerance, difference
    return difference


def _collections(net: Any) -> dict[str, list[str]]:
    paths = {'params': net.params, 'batch_stats': net.stats}
    return {kind: [path for path in paths[kind] if path.startswith('backbone/')] for kind in paths if paths[kind]}


def check(experiment: Any, x: np.ndarray, wanted: np.ndarray, *, new: tuple[str, ...] = (), tolerance: float = 1e-4) -> float:
    """Outputs equal to `tolerance`, no leaf new but those of `new`. Returns the largest difference, and prints it (pytest -rP)."""
    fresh = tuple(leaf.path for leaf in experiment.plan.leaves if leaf.status == 'new')
    assert fresh == new, fresh
    found = outputs(experiment, x)
    assert found.shape == wanted.shape
    assert float(np.abs(wanted).max()) > 0.05, 'outputs too small to tell anything'
    difference = float(np.abs(found - wanted).max())
    print(f'largest difference {difference:.2e} of outputs up to {np.abs(wanted).max():.2f}')
    assert difference <= tolerance, difference
    return difference

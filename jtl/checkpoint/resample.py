"""Weights for another size of picture: position grids, patch kernels, and the channels of a first convolution.

Every function takes a numpy array, a jax array or a tracer, and gives one of the same dtype; resampling is computed in float32.
"""

from typing import Any

import numpy as np
from jaxtyping import Float


def resize_grid(x: Any, size: tuple[int, int], *, torch_default: bool = False) -> Any:
    """A grid of vectors (h, w, D) at another size (H, W, D) by bicubic interpolation, half-pixel centres.

    Args:
      x: position embeddings on their grid.
      size: the new (H, W); rows and columns are resized apart, so neither grid need be square.
      torch_default: PyTorch's `interpolate(mode='bicubic')` as transformers uses it: Keys' kernel with a = -3/4, borders repeated, no
        antialiasing. Otherwise a = -1/2, weights outside of the grid left out, and a wider kernel where the grid shrinks: Pillow's,
        `jax.image.resize`'s and timm's (antialias=True).
    """
    if x.shape[:2] == tuple(size):
        return x
    rows, cols = (cubic_matrix(n, m, torch_default=torch_default).astype(np.float32) for n, m in zip(x.shape[:2], size, strict=True))
    return _both(x, rows, cols)


def resize_patch(x: Any, size: tuple[int, int]) -> Any:
    """A patch kernel (h, w, C, D) for patches of another size (H, W, C, D) by pseudo-inverse resizing.

    The kernel found gives the same tokens on pictures enlarged by the resize's own matrix B: `pinv(B^T) w` (Beyer et al. 2023, FlexiViT,
    eq. 7), here with the bicubic B of timm's `resample_patch_embed`. B is a Kronecker product over rows and columns, and so is its
    pseudo-inverse.
    """
    if x.shape[:2] == tuple(size):
        return x
    rows, cols = (np.linalg.pinv(cubic_matrix(n, m).T).astype(np.float32) for n, m in zip(x.shape[:2], size, strict=True))
    return _both(x, rows, cols)


def fit_channels(x: Any, channels: int) -> Any:
    """The kernel (h, w, C, D) of a first convolution for another number of input channels.

    One channel: the sum over the old ones, which answers a grey picture as the old kernel did its three equal channels. N channels: the old
    ones repeated in turn and scaled by C / N, so that N equal channels are answered alike (timm's `adapt_input_conv`).
    """
    have = x.shape[2]
    if have == channels:
        return x
    if channels == 1:
        return x.sum(axis=2, keepdims=True).astype(x.dtype)
    turns = [k % have for k in range(channels)]
    return (x[:, :, np.array(turns)] * np.float32(have / channels)).astype(x.dtype)


def cubic_matrix(n: int, m: int, *, torch_default: bool = False) -> Float[np.ndarray, 'm n']:
    """The matrix that resizes `n` numbers to `m`; its rows sum to 1. See `resize_grid` for the two kinds."""
    step = n / m
    centres = (np.arange(m) + 0.5) * step - 0.5
    if torch_default:
        first = np.floor(centres).astype(int) - 1
        places = first[:, None] + np.arange(4)
        weights = _keys(places - centres[:, None], -0.75)
        matrix = np.zeros((m, n))
        np.add.at(matrix, (np.arange(m)[:, None], np.clip(places, 0, n - 1)), weights)
        return matrix
    weights = _keys((np.arange(n) - centres[:, None]) / max(step, 1.0), -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981, eq. 4 with free a)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _both(x: Any, rows: np.ndarray, cols: np.ndarray) -> Any:
    """`rows` (H, h) along the first axis of x (h, w, ...) and `cols` (W, w) along the second."""
    (h, w), rest = x.shape[:2], x.shape[2:]
    y = rows @ x.reshape(h, -1).astype(np.float32)  # (H, w * rest)
    y = y.reshape(rows.shape[0], w, -1).swapaxes(0, 1).reshape(w, -1)
    y = (cols @ y).reshape(cols.shape[0], rows.shape[0], *rest)
    return y.swapaxes(0, 1).astype(x.dtype)

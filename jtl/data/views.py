"""Test-time augmentation: several views of each picture, whose predictions are averaged.

The views are those of Krizhevsky et al. ("ImageNet Classification with Deep Convolutional Neural Networks", 2012), who average the
probabilities over five crops and their mirror images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from jtl.errors import UserError, did_you_mean
from jtl.models.preprocessing import Preprocessing

VIEWS = ('flip', 'crops')
"""flip: the picture and its mirror image. crops: its corners and its middle. Both: the five crops and their mirror images."""

CROP = 0.875
"""The side of a crop as a part of the picture's, for weights whose own evaluation crops nothing."""


@dataclass(frozen=True)
class Views:
    """From a batch of pictures to the views of each, inside jit. Made by `views_of`.

    Attributes:
      flip: mirror every view too.
      size: height and width of a view.
      crop: None: a view is the picture as in evaluation. Else the host prepares the picture out of which evaluation crops,
        `padded_size(size, crop)`, and a view is a corner or the middle of it.
    """

    flip: bool
    size: tuple[int, int]
    crop: float | None

    @property
    def count(self) -> int:
        """Views of a picture."""
        return (5 if self.crop else 1) * (2 if self.flip else 1)

    def __call__(self, images: Shaped[Array, 'b height width c']) -> Shaped[Array, 'v b h w c']:
        """The views: top left, top right, bottom left, bottom right and middle, or the picture itself; then their mirror images."""
        down, right = images.shape[1] - self.size[0], images.shape[2] - self.size[1]
        if (self.crop is None) != (down == right == 0) or min(down, right) < 0:
            raise ValueError(f'views of {self.size} with crop={self.crop} cannot be taken from pictures of {images.shape[1:3]}')
        places = [(0, 0)] if self.crop is None else [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
        found = [images[:, top : top + self.size[0], left : left + self.size[1]] for top, left in places]
        return jnp.stack([*found, *(view[:, :, ::-1] for view in found)] if self.flip else found)


def views_of(names: Sequence[str], preprocessing: Preprocessing) -> Views | None:
    """The views that `config.tta` names; None for no names.

    Args:
      names: of VIEWS. With crops they are cut out of the picture that evaluation crops its middle from (size / preprocessing.crop), or,
        where evaluation crops nothing, out of one of size / CROP.
      preprocessing: of the weights.

    Raises:
      UserError: a name that is none.
    """
    check_views(names)
    if not names:
        return None
    crop = preprocessing.crop if preprocessing.crop < 1 else CROP
    return Views('flip' in names, preprocessing.size, crop if 'crops' in names else None)


def check_views(names: Sequence[str], field: str = 'config.tta') -> None:
    """UserError, naming the field, for a name that is not in VIEWS."""
    for name in names:
        if name not in VIEWS:
            raise UserError(f'{field}: there is no view {name!r}. {did_you_mean(str(name), VIEWS)}')

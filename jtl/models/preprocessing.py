"""How pictures become a network's input. It belongs to the weights, and travels with them into the bundle."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from jtl.errors import UserError

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'lanczos')


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, scale and normalise, as the weights were trained.

    A picture with values 0..255 is resized (short side to `size / crop`), cropped in its middle to `size`, its channels put
    in `channels` order, and becomes `(x * scale - mean) / std`.

    Attributes:
      size: height and width of the network's input, pixels.
      mean, std: a number for each channel, in `channels` order, after `scale`.
      scale: factor on 0..255 values.
      channels: 'RGB', 'BGR' or 'L' (one grey channel).
      interpolation: of the resize, one of INTERPOLATIONS, with antialiasing.
      crop: side of the centre crop as a fraction of the resized short side, in (0, 1].
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    std: tuple[float, ...] = (127.5, 127.5, 127.5)
    scale: float = 1.0
    channels: str = 'RGB'
    interpolation: str = 'bilinear'
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Raises UserError for values that no picture can be prepared with."""
        count = {'RGB': 3, 'BGR': 3, 'L': 1}.get(self.channels)
        if count is None:
            raise UserError(f'preprocessing: channels must be RGB, BGR or L, found {self.channels!r}.')
        if len(self.mean) != count or len(self.std) != count:
            raise UserError(
                f'preprocessing: {self.channels} needs {count} values in mean and std, found {len(self.mean)} and {len(self.std)}.'
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f'preprocessing: interpolation must be one of {", ".join(INTERPOLATIONS)}, found {self.interpolation!r}.')
        if not 0 < self.crop <= 1 or min(self.size) < 1 or min(map(abs, self.std)) == 0:
            raise UserError(f'preprocessing: crop must lie in (0, 1], size be positive and std not zero, found {self}.')

    @property
    def depth(self) -> int:
        """Number of channels."""
        return len(self.channels)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as the bundle stores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'Preprocessing':
        """The inverse of `to_json`. UserError for unknown or missing fields."""
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
            return cls(**values)
        except TypeError as error:
            raise UserError(f'preprocessing: {error}.') from None


def for_channels(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """That of colour pictures for pictures of so many channels: 3 as it is, 1 (grey) with the averages of `mean` and `std`.

    Raises:
      UserError: another count; pictures come grey or in colour.
    """
    if channels not in (1, 3):
        raise UserError(f'model.image_channels must be 1 (grey) or 3 (colour), found {channels}.')
    if channels == 3:
        return preprocessing
    return replace(preprocessing, channels='L', mean=(sum(preprocessing.mean) / 3,), std=(sum(preprocessing.std) / 3,))

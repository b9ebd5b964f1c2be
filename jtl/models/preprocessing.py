"""How pictures become a network's input. It belongs to the weights, and travels with them into the bundle."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from jtl.errors import UserError

_DEPTHS = {'RGB': 3, 'BGR': 3, 'L': 1}
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
      channels: 'RGB', 'BGR', 'L' (one grey channel), or a count such as '5': channels of any meaning, as the data have them.
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
        named = isinstance(self.channels, str) and (self.channels in _DEPTHS or (self.channels.isdigit() and int(self.channels) > 0))
        if not named:
            raise UserError(f"preprocessing: channels must be RGB, BGR, L, or a count such as '5', found {self.channels!r}.")
        count = self.depth
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
        return _DEPTHS.get(self.channels) or int(self.channels)

    @property
    def pictorial(self) -> bool:
        """Whether the channels are colours or grey, so that pictures of other channels can be turned into them."""
        return self.channels in _DEPTHS

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
    """That of colour pictures for pictures of so many channels.

    3 as it is; 1 (grey) with the averages of `mean` and `std`; any other count with each of them repeated in turn, as the leaf function
    `channels` repeats a first kernel.

    Raises:
      UserError: a count below 1.
    """
    if channels < 1:
        raise UserError(f'model.image_channels must be 1 (grey), 3 (colour) or another count from 1, found {channels}.')
    if channels == 3:
        return preprocessing
    mean, std = preprocessing.mean, preprocessing.std
    if channels == 1:
        return replace(preprocessing, channels='L', mean=(sum(mean) / 3,), std=(sum(std) / 3,))
    turns = [k % 3 for k in range(channels)]
    return replace(preprocessing, channels=str(channels), mean=tuple(mean[k] for k in turns), std=tuple(std[k] for k in turns))

"""How text becomes a network's input. It belongs to the weights, and travels with them into the bundle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What tokenizers of known checkpoints call their special tokens; jtl's own are '<pad>', '<unk>', '<bos>', '<eos>'.
_ROLES = {
    'pad': ('[PAD]', '<pad>'),
    'unk': ('[UNK]', '<unk>'),
    'mask': ('[MASK]', '<mask>'),
}


@dataclass(frozen=True)
class TextPreprocessing:
    """Tokenise, cut to `max_length` tokens, fill up to one of a few lengths.

    Attributes:
      tokenizer: JSON as the `tokenizers` library writes it. It is kept in one form (sorted keys, no spaces, no truncation, no padding), so
        that equal tokenizers are equal strings.
      max_length: the longest sequence, tokens, special ones included.
      buckets: the lengths to which sequences are filled up, ascending; the last is `max_length`.
    """

    tokenizer: str = field(repr=False)
    max_length: int
    buckets: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises UserError for what is no tokenizer, or lengths that no sequence can be brought to."""
        object.__setattr__(self, 'tokenizer', _in_one_form(self.tokenizer))
        special = tokenizer_of(self.tokenizer).num_special_tokens_to_add(False)
        if self.max_length <= special:
            raise UserError(f'text.max_length={self.max_length} leaves no room for text: the tokenizer adds {special} special tokens.')
        rising = all(a < b for a, b in zip((0, *self.buckets), self.buckets, strict=False))
        if not self.buckets or not rising or self.buckets[-1] != self.max_length:
            raise UserError(
                f'text.buckets must be lengths above 0 in rising order, the last of them max_length={self.max_length}, found {self.buckets}.'
            )

    @property
    def size(self) -> tuple[int]:
        """The shape of the shortest input, tokens: of what has to be known when nothing is read yet."""
        return (self.buckets[0],)

    @property
    def vocab_size(self) -> int:
        """The highest id and one: the rows that a word table must have."""
        return len(self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """What each id stands for, in id order; '' where an id is not used."""
        return _words(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """What fills up. 0 where the tokenizer has nothing for it: filling is masked, so that any id will do."""
        return self._id('pad') or 0

    @property
    def unk_id(self) -> int | None:
        """What stands for unknown words; None for tokenizers that know every byte and name none."""
        own = json_of(self.tokenizer)['model'].get('unk_token')
        return tokenizer_of(self.tokenizer).token_to_id(own) if isinstance(own, str) else self._id('unk')

    @property
    def mask_id(self) -> int | None:
        """What hides a word from a masked language model."""
        return self._id('mask')

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of all special tokens, ascending."""
        added = tokenizer_of(self.tokenizer).get_added_tokens_decoder()
        return tuple(sorted(number for number, token in added.items() if token.special))

    def to_json(self) -> dict[str, Any]:
        """Plain data, as the bundle stores it; the tokenizer as parsed JSON, not as a string."""
        return {'tokenizer': json.loads(self.tokenizer), 'max_length': self.max_length, 'buckets': list(self.buckets)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'TextPreprocessing':
        """The inverse of `to_json`. UserError for unknown or missing fields, or a tokenizer that is none."""
        try:
            values = {**data, 'tokenizer': json.dumps(data['tokenizer']), 'buckets': tuple(data['buckets'])}
            return cls(**values)
        except (TypeError, KeyError) as error:
            raise UserError(f'preprocessing: {error}.') from None

    def _id(self, role: str) -> int | None:
        known = tokenizer_of(self.tokenizer)
        return next((found for name in _ROLES[role] if (found := known.token_to_id(name)) is not None), None)


@lru_cache(maxsize=8)
def tokenizer_of(tokenizer: str, where: str = 'tokenizer') -> 'Tokenizer':
    """The tokenizer that JSON describes, shared by all who ask: not to be changed. UserError for JSON that describes none."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(tokenizer)
    except Exception as error:  # the library raises plain Exceptions
        raise UserError(f'{where}: this is no tokenizer.json that the tokenizers library can read ({error!s:.200}).') from None


@lru_cache(maxsize=8)
def json_of(tokenizer: str) -> dict[str, Any]:
    """The parsed JSON: not to be changed."""
    return json.loads(tokenizer)


@lru_cache(maxsize=8)
def _words(tokenizer: str) -> tuple[str, ...]:
    known = tokenizer_of(tokenizer).get_vocab(with_added_tokens=True)
    found = [''] * (1 + max(known.values(), default=-1))
    for word, number in known.items():
        found[number] = word
    return tuple(found)


@lru_cache(maxsize=8)
def _in_one_form(tokenizer: str) -> str:
    try:
        parsed = json.loads(tokenizer)
    except ValueError as error:
        raise UserError(f'tokenizer: no JSON ({error!s:.200}).') from None
    if not isinstance(parsed, dict):
        raise UserError(f'tokenizer: no JSON object, found {type(parsed).__name__}.')
    return json.dumps({**parsed, 'truncation': None, 'padding': None}, sort_keys=True, ensure_ascii=False, separators=(',', ':'))

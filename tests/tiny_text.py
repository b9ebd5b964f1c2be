"""A text preprocessing of a few words, for tests of tasks that need the ids of a tokenizer."""

from tokenizers import Tokenizer, models

from jtl.models.text import TextPreprocessing

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


def tiny_text(words: int = 20, max_length: int = 8, mask: bool = True) -> TextPreprocessing:
    """`words` words in all; special ones are 0 to 3, and 4, the mask, where there is one."""
    special = SPECIAL[: 5 if mask else 4]
    names = (*special, *(f'w{k}' for k in range(len(special), words)))
    tokenizer = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token='[UNK]'))
    tokenizer.add_special_tokens(list(special))
    return TextPreprocessing(tokenizer.to_str(), max_length, (max_length,))

"""Tokenizers: a checkpoint's own, one from elsewhere, or a vocabulary of the words in the training texts."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jtl.errors import UserError
from jtl.models.text import TextPreprocessing, json_of, tokenizer_of

PAD, UNK, BOS, EOS = SPECIAL = ('<pad>', '<unk>', '<bos>', '<eos>')
"""Special tokens of word vocabularies, in id order from 0."""

FILES = ('tokenizer.json', 'vocab.txt', 'vocab.json')
"""Of tokenizers, in order of preference; the last needs merges.txt beside it."""

_KINDS = {  # file -> what a tokenizer_config.json may call the tokenizer of which it is all
    'vocab.txt': ('BertTokenizer', 'DistilBertTokenizer', 'ElectraTokenizer', 'MobileBertTokenizer'),
    'vocab.json': ('RobertaTokenizer',),
}

BUCKETS = (16, 32, 64, 128, 256, 512)
"""Lengths, tokens, to which sequences are filled up where `text.buckets` names none."""


def defaults() -> dict[str, Any]:
    """The config's `text` section; data and models without text read nothing of it."""
    return {
        'tokenizer': '',  # '': the checkpoint's own, without a checkpoint 'words'; 'words': the words of the training texts; or where a tokenizer.json or vocab.txt lies (path, package:, hf://)
        'max_length': 0,  # tokens, special ones included; longer texts are cut. 0: the last of buckets, else min(512, what the model can read)
        'buckets': (),  # lengths to which batches are filled up, rising; (): 16, 32, 64, 128, 256, 512 up to max_length
        'words_of': 'train',  # of 'words' alone, as are the next three: 'train', or 'all': also of validation and test, which frozen word vectors may know
        'lowercase': True,
        'min_count': 1,  # how often a word must occur to have an id of its own
        'max_words': 0,  # so many words, the most frequent ones, have an id; 0: all
    }


def text_preprocessing(section: Mapping[str, Any], *, tokenizer: str, positions: int) -> TextPreprocessing:
    """What a config's `text` section and the model make of a tokenizer.

    Args:
      section: the fields of `defaults()`; those left out take their default.
      tokenizer: JSON.
      positions: the longest sequence that the model can read, tokens; 0: any.

    Raises:
      UserError: a length that the model cannot read, buckets out of order, options of 'words' for another tokenizer.
    """
    section = {**defaults(), **section}
    if section['words_of'] not in ('train', 'all'):
        raise UserError(f"text.words_of: 'train' or 'all', found {section['words_of']!r}.")
    buckets = tuple(section['buckets'])
    if any(isinstance(length, bool) or not isinstance(length, int) for length in buckets):
        raise UserError(f'text.buckets: whole numbers, found {buckets}.')
    longest = section['max_length'] or (buckets[-1] if buckets else min(512, positions or 512))
    if positions and longest > positions:
        raise UserError(
            f'text.max_length={longest}: the model has {positions} positions and can read no longer text. Set text.max_length={positions} or less.'
        )
    preprocessing = TextPreprocessing(tokenizer, longest, buckets or (*(length for length in BUCKETS if length < longest), longest))
    changed = [name for name in ('words_of', 'lowercase', 'min_count', 'max_words') if section[name] != defaults()[name]]
    if changed and json_of(tokenizer)['model'].get('type') != 'WordLevel':
        raise UserError(
            f"text.{changed[0]}={section[changed[0]]!r}: text.tokenizer='words' alone reads it, and this tokenizer knows parts of words."
        )
    return preprocessing


def check_vocabulary(preprocessing: TextPreprocessing, rows: int, where: str) -> None:
    """UserError where the tokenizer has ids that the word table of `where` (rows, D) lacks. Rows to spare are fine: many checkpoints have them."""
    if preprocessing.vocab_size > rows:
        raise UserError(
            f'text.tokenizer: it has {preprocessing.vocab_size:,} ids, but the word table of {where} has {rows:,} rows. '
            'They do not belong together: use the tokenizer that the weights were trained with.'
        )


def checkpoint_tokenizer(beside: Callable[[str], bytes | None], where: str) -> str | None:
    """The tokenizer that lies beside a checkpoint's weights, as JSON; None where there is none.

    It is tokenizer.json, else BERT's vocab.txt, else the vocab.json and merges.txt of RoBERTa, the last two as tokenizer_config.json says
    where it is there.

    Args:
      beside: the content of the file of that name, None where there is none.
      where: what to call the checkpoint.

    Raises:
      UserError: a file that is damaged, or lacks special tokens.
    """
    return next((found for file in FILES if (found := _read(beside, file, where)) is not None), None)


def named_tokenizer(where: str) -> str:
    """The tokenizer at a place, as JSON.

    Args:
      where: one of `FILES`, or a folder that holds one: a path, `package:name[/path]`, `hf://owner/name[@revision][/path]`.

    Raises:
      UserError: there is none, or it is damaged.
    """
    from jtl.checkpoint.places import find_file  # brings in jax, which a config does without

    beside, file = find_file(where, FILES)
    kind = file if file in FILES else FILES[0] if file.endswith('.json') else FILES[1]
    found = _read(lambda name: beside(file if name == kind else name), kind, where)
    if found is None:
        raise UserError(f'text.tokenizer: {where}: vocab.json needs merges.txt beside it.')
    return found


def word_tokenizer(texts: Iterable[str | Sequence[str]], *, lowercase: bool = True, min_count: int = 1, max_words: int = 0) -> str:
    """A tokenizer of whole words, as JSON: the words of `texts` by falling count, then in alphabetical order, after `SPECIAL`.

    Words end at white space and punctuation, each mark of which is a word. A sequence begins with BOS and ends with EOS; the second of a
    pair ends with another EOS.

    Args:
      texts: texts, or sentences already split into words, which stay whole.
      lowercase: whether words are told apart without regard to case.
      min_count: how often a word must occur.
      max_words: how many words are kept; 0: all.

    Raises:
      UserError: no word is left.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if min_count < 1 or max_words < 0:
        raise UserError(f'text: min_count must be 1 or more and max_words 0 or more, found {min_count} and {max_words}.')
    normalizer = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])])
    splitter = pre_tokenizers.BertPreTokenizer()
    chunks: Counter[str] = Counter()  # of texts, at spaces: much fewer than there are words, and only they are split further
    counts: Counter[str] = Counter()
    for text in texts:
        if isinstance(text, str):
            chunks.update(text.split(' '))
        else:
            counts.update(normalizer.normalize_str(word) for word in text)
    for chunk, times in chunks.items():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(chunk)):
            counts[word] += times
    kept = [word for word in counts if counts[word] >= min_count and word and word not in SPECIAL]
    kept = sorted(kept, key=lambda word: (-counts[word], word))[: max_words or None]
    if not kept:
        raise UserError(f'text.tokenizer: the training texts hold no word that occurs {min_count} times.')
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate((*SPECIAL, *kept))}, unk_token=UNK))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{BOS} $A {EOS}', pair=f'{BOS} $A {EOS} $B:1 {EOS}:1', special_tokens=[(word, SPECIAL.index(word)) for word in (BOS, EOS)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer.to_str()


def _read(beside: Callable[[str], bytes | None], file: str, where: str) -> str | None:
    """The tokenizer in one of `FILES`; None where the file is not there, or not all that belongs to it."""
    content = beside(file)
    if content is None:
        return None
    named = f'{where}: {file}'
    text = _decoded(content, named)
    if file == 'tokenizer.json':
        tokenizer_of(text, named)
        return text
    options = _parsed(_decoded(beside('tokenizer_config.json') or b'{}', where), f'{where}: tokenizer_config.json')
    kind = str(options.get('tokenizer_class') or _KINDS[file][0])
    if kind.removesuffix('Fast') not in _KINDS[file]:
        raise UserError(f'{named}: a {kind} is more than its vocabulary. Save it as tokenizer.json with the library that made it.')
    if file == 'vocab.txt':
        return _word_pieces(text, options, named)
    merges = beside('merges.txt')
    return None if merges is None else _byte_pairs(_parsed(text, named), _decoded(merges, f'{where}: merges.txt'), options, named)


def _word_pieces(text: str, options: Mapping[str, Any], where: str) -> str:
    """BERT's tokenizer: a token a line, its id the number of the line. Without do_lower_case, a vocabulary without capitals means lower case."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = {token.rstrip('\r'): number for number, token in enumerate(text.removesuffix('\n').split('\n'))}
    _check_special(vocabulary, ('[UNK]', '[CLS]', '[SEP]'), where)
    accents = options.get('strip_accents')
    capitals = any(token != token.lower() for token in vocabulary if not token.startswith('['))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(options.get('tokenize_chinese_chars', True)),
        strip_accents=None if accents is None else bool(accents),
        lowercase=bool(options.get('do_lower_case', not capitals)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix='##')
    tokenizer.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]',
        pair='[CLS] $A [SEP] $B:1 [SEP]:1',
        special_tokens=[(token, vocabulary[token]) for token in ('[CLS]', '[SEP]')],
    )
    tokenizer.add_special_tokens([token for token in ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]') if token in vocabulary])
    return tokenizer.to_str()


def _byte_pairs(vocabulary: dict[str, Any], merges: str, options: Mapping[str, Any], where: str) -> str:
    """RoBERTa's tokenizer: pairs of bytes, merged in the order of merges.txt."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    _check_special(vocabulary, ('<s>', '</s>', '<unk>'), where)
    lines = [line.rstrip('\r') for line in merges.split('\n')]
    pairs = [(first, second) for first, _, second in (line.partition(' ') for line in lines if line and not line.startswith('#version'))]
    try:
        tokenizer = Tokenizer(models.BPE(vocabulary, pairs, continuing_subword_prefix='', end_of_word_suffix=''))
    except Exception as error:  # the library raises plain Exceptions
        raise UserError(f'{where}: it does not fit merges.txt ({error!s:.200}).') from None
    spaced = bool(options.get('add_prefix_space', False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ('</s>', vocabulary['</s>']), ('<s>', vocabulary['<s>']), trim_offsets=True, add_prefix_space=spaced
    )
    tokenizer.add_special_tokens([token for token in ('<s>', '<pad>', '</s>', '<unk>') if token in vocabulary])
    if '<mask>' in vocabulary:
        tokenizer.add_special_tokens([AddedToken('<mask>', lstrip=True)])  # it takes the space before it along
    return tokenizer.to_str()


def _check_special(vocabulary: Mapping[str, Any], tokens: Sequence[str], where: str) -> None:
    missing = [token for token in tokens if token not in vocabulary]
    if missing:
        raise UserError(f'{where}: the vocabulary lacks {", ".join(missing)}, without which no text can be read.')


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f'{where}: no UTF-8 (byte 0x{content[error.start]:02x} at {error.start:,}).') from None


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f'{where}: no JSON ({error!s:.200}).') from None
    if not isinstance(found, dict):
        raise UserError(f'{where}: no JSON object, found {type(found).__name__}.')
    return found

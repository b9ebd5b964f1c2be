"""Lines of files: against Python's own decoding of the whole content, and what is said of bytes that do not fit."""

import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jtl.data import lines, load_data
from jtl.data.lines import lines_of
from jtl.errors import UserError

ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16', 'utf-32', 'shift_jis', 'gb18030')
TEXT = st.text(st.sampled_from('ab \t\r\n\x0b\x1c\x85 é語ー🙂'), max_size=40)


@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, st.sampled_from(ENCODINGS), st.integers(4, 9))
def test_lines_end_at_line_feeds_alone_wherever_a_block_ends(tmp_path, text, encoding, block):
    if encoding == 'shift_jis':
        text = text.translate(dict.fromkeys(map(ord, '\x85 é🙂')))
    (tmp_path / 'x').write_bytes(text.encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, '_BLOCK', block)
        found = list(lines_of(epath.Path(tmp_path / 'x'), 'utf-8' if encoding == 'utf-8-sig' else encoding))
    assert ''.join(found) == text
    assert all(line.endswith('\n') for line in found[:-1]) and all('\n' not in line[:-1] and line for line in found)


@pytest.mark.parametrize('block', [4, 5, 6, 7, 1000])
@pytest.mark.parametrize(
    ('content', 'encoding', 'message'),
    [
        ('a\nb\nnaïve\nd\n'.encode('latin-1'), 'utf-8', r"x, line 3: no UTF-8 \(byte 0xef\)\. Save the file as UTF-8.* data.encoding='latin-1'"),
        (b'a\n\nb\xe8\xaa', 'utf-8', r'line 3: no UTF-8 \(byte 0xe8\)'),  # the file ends within a character
        ('語\n語\n'.encode() + b'\x80', 'utf-8', r'line 3: no UTF-8 \(byte 0x80\)'),
        ('a\nb'.encode('utf-16'), 'utf-8', r"line 1: no UTF-8 \(byte 0xff\)\. It begins as UTF-16 does: set data.encoding='utf-16'"),
        (b'a\nb\n\x81\n', 'cp1252', r'line 3: no CP1252 \(byte 0x81\)\. Name the encoding that the file has'),
        ('a\nb\nc'.encode('utf-16-le') + b'x', 'utf-16-le', r'line 3: no UTF-16-LE'),
    ],
)  # fmt: skip
def test_a_byte_that_does_not_fit_is_named_with_its_line(tmp_path, monkeypatch, content, encoding, message, block):
    monkeypatch.setattr(lines, '_BLOCK', block)
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(lines_of(epath.Path(tmp_path / 'x'), encoding))


def test_a_file_is_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, '_BLOCK', 4)
    (tmp_path / 'x').write_bytes(b'abc\nde\nf\xff')
    read = lines_of(epath.Path(tmp_path / 'x'))
    assert [next(read), next(read)] == ['abc\n', 'de\n']
    with pytest.raises(UserError, match='line 3'):
        next(read)


@pytest.mark.parametrize('encoding', ['utf9', 'base64', '', 'utf-8\0', 8, None])
def test_encodings_that_there_are_not(encoding):
    with pytest.raises(UserError, match=r"data.encoding: there is no encoding .* Common ones: 'utf-8'"):
        load_data({'name': 'digits', 'encoding': encoding})


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match='cannot be read'):
        list(lines_of(epath.Path(tmp_path)))

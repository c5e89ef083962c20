"""Text, JSON and CSV that anyone may have written: read within limits, or refused."""
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibjax.errors import InputError, nearest, printable
from fibjax.system import csv_files, files, json_files, text_files

# What JSON can hold, to be read back as it was written.
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**63, 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=['Cs'])),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(exclude_categories=['Cs'])), inner), max_leaves=20)


@given(_JSON)
def test_json_is_read_back_as_it_was_written(content):
  assert json_files.parse_json('a', json.dumps(content)) == content
  assert json_files.parse_json('a', json.dumps(content).encode()) == content


@pytest.mark.parametrize('text, words', [
    ('', 'Expecting value'), ('{"a": NaN}', 'NaN'), ('[-Infinity]', '-Infinity'),
    ('1e400', 'the number 1e400'), ('{"a": 1, "a": 1}', "'a' twice"),
    ('9' * 65, '65 characters'), ('0.' + '1' * 63, '65 characters'),
    ('[' * 65 + ']' * 65, 'more than 64 deep'), ('[' * 10**5, 'more than 64 deep'),
    ('{"a":' * 65 + '1' + '}' * 65, 'more than 64 deep'),
    ('"\\ud800"', 'no Unicode'), ('{"\\udfff": 1}', 'no Unicode'),
    ('[[],' + '[],' * 10**6 + '[]]', 'more than 1000000 lists'),
    (' ' * (text_files.MAX_BYTES + 1), 'more than 33554432')])
def test_json_beyond_the_limits_is_refused(text, words):
  with pytest.raises(InputError, match='damaged JSON') as error:
    json_files.parse_json('a.json', text)
  assert words in str(error.value) and str(error.value).startswith('a.json: got')


def test_json_at_the_limits_is_read():
  deep = '[' * 64 + ']' * 64
  assert json.dumps(json_files.parse_json('a', deep)) == deep
  assert json_files.parse_json('a', deep.replace('[]', '[1]'))
  assert json_files.parse_json('a', '9' * 64) == int('9' * 64)
  assert json_files.parse_json('a', '\ufeff{"\u00e9": "\\ud83d\\ude00"}'.encode()) == {
      '\u00e9': '\U0001f600'}


@pytest.mark.parametrize('data, words', [
    (b'\xff', 'damaged text'), (b'a\0b', r"'\x00'"), (b'a\x1b[2J', r"'\x1b'"),
    ('a\x9bb'.encode(), r"'\x9b'"), ('a'.encode('utf-16'), 'damaged text')])
def test_text_of_other_bytes_is_refused(tmp_path, data, words):
  (tmp_path / 'a.txt').write_bytes(data)
  with pytest.raises(InputError, match=r'a\.txt: got') as error:
    text_files.read_text(tmp_path / 'a.txt', 'a text')
  assert words in str(error.value)


def test_text_is_read_from_regular_files_of_bounded_size(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes('\ufeffa\tb\r\n\u00b5'.encode())
  assert text_files.read_text(path, 'a text', max_bytes=11) == 'a\tb\r\n\u00b5'
  with pytest.raises(InputError, match='10 bytes, expected a text of at most 9'):
    text_files.read_text(path, 'a text', max_bytes=9)
  with pytest.raises(InputError, match='no such file, expected a text'):
    text_files.read_text(path / 'b', 'a text')
  with pytest.raises(InputError, match='a folder, pipe or device'):
    text_files.read_text('/dev/zero', 'a text')


def test_an_object_is_told_from_other_json(tmp_path):
  (tmp_path / 'a.json').write_text('[1]')
  with pytest.raises(InputError, match='JSON of a list, expected an object'):
    files.read_json_object(tmp_path / 'a.json')


@given(st.lists(st.fixed_dictionaries({
    name: st.text(st.characters(exclude_categories=['Cc', 'Cs']), max_size=20)
    for name in ('a', 'b')}), min_size=1))
def test_rows_are_read_back_as_they_were_written(tmp_path_factory, rows):
  path = tmp_path_factory.mktemp('csv') / 'a.csv'
  csv_files.write_csv(path, rows, ('a', 'b'))
  blanks = [{name: cell.lstrip(' ') for name, cell in row.items()} for row in rows]
  assert [{name: cell.lstrip(' ') for name, cell in row.items()}
          for row in csv_files.read_rows(path)] == blanks


@pytest.mark.parametrize('text, words', [
    ('a,a\n1,2\n', "the header 'a,a'"), ('a,\n1,2\n', "the header 'a,'"),
    ('a,b\n1\n', 'row 0: got 1 cells'), ('a,b\n1,2\n1,2,3\n', 'row 1: got 3 cells'),
    ('a\n"x', 'damaged file'), (f'a\n{"x" * 4097}\n', '4096 characters'),
    ('a\n' * 200002, 'too many rows'), ('a,b\n' + ',' * 5 * 10**6, '5000000 cells')])
def test_tables_beyond_the_limits_are_refused(tmp_path, text, words):
  (tmp_path / 'a.csv').write_text(text)
  with pytest.raises(InputError, match=r'a\.csv') as error:
    csv_files.read_rows(tmp_path / 'a.csv')
  assert words in str(error.value)


def test_empty_lines_and_tables_hold_no_rows(tmp_path):
  for text in ('', '\n\n', 'a,b\n', 'a,b\n\n'):
    (tmp_path / 'a.csv').write_text(text)
    assert csv_files.read_rows(tmp_path / 'a.csv') == []
    assert csv_files.read_columns(tmp_path / 'a.csv') == {}
  (tmp_path / 'a.csv').write_text('a, b\n\n1, x\n')
  assert csv_files.read_rows(tmp_path / 'a.csv') == [{'a': '1', 'b': 'x'}]


def test_whole_numbers_are_those_of_ten_ascii_digits_at_most():
  rows = [{'z': text} for text in ('0', ' 7 ', '2147483647')]
  np.testing.assert_array_equal(csv_files.whole_numbers(rows, 'z', 't'),
                                [[0], [7], [2147483647]])
  for text in ('', '-1', '1.0', 'nan', '1_0', '\u0661', '2147483648', '9' * 5000, None):
    with pytest.raises(InputError, match='t row 0: got z = '):
      csv_files.whole_numbers([{'z': text}], 'z', 't')


@given(st.text(), st.integers(20, 200))
def test_printable_text_is_one_line_of_bounded_length(text, limit):
  shown = printable(text, limit)
  assert len(shown) <= limit and shown.isprintable()
  plain = ' '.join(text.split())
  if plain.isprintable() and len(text) <= limit:
    assert shown == plain


def test_messages_are_bounded_whatever_they_echo():
  long = 'a' * 10**6
  message = str(InputError(f'\x1b[2J{long}', got=long, expected=10**5000, remedy=long))
  assert len(message) < 3000 and message.isprintable()
  assert message.startswith('\\x1b[2Jaaa') and 'thousands of digits' in message
  assert nearest(long, ['a']) == '' and nearest('tain', ['train']) == 'train'


def test_cells_that_are_no_numbers_are_named(tmp_path):
  (tmp_path / 'a.csv').write_text('a,b\n1,x\n,y\n')
  columns = csv_files.read_columns(tmp_path / 'a.csv', ('b',))
  assert columns['a'][0] == 1 and math.isnan(columns['a'][1])
  assert columns['b'].tolist() == ['x', 'y']
  with pytest.raises(InputError, match=r'a\.csv: b: got could not convert'):
    csv_files.read_columns(tmp_path / 'a.csv')

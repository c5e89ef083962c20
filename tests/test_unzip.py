"""Unpacking never leaves its folder, and takes nothing but whole plain files."""
import hashlib
import stat
import zipfile

import pytest

from fibjax.datasets import unzip
from fibjax.errors import InputError


def make_zip(path, members, mode=None, **options):
  with zipfile.ZipFile(path, 'w', **options) as archive:
    for name, content in members.items():
      info = zipfile.ZipInfo(name)
      info.compress_type = options.get('compression', zipfile.ZIP_STORED)
      info.external_attr = (mode or stat.S_IFREG | 0o644) << 16
      archive.writestr(info, content)
  return path


def everything(folder):
  return {p.relative_to(folder).as_posix(): p.is_file() and p.read_bytes()
          for p in folder.rglob('*')}


def test_a_plain_file_is_unpacked(tmp_path):
  members = {'data/raw/a.tif': b'grey', 'data/b.npy': b'x' * 70000, 'readme.txt': b''}
  source = make_zip(tmp_path / 'a.zip', members, compression=zipfile.ZIP_DEFLATED)
  out = unzip.unpack(source, tmp_path / 'deep' / 'out')
  assert {k: v for k, v in everything(out).items() if v is not False} == members
  with pytest.raises(InputError, match='a path that already exists'):
    unzip.unpack(source, out)


@pytest.mark.parametrize('name', [
    '../evil.txt', 'data/../../evil.txt', '/tmp/evil_fibjax.txt', 'data/..',
    'C:/evil.txt', '..\\evil.txt', 'data\\..\\..\\evil.txt', '.'])
def test_a_member_that_leads_out_is_refused_before_anything_is_written(tmp_path, name):
  folder = tmp_path / 'inner'
  folder.mkdir()
  source = make_zip(folder / 'a.zip', {'good.txt': b'good', name: b'evil'})
  before = everything(tmp_path)
  with pytest.raises(InputError, match=r'a\.zip: got member .*expected paths inside'):
    unzip.unpack(source, folder / 'out')
  assert everything(tmp_path) == before


@pytest.mark.parametrize('kind', [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_device_is_refused(tmp_path, kind):
  source = make_zip(tmp_path / 'a.zip', {'data': b'/etc'}, kind | 0o777)
  with pytest.raises(InputError, match=r"member 'data', a link or device"):
    unzip.unpack(source, tmp_path / 'out')
  assert list(tmp_path.iterdir()) == [source]


def test_damage_leaves_nothing(tmp_path):
  source = make_zip(tmp_path / 'a.zip', {'a': b'first', 'b': b'0123456789' * 50})
  whole = source.read_bytes()
  at = whole.index(b'0123456789')
  changed = whole[:at + 5] + b'!' + whole[at + 6:]
  for content, message in ((whole[:-30], 'damaged zip'), (b'no zip', 'damaged zip'),
                           (b'', 'damaged zip'), (changed, 'damaged zip.*CRC')):
    source.write_bytes(content)
    with pytest.raises(InputError, match=message):
      unzip.unpack(source, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == [source]
  with pytest.raises(InputError, match='no file at'):
    unzip.unpack(tmp_path / 'b.zip', tmp_path / 'out')


def test_a_member_larger_than_it_states_is_refused(tmp_path):
  source = make_zip(tmp_path / 'a.zip', {'a': bytes(10 ** 6)},
                    compression=zipfile.ZIP_DEFLATED)
  raw = bytearray(source.read_bytes())
  with zipfile.ZipFile(source) as archive:
    start = archive.start_dir
  raw[start + 24:start + 28] = (10).to_bytes(4, 'little')  # its size in the directory
  source.write_bytes(raw)
  with pytest.raises(InputError, match='damaged zip file'):
    unzip.unpack(source, tmp_path / 'out')
  assert list(tmp_path.iterdir()) == [source]


def test_a_password_is_asked_for_by_nobody(tmp_path):
  source = make_zip(tmp_path / 'a.zip', {'a': b'secret'})
  raw = bytearray(source.read_bytes())
  with zipfile.ZipFile(source) as archive:
    start = archive.start_dir
  raw[6] |= 1  # the flag of encryption, in the member's header and in the directory
  raw[start + 8] |= 1
  source.write_bytes(raw)
  with pytest.raises(InputError, match='encrypted.*without password'):
    unzip.unpack(source, tmp_path / 'out')
  assert list(tmp_path.iterdir()) == [source]


def test_no_room(tmp_path, monkeypatch):
  source = make_zip(tmp_path / 'a.zip', {'a': b'x' * 1000})
  usage = type('Usage', (), {'free': 999})
  monkeypatch.setattr(unzip.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(InputError, match='got 1000 bytes to unpack.*the 999 bytes'):
    unzip.unpack(source, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_md5(tmp_path):
  file = tmp_path / 'a'
  file.write_bytes(b'content')
  md5 = hashlib.md5(b'content').hexdigest()
  unzip.check_md5(file, 7, md5)
  with pytest.raises(InputError, match='got 7 bytes, expected 8 bytes'):
    unzip.check_md5(file, 8, md5)
  with pytest.raises(InputError, match=f'got MD5 {md5}, expected MD5 0000'):
    unzip.check_md5(file, 7, '0' * 32)

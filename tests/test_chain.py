"""The chain: one pass, the same bytes again, and mistakes are named."""
import json

import numpy as np
import pytest
import zarr
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.preparation import (
  alignment,
  brightness,
  chain,
  destripe,
  records,
  scaling,
  steps,
)
from fibjax.preparation.steps import Step, steps_from
from fibjax.simulation.fields import smooth_noise
from fibjax.system import files
from fibjax.volumes import ome_zarr
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

ALL = 'align,gradient,brightness,destripe:levels=4,normalise:window_px=31'
SHAPE = 11, 70, 80


def stack(dtype=np.uint16, shape=SHAPE, seed=0):
  """Porous slices that change along z, drift, and have gradient, gain and stripes."""
  rng = np.random.default_rng(seed)
  n, ny, nx = shape
  field_zyx = smooth_noise((n, ny + 20, nx + 20), 5.0, rng)
  rows = np.arange(ny)[:, None] - (ny - 1) / 2
  slices = []
  for z in range(n):
    y, x = rng.integers(8, 13, 2)
    solid_yx = field_zyx[z, y:y + ny, x:x + nx] > -0.3
    grey_yx = ndimage.gaussian_filter(np.where(solid_yx, 0.6, 0.2), 1.0)
    grey_yx = grey_yx + 0.001 * rows + 0.01 * smooth_noise((nx,), 3.0, rng)
    grey_yx = grey_yx * rng.normal(1, 0.03) + rng.normal(0, 0.02, (ny, nx))
    slices.append(grey_yx)
  grey_zyx = np.array(slices)
  if np.dtype(dtype).kind == 'f':
    return grey_zyx.astype(dtype)
  return np.round(grey_zyx * np.iinfo(dtype).max).astype(dtype)


def make(path, array_zyx, **options):
  with new_volume(path, array_zyx.shape, array_zyx.dtype, (50, 10, 10),
                          **options) as new:
    write_box(new, (0, 0, 0), array_zyx)
  return open_volume(path)


def values(path):
  return zarr.open(path / '0', mode='r')[...]


def by_hand(grey_zyx):
  """The whole chain ALL on a volume in memory."""
  pairs = alignment.register_pairs(map(alignment.clip_pores, grey_zyx))
  rigid_z3 = alignment.detrend(alignment.accumulate(pairs.rigid_z3), 'highpass', 15.0)
  box = alignment.common_box(rigid_z3, grey_zyx.shape[1:])
  made = np.stack([alignment.resample(*pair, *box)
                   for pair in zip(grey_zyx, rigid_z3, strict=True)])
  beta = scaling.fit_row_gradient(made.mean((0, 2), dtype=float))
  made = scaling.subtract_row_gradient(made, beta).astype(np.float32)
  levels = [brightness.solid_level(image_yx) for image_yx in made]
  reference = brightness.reference_level(levels)
  made = np.stack([brightness.match_level(*pair, reference)
                   for pair in zip(made, levels, strict=True)])
  made = np.stack([destripe.remove_stripes(image_yx, levels=4) for image_yx in made])
  mean, sd = made.mean(dtype=float), made.std(dtype=float)
  return np.stack([mean + sd * brightness.normalise_locally(image_yx, 31, 0.01 * sd)
                   for image_yx in made])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_the_chain_is_its_steps_one_after_the_other(tmp_path, dtype):
  grey_zyx = stack(dtype)
  raw = make(tmp_path / 'raw.ome.zarr', grey_zyx)
  record = chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from(ALL))
  made, expected = values(tmp_path / 'out.ome.zarr'), by_hand(grey_zyx)
  assert made.dtype == dtype and made.shape == expected.shape
  if dtype == np.float32:
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert record['result']['clipped_voxels'] == 0
  else:
    top = np.iinfo(dtype).max
    whole = np.rint(expected)
    assert abs(made - np.clip(whole, 0, top)).max() <= 1  # last digits, then rounding
    assert np.mean(made != np.clip(whole, 0, top)) < 5e-3
    assert record['result']['clipped_voxels'] == ((whole < 0) | (whole > top)).sum()
  new = open_volume(tmp_path / 'out.ome.zarr')
  assert new.voxel_size_zyx_nm == (50, 10, 10)


@pytest.mark.parametrize('text', [ALL, 'align:trend=keep:mask=false', 'gradient',
                                  'brightness,destripe:levels=3'])
def test_replay_gives_the_same_bytes(tmp_path, text, monkeypatch):
  raw = make(tmp_path / 'raw.ome.zarr', stack())
  record = chain.apply_steps(raw, tmp_path / 'a' / 'x.ome.zarr', steps_from(text))
  file = tmp_path / 'a' / 'x.preparation.json'
  assert chain.record_path(tmp_path / 'a' / 'x.ome.zarr') == file
  assert files.read_json(file) == json.loads(json.dumps(record)) == record
  monkeypatch.setattr(steps, 'estimate', None)
  again = chain.replay(raw, files.read_json(file), tmp_path / 'b' / 'x.ome.zarr')
  assert again == record
  assert files.hash_files(tmp_path / 'a') == files.hash_files(tmp_path / 'b')
  attributes = open_volume(tmp_path / 'b' / 'x.ome.zarr').attributes
  assert attributes == {'preparation': record}


def test_slabs_of_any_depth_give_the_same_bytes(tmp_path, monkeypatch):
  grey_zyx = stack()
  results = []
  for i, (shard, depth, workers) in enumerate([
      ((11, 70, 80), 8, 2), ((1, 70, 80), 1, 1), ((3, 20, 33), 4, 3),
      ((4, 70, 80), 11, 16)]):
    raw = make(tmp_path / f'raw{i}.ome.zarr', grey_zyx, shard_zyx=shard)
    monkeypatch.setattr(ome_zarr, 'SHARD_ZYX', (depth, *shard[1:]))  # of the result
    monkeypatch.setattr(ome_zarr, 'CHUNK_ZYX', (1, 16, 16))
    monkeypatch.setattr(chain, 'READ_DEPTH', depth)
    monkeypatch.setattr(chain.os, 'cpu_count', lambda workers=workers: workers)
    record = chain.apply_steps(raw, tmp_path / f'out{i}.ome.zarr', steps_from(ALL))
    assert record['input'].pop('source') == str(raw.path)
    results.append((record, values(tmp_path / f'out{i}.ome.zarr').tobytes()))
  assert all(result == results[0] for result in results)


def test_alignment_resamples_each_slice_once_from_the_raw_data(tmp_path, monkeypatch):
  grey_zyx = stack()
  raw = make(tmp_path / 'raw.ome.zarr', grey_zyx)
  calls = []
  once = ndimage.affine_transform

  def counted(image_yx, *args, **options):
    calls.append(next(z for z, raw_yx in enumerate(grey_zyx)
                      if np.array_equal(raw_yx, image_yx)))
    return once(image_yx, *args, **options)

  monkeypatch.setattr(alignment.ndimage, 'affine_transform', counted)
  record = chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from('align'))
  assert sorted(calls) == list(range(len(grey_zyx)))
  (part,) = record['steps']
  estimated = part['estimated']
  expected = [alignment.resample(image_yx, rigid_3, estimated['start_yx'],
                                 estimated['stop_yx'])
              for image_yx, rigid_3 in zip(grey_zyx, estimated['rigid_z3'],
                                           strict=True)]
  np.testing.assert_array_equal(values(tmp_path / 'out.ome.zarr'), np.rint(expected))


def test_memory_holds_a_few_slices(tmp_path, monkeypatch):
  raw = make(tmp_path / 'raw.ome.zarr', stack(shape=(30, 40, 50)),
             shard_zyx=(5, 40, 50))
  monkeypatch.setattr(ome_zarr, 'SHARD_ZYX', (5, 40, 50))
  monkeypatch.setattr(ome_zarr, 'CHUNK_ZYX', (1, 20, 20))
  reads = []

  def watched(volume, start, stop):
    reads.append((start[0], stop[0]))
    return read_box(volume, start, stop)

  monkeypatch.setattr(records, 'read_box', watched)
  chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from('gradient,brightness'))
  assert max(stop - start for start, stop in reads) <= 8
  # the hash, two estimates and the result
  assert sum(stop - start for start, stop in reads) == 4 * 30


def test_values_beyond_the_range_are_counted(tmp_path, capsys):
  grey_zyx = stack(np.uint8)
  grey_zyx[:, :, 5] = 255  # rises above 255 where the gradient is subtracted
  raw = make(tmp_path / 'raw.ome.zarr', grey_zyx)
  record = chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from('gradient'))
  beta = record['steps'][0]['estimated']['beta_per_px']
  flat = np.rint(scaling.subtract_row_gradient(grey_zyx, beta).astype(np.float32))
  assert record['result']['clipped_voxels'] == (flat > 255).sum() > 100
  np.testing.assert_array_equal(values(tmp_path / 'out.ome.zarr'),
                                np.clip(flat, 0, 255))
  assert 'were clipped' in capsys.readouterr().err


def test_what_the_steps_are_for_is_gone(tmp_path):
  raw = make(tmp_path / 'raw.ome.zarr', stack(np.float32))
  chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from('gradient,brightness'))
  made = values(tmp_path / 'out.ome.zarr')
  before = [brightness.solid_level(image_yx).median for image_yx in stack(np.float32)]
  after = [brightness.solid_level(image_yx).median for image_yx in made]
  assert np.ptp(after) < 0.1 * np.ptp(before)
  rows = np.arange(made.shape[1])
  assert abs(np.polyfit(rows, made.mean((0, 2)), 1)[0]) < 5e-5


def test_steps_from_text():
  assert steps_from('gradient') == (Step('gradient', {}),)
  parsed = steps_from(' align : trend=linear : mask=FALSE : sigma_z=9 , destripe')
  assert parsed == (
      Step('align', {'mask': False, 'trend': 'linear', 'sigma_z': 9.0,
                     'max_angle_deg': 0.2}),
      Step('destripe', {'wavelet': 'db15', 'levels': 9, 'sigma': 2.0}))
  assert steps.complete(parsed) == parsed
  (align,) = steps.complete([Step('align', {'trend': 'keep'})])
  assert align.parameters['mask'] is True


@pytest.mark.parametrize('text, match', [
    ('', "steps: got ''"), ('align,sharpen', "got 'sharpen', expected one of align,"),
    ('gradient,align', 'got gradient,align, expected .*in this order'),
    ('align,align', 'got align,align'),
    ('align:trend', "step align: got 'trend', expected NAME=VALUE"),
    ('align:trend=keep:trend=keep', 'each name once'),
    ('align:trend=cubic', "align:trend: got 'cubic', expected one of keep, linear"),
    ('align:speed=3', "align: parameter: got 'speed', expected one of mask, trend"),
    ('alline', "did you mean 'align'"), ('align:trnd=keep', "did you mean 'trend'"),
    ('gradient:x=3', "step gradient: got parameter 'x', expected no parameter"),
    ('align:mask=yes', "align:mask: got 'yes', expected true or false"),
    ('align:sigma_z=long', "sigma_z: got 'long', expected a value like 15.0"),
    ('align:sigma_z=0', 'sigma_z: got 0.0, expected a number >= 1'),
    ('align:max_angle_deg=nan', 'max_angle_deg: got nan'),
    ('destripe:levels=2.5', "levels: got '2.5', expected a value like 9"),
    ('destripe:wavelet=morl', "wavelet: got 'morl', expected one of bior1.1")])
def test_bad_steps_are_named(text, match):
  with pytest.raises(InputError, match=match):
    steps_from(text)


def test_a_record_of_another_volume_is_refused(tmp_path):
  grey_zyx = stack()
  raw = make(tmp_path / 'raw.ome.zarr', grey_zyx)
  record = chain.apply_steps(raw, tmp_path / 'out.ome.zarr',
                             steps_from('align,gradient'))
  changed = grey_zyx.copy()
  changed[7, 3, 4] += 1
  for name, other, match in (
      ('a', changed, 'a: got hash .*of the record'),
      ('b', grey_zyx[:-1], 'got 11 of pairs_z3, expected one for each of 10'),
      ('c', grey_zyx[:, :-1], r'c: got shape \[11, 69, 80\]'),
      ('d', grey_zyx.astype(np.float32), 'd: got dtype float32')):
    volume = make(tmp_path / name, other)
    with pytest.raises(InputError, match=match):
      chain.replay(volume, record, tmp_path / 'new.ome.zarr')
  assert not (tmp_path / 'new.ome.zarr').exists()
  copy = make(tmp_path / 'copy', grey_zyx, shard_zyx=(3, 40, 33))
  assert chain.replay(copy, record, tmp_path / 'new.ome.zarr') == record


def test_a_damaged_record_is_named(tmp_path):
  raw = make(tmp_path / 'raw.ome.zarr', stack())
  record = chain.apply_steps(raw, tmp_path / 'out.ome.zarr',
                             steps_from('align,gradient'))
  damaged = [({}, 'preparation record: got no'), ([], 'preparation record'),
             ({**record, 'steps': [{'name': 'align'}]}, "got no 'parameters'"),
             ({**record, 'steps': []}, 'steps: got none')]
  for key in ('rigid_z3', 'start_yx'):
    bad = json.loads(json.dumps(record))
    del bad['steps'][0]['estimated'][key]
    damaged.append((bad, r'record of step align: got estimates \['))
  for bad, match in damaged:
    with pytest.raises(InputError, match=match):
      chain.replay(raw, bad, tmp_path / 'new.ome.zarr')
  assert not (tmp_path / 'new.ome.zarr').exists()


def test_other_digits_than_recorded_are_said(tmp_path, capsys):
  raw = make(tmp_path / 'raw.ome.zarr', stack())
  record = chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from('gradient'))
  record['result']['hash'] = '0'
  chain.replay(raw, record, tmp_path / 'new.ome.zarr')
  assert 'not the voxels of the record' in capsys.readouterr().err


def test_bad_volumes_are_named_and_nothing_is_left(tmp_path):
  def refused(name, grey_zyx, match, text='align,gradient,brightness'):
    raw = make(tmp_path / name, grey_zyx)
    with pytest.raises(InputError, match=match):
      chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from(text))
    assert not list(tmp_path.glob('out*'))
  grey_zyx = stack(np.float32)
  for value in (np.nan, np.inf):
    bad = grey_zyx.copy()
    bad[9, 3, 4] = value
    refused(f'n{value}', bad, f'n{value} slice z=9: got NaN or infinite')
  blank = grey_zyx.copy()
  blank[3] = 0.5
  refused('b', blank, r'b z=3 slice: got 0\.5 in every pixel')
  refused('c', blank, 'slice z=3: got one grey value', 'align:mask=false')
  refused('i', np.zeros((2, 20, 20), np.int32), 'i: got dtype int32')
  raw = make(tmp_path / 'raw', grey_zyx)
  (tmp_path / 'x.preparation.json').write_text('{}')
  with pytest.raises(InputError, match='x.preparation.json: got a path that already'):
    chain.apply_steps(raw, tmp_path / 'x.ome.zarr', steps_from('gradient'))


def test_one_slice_can_be_prepared(tmp_path):
  raw = make(tmp_path / 'raw', stack(shape=(1, 60, 70)))
  record = chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from(ALL))
  assert record['steps'][0]['estimated']['rigid_z3'] == [[0, 0, 0]]
  assert record['result']['shape'] == [1, 60, 70]


class Killed(BaseException):
  """Stands for a kill: no handler of mistakes catches it."""


def kill(*_):
  raise Killed


@pytest.mark.parametrize('again', ['apply_steps', 'replay'])
def test_a_kill_before_the_copy_of_the_record_loses_nothing(tmp_path, monkeypatch,
                                                            again):
  raw = make(tmp_path / 'raw', stack())
  chain_steps = steps_from('align:mask=false,gradient')
  expected = chain.apply_steps(raw, tmp_path / 'whole.ome.zarr', chain_steps)
  out, copy = tmp_path / 'out.ome.zarr', tmp_path / 'out.preparation.json'
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(chain.files, 'write_json', lambda path, *rest, write=(
        files.write_json), **options: kill() if path == copy else write(
            path, *rest, **options))
    chain.apply_steps(raw, out, chain_steps)
  assert open_volume(out).attributes == {'preparation': expected}
  assert not copy.exists()
  stamp = files.stamp_files(out)
  with pytest.raises(InputError, match='out.ome.zarr: got a path that already exists'):
    chain.apply_steps(raw, out, steps_from('gradient'))  # another call
  other = make(tmp_path / 'other', stack(seed=1))
  with pytest.raises(InputError, match='out.ome.zarr: got a path that already exists'):
    chain.apply_steps(other, out, chain_steps)
  assert not copy.exists()
  made = (chain.apply_steps(raw, out, chain_steps) if again == 'apply_steps' else
          chain.replay(raw, expected, out))
  assert made == expected == files.read_json(copy)
  assert files.stamp_files(out) == stamp


def test_a_kill_before_the_record_is_in_the_volume_leaves_no_volume(tmp_path,
                                                                    monkeypatch):
  raw = make(tmp_path / 'raw', stack())
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(chain, 'write_attributes', kill)
    chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from('gradient'))
  assert not (tmp_path / 'out.ome.zarr').exists()
  chain.apply_steps(raw, tmp_path / 'out.ome.zarr', steps_from('gradient'))


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_an_array_gets_the_bits_of_the_volume(tmp_path, dtype):
  grey_zyx = stack(dtype)
  made = chain.apply_steps(make(tmp_path / 'raw', grey_zyx), tmp_path / 'out.ome.zarr',
                           steps_from(ALL))
  for array in (grey_zyx, np.asfortranarray(grey_zyx)):
    corrected = chain.apply_steps_to_array(array, ALL)
    np.testing.assert_array_equal(corrected.image_zyx,
                                  values(tmp_path / 'out.ome.zarr'))
    assert corrected.image_zyx.dtype == dtype
    assert corrected.record['input'].pop('source') == 'image_zyx'
    for key in ('steps', 'result'):
      assert corrected.record[key] == made[key]
  again = chain.replay_on_array(grey_zyx, made)
  np.testing.assert_array_equal(again.image_zyx, corrected.image_zyx)
  assert again.record == made


def test_bad_arrays_are_named():
  grey_zyx = stack(np.float32)
  for array, match in ((grey_zyx[0], 'image_zyx: got an array of shape'),
                       (grey_zyx.astype(float), 'image_zyx: got dtype float64'),
                       (np.where(grey_zyx > 9, 0, np.nan).astype(np.float32),
                        'image_zyx slice z=0: got NaN')):
    with pytest.raises(InputError, match=match):
      chain.apply_steps_to_array(array, 'gradient')
  made = chain.apply_steps_to_array(grey_zyx, steps_from('gradient')).record
  with pytest.raises(InputError, match='image_zyx: got hash .*of the record'):
    chain.replay_on_array(grey_zyx + np.float32(1e-3), made)

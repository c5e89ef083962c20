"""Pre-processing against least squares done by numpy, and its records replayed."""
import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fibjax.errors import InputError
from fibjax.preparation import scaling
from fibjax.volumes import ome_zarr
from fibjax.volumes.volume import new_volume, open_volume, write_box


def make(path, array_zyx, size=(50, 10, 10), **options):
  with new_volume(path, array_zyx.shape, array_zyx.dtype, size,
                  **options) as new:
    write_box(new, (0, 0, 0), array_zyx)
  return open_volume(path)


def values(path):
  return zarr.open(path / '0', mode='r')[...]


def film(shape=(19, 40, 30), slope=0.0, dtype=np.uint16, seed=0):
  rows = np.arange(shape[1])[:, None] - (shape[1] - 1) / 2
  grey = np.random.default_rng(seed).normal(0.5, 0.05, shape) + slope * rows
  if np.dtype(dtype).kind == 'f':
    return grey.astype(dtype)
  return np.round(grey * np.iinfo(dtype).max).astype(dtype)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 99))
def test_slope_of_the_means_is_the_slope_of_all_voxels(n, seed):
  grey = np.random.default_rng(seed).normal(size=(3, n, 4))
  rows = np.broadcast_to(np.arange(n)[:, None], grey.shape)
  expected = np.polyfit(rows.ravel(), grey.ravel(), 1)[0]
  got = scaling.fit_row_gradient(grey.mean((0, 2)))
  np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_subtraction_keeps_the_mean_and_is_idempotent():
  grey = film(slope=0.002, dtype=np.float64)
  beta = scaling.fit_row_gradient(grey.mean((0, 2)))
  flat = scaling.subtract_row_gradient(grey, beta)
  assert abs(flat.mean() - grey.mean()) < 1e-12
  assert abs(scaling.fit_row_gradient(flat.mean((0, 2)))) < 1e-15
  assert scaling.fit_row_gradient(np.ones(1)) == 0.0


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_a_known_gradient_is_found_and_removed(tmp_path, dtype):
  slope, shape = 0.003, (19, 40, 30)
  source = make(tmp_path / 'raw', film(shape, slope, dtype))
  record = scaling.prepare_volume(source, tmp_path / 'out')
  # standard error of an OLS slope with noise 0.05 on every voxel
  rows = np.arange(shape[1]) - (shape[1] - 1) / 2
  error = 0.05 / np.sqrt(shape[0] * shape[2] * (rows @ rows))
  assert abs(record['beta_per_px'] - slope) < 3 * error
  prepared = values(tmp_path / 'out')
  top = 1 if dtype == np.float32 else np.iinfo(dtype).max
  scaled = values(tmp_path / 'raw').astype(float) / top
  assert prepared.dtype == np.float32
  assert abs(prepared.mean(dtype=float) - scaled.mean()) < 1e-6
  np.testing.assert_allclose(
      prepared, scaled - record['beta_per_px'] * rows[:, None], atol=1e-7)
  again = scaling.prepare_volume(open_volume(tmp_path / 'out'),
                                 tmp_path / 'again')
  assert abs(again['beta_per_px']) < 1e-9


def test_without_gradient_only_the_range_of_the_dtype_counts(tmp_path):
  grey = np.array([[[0, 65535], [1, 30000]]], np.uint16)
  record = scaling.prepare_volume(make(tmp_path / 'a', grey), tmp_path / 'b',
                                  gradient=False)
  np.testing.assert_allclose(values(tmp_path / 'b'), grey / 65535, rtol=1e-7)
  assert record['beta_per_px'] == 0 and record['gradient_removed'] is False


def test_minmax_of_the_volume(tmp_path):
  grey = np.random.default_rng(0).normal(900, 40, (11, 8, 9)).astype(np.float32)
  scaling.prepare_volume(make(tmp_path / 'a', grey), tmp_path / 'b',
                         scale='minmax_volume', gradient=False)
  got = values(tmp_path / 'b')
  assert got.min() == pytest.approx(0, abs=1e-6) and got.max() == pytest.approx(1)
  np.testing.assert_allclose(got, (grey - grey.min()) / np.ptp(grey), atol=1e-5)


def test_standard_scale_is_the_same_for_any_brightness_and_contrast(tmp_path):
  grey = np.random.default_rng(0).normal(9000, 400, (7, 8, 9)).round()
  got = []
  for k, changed in enumerate((grey, 3 * grey + 500)):
    scaling.prepare_volume(make(tmp_path / f'a{k}', changed.astype(np.uint16)),
                           tmp_path / f'b{k}', scale='standard', gradient=False)
    got.append(values(tmp_path / f'b{k}'))
  assert got[0].mean() == pytest.approx(0.5, abs=1e-6)
  assert got[0].std() == pytest.approx(0.25, abs=1e-6)
  np.testing.assert_allclose(got[1], got[0], atol=1e-6)


def test_values_are_not_clipped(tmp_path):
  rows = np.array([0, 0, 0, 255])[:, None] * np.ones((1, 1, 5))
  scaling.prepare_volume(make(tmp_path / 'a', rows.astype(np.uint8)), tmp_path / 'b')
  # means 0 0 0 1: slope 0.3, so the rows become 0.45 0.15 -0.15 0.55
  np.testing.assert_allclose(values(tmp_path / 'b')[0, :, 0],
                             [0.45, 0.15, -0.15, 0.55], atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_shards_of_any_shape_give_what_whole_slices_give(tmp_path, monkeypatch, dtype):
  grey = film((9, 23, 31), 0.004, dtype)
  row_means = grey.mean((0, 2), dtype=np.float64)
  top = 1 if dtype == np.float32 else np.iinfo(dtype).max
  beta = scaling.fit_row_gradient(row_means / top)
  whole = grey.astype(np.float64) / top - beta * (np.arange(23) - 11)[:, None]
  for i, shard in enumerate([(9, 23, 31), (1, 23, 31), (2, 5, 7), (4, 1, 31), (9, 4, 3),
                             (3, 50, 2)]):
    source = make(tmp_path / f'raw{i}', grey, shard_zyx=shard)
    monkeypatch.setattr(ome_zarr, 'SHARD_ZYX', shard[::-1])  # of the prepared volume
    monkeypatch.setattr(ome_zarr, 'CHUNK_ZYX', (1, 1, 1))
    record = scaling.prepare_volume(source, tmp_path / f'out{i}')
    assert (record['minimum'], record['maximum']) == (grey.min(), grey.max())
    assert record['mean'] == pytest.approx(row_means.mean(), rel=1e-12)
    assert record['beta_per_px'] == pytest.approx(beta, rel=1e-9)
    prepared = values(tmp_path / f'out{i}')
    np.testing.assert_allclose(prepared, whole, rtol=0, atol=1e-6)
    if dtype != np.float32:  # sums of integers do not depend on their order
      np.testing.assert_array_equal(prepared, values(tmp_path / 'out0'))


@pytest.mark.parametrize('scale', scaling.SCALES)
def test_the_record_is_json_and_replays(tmp_path, scale):
  grey = film(slope=-0.001)
  source = make(tmp_path / 'a', grey)
  record = scaling.prepare_volume(source, tmp_path / 'b', scale=scale)
  record = json.loads(json.dumps(record, allow_nan=False))
  assert record['row_mean'] == 19.5 and record['source'] == str(source.path)
  assert record['mean'] == pytest.approx(grey.mean())
  assert (record['minimum'], record['maximum']) == (grey.min(), grey.max())
  np.testing.assert_array_equal(scaling.apply_record(grey[7:9], record),
                                values(tmp_path / 'b')[7:9])
  np.testing.assert_array_equal(
      scaling.apply_record(grey[7:9, 5:9], record, first_row=5),
      values(tmp_path / 'b')[7:9, 5:9])
  prepared = open_volume(tmp_path / 'b')
  assert prepared.attributes == {'preprocessing': record}
  assert prepared.voxel_size_zyx_nm == (50, 10, 10)


@pytest.mark.parametrize('scale, gradient', [
    ('dtype', True), ('dtype', False), ('minmax_volume', True), ('standard', True)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('shape', [(19, 40, 30), (2, 3, 1500), (1, 1, 2)])
def test_an_array_gets_the_bits_of_the_volume(tmp_path, shape, dtype, scale, gradient):
  """3 x 1500 px is wider than a shard, so that rows are summed in parts."""
  grey = film(shape, 0.002, dtype)
  scaling.prepare_volume(make(tmp_path / 'a', grey), tmp_path / 'b', scale=scale,
                         gradient=gradient)
  for array in (grey, np.asfortranarray(grey), grey.astype(grey.dtype.newbyteorder())):
    got = scaling.scale_image(array, scale=scale, gradient=gradient)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.int32),
                                  values(tmp_path / 'b').view(np.int32))


def test_bad_arrays_are_named():
  def refused(grey, match, **options):
    with pytest.raises(InputError, match=match):
      scaling.scale_image(grey, **options)
  refused(film()[0], r'image_zyx: got an array of shape \(40, 30\)')
  refused(np.zeros((0, 3, 4)), 'image_zyx: got an array of shape')
  refused(np.full((2, 3, 4), 7, np.uint16), 'image_zyx: got 7 in every voxel')
  refused(film() > 9, 'image_zyx: got dtype bool')
  refused(film(), "prepare.scale: got 'slice'", scale='slice')
  grey = film(dtype=np.float32)
  grey[3, 2, 1] = np.nan
  refused(grey, 'image_zyx slice z=3: got NaN')


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_slice_that_is_not_finite_is_named(tmp_path, bad):
  grey = film(dtype=np.float32)
  grey[13, 2, 3] = bad
  with pytest.raises(InputError, match='a slice z=13: got NaN or infinite'):
    scaling.prepare_volume(make(tmp_path / 'a', grey), tmp_path / 'b')
  assert sorted(f.name for f in tmp_path.iterdir()) == ['a']


def test_other_bad_volumes_are_named(tmp_path):
  def refused(name, grey, match, **options):
    with pytest.raises(InputError, match=match):
      scaling.prepare_volume(make(tmp_path / name, grey), tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()
  refused('c', np.full((2, 3, 4), 7, np.uint16), 'c: got 7 in every voxel')
  refused('i', np.arange(24, dtype=np.int32).reshape(2, 3, 4), 'i: got dtype int32')
  refused('s', film(), "prepare.scale: got 'slice'", scale='slice')
  refused('f', film(dtype=np.float32) * 65535, "f: got float values .*minmax_volume")

import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.annotation import contexts
from fibjax.annotation.regions import make_regions
from fibjax.errors import InputError
from fibjax.models import windows
from fibjax.training import sampling
from fibjax.volumes.volume import new_volume, open_volume, write_box


@pytest.fixture
def film(tmp_path):
  """A volume whose every voxel is different, and regions at its faces."""
  array = np.arange(6 * 40 * 50, dtype=np.float32).reshape(6, 40, 50)
  with new_volume(tmp_path / 'a', array.shape, np.float32, None) as volume:
    write_box(volume, (0, 0, 0), array)
  table = make_regions(
      ('a', 'a', 'a'), [(0, 0, 0), (5, 32, 42), (2, 10, 20)],
      [np.zeros((8, 8), np.uint8)] * 3)
  return array, {'a': open_volume(tmp_path / 'a')}, table


@pytest.mark.parametrize('margin, n_z', [(8, 1), (8, 5), (23, 3)])
def test_gathered_neighbourhoods_equal_numpy_mirroring(film, margin, n_z):
  array, opened, table = film
  context = contexts.cut_contexts(opened, table, margin, n_z)
  padded = np.pad(array, ((n_z // 2,) * 2, (margin,) * 2, (margin,) * 2), 'reflect')
  voxels = np.array([(r, y, x) for r in range(3) for y in (0, 3, 7) for x in (0, 7)],
                    np.int32)
  side = 2 * margin + 1
  found = windows.gather_windows(jnp.asarray(context), voxels, side)
  for voxel, patch in zip(voxels, found, strict=True):
    r, y, x = voxel
    z, y, x = table.z[r], table.y[r] + y, table.x[r] + x
    expected = padded[z:z + n_z, y:y + side, x:x + side]
    np.testing.assert_array_equal(patch, np.moveaxis(expected, 0, -1))
    assert patch[margin, margin, n_z // 2] == array[z, y, x]


def test_gathered_labels_are_those_of_the_window():
  masks = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 20, 20)), jnp.uint8)
  found = windows.gather_labels(masks, jnp.asarray([[1, 3, 4]], jnp.int32), 6)
  np.testing.assert_array_equal(found[0], masks[1, 3:9, 4:10])
  assert found.dtype == jnp.uint8


@pytest.mark.parametrize('regions, per_class', [(180, 58982), (60, 19660)])
def test_published_sample_counts(regions, per_class):
  random = np.random.default_rng(1)
  masks = (random.random((regions, 256, 256)) < 0.68).astype(np.uint8)
  voxels = sampling.sample_voxels(masks, 0.01, seed=3)
  labels = masks[tuple(voxels.T)]
  assert len(voxels) == 2 * per_class
  assert (labels == 0).sum() == (labels == 1).sum() == per_class
  assert len(np.unique(voxels, axis=0)) == len(voxels)
  half = labels[:len(labels) // 2].mean()
  assert abs(half - 0.5) < 0.02  # classes are mixed, not one after the other


def test_sampling_skips_unlabelled_voxels_and_follows_the_seed():
  masks = np.full((1, 30, 30), 255, np.uint8)
  masks[0, :10, :10], masks[0, 10:20, :10] = 0, 1
  voxels = sampling.sample_voxels(masks, 0.5, seed=0)
  assert len(voxels) == 100
  assert set(masks[tuple(voxels.T)]) == {0, 1}
  np.testing.assert_array_equal(voxels, sampling.sample_voxels(masks, 0.5, seed=0))
  assert (voxels != sampling.sample_voxels(masks, 0.5, seed=1)).any()


def test_a_missing_or_rare_class_is_named():
  masks = np.ones((1, 10, 10), np.uint8)
  with pytest.raises(InputError, match='class pore: got 0'):
    sampling.sample_voxels(masks, 0.1, seed=0)
  masks[0, 0, 0] = 0
  with pytest.raises(InputError, match='class pore: got 1, expected at least 5'):
    sampling.sample_voxels(masks, 0.1, seed=0)


def test_contexts_beyond_device_memory_name_the_size(film, monkeypatch):
  _, _, table = film
  monkeypatch.setattr(contexts, 'device_memory_bytes', lambda: 1000)
  with pytest.raises(InputError, match=r'GiB of image around 3 regions'):
    contexts.check_memory(table, 8, 1)

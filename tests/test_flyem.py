"""The FlyEM task: boundary labels by hand and by brute force; the real files."""
import numpy as np
import pytest

from fibjax.annotation.regions import check_regions
from fibjax.datasets import flyem
from fibjax.errors import InputError
from fibjax.volumes.volume import open_volume, read_box


def brute_force(bodies_zyx):
  """The definition, voxel by voxel."""
  edge = np.zeros(bodies_zyx.shape, bool)
  nz, ny, nx = bodies_zyx.shape
  for z, y, x in np.ndindex(nz, ny, nx):
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
      if 0 <= y + dy < ny and 0 <= x + dx < nx:
        ids = bodies_zyx[z, y, x], bodies_zyx[z, y + dy, x + dx]
        edge[z, y, x] |= 0 not in ids and ids[0] != ids[1]
  labels = np.ones(bodies_zyx.shape, np.uint8)
  for z, y, x in np.argwhere(edge):
    labels[z, max(y - 1, 0):y + 2, max(x - 1, 0):x + 2] = 0
  labels[bodies_zyx == 0] = 255
  return labels


@pytest.mark.parametrize('seed', range(4))
def test_boundary_labels_are_the_definition(seed):
  rng = np.random.default_rng(seed)
  bodies = rng.integers(0, 3, (3, 4, 5)).repeat(4, 1).repeat(4, 2).astype(np.uint16)
  got = flyem.boundary_labels(bodies)
  assert got.dtype == np.uint8 and set(np.unique(got)) == {0, 1, 255}
  np.testing.assert_array_equal(got, brute_force(bodies))


def test_slices_do_not_see_each_other():
  bodies = np.ones((2, 5, 5), np.uint16)
  bodies[1] = 2
  assert (flyem.boundary_labels(bodies) == 1).all()


def test_the_real_volume(shared_data, tmp_path):
  root = shared_data / 'flyem_medulla_fibsem'
  table = flyem.load_flyem(root, tmp_path)
  raw = open_volume(tmp_path / 'raw.ome.zarr')
  truth = open_volume(tmp_path / 'truth.ome.zarr')
  assert raw.shape == truth.shape == (180, 250, 250) and raw.dtype == np.uint8
  assert raw.voxel_size_zyx_nm == truth.voxel_size_zyx_nm == (10, 10, 10)
  labels = read_box(truth, (0, 0, 0), truth.shape)
  assert round(float((labels == 0).mean()), 2) == 0.23
  assert float((labels == 255).mean()) == pytest.approx(1.6e-5, abs=5e-7)
  np.testing.assert_array_equal(table.masks_ryx, labels)
  np.testing.assert_array_equal(table.z, np.arange(180))
  assert table.split == ('train',) * 120 + ('val',) * 30 + ('test',) * 30
  check_regions(table, {flyem.NAME: raw.shape})
  # membranes are darker than the inside of neurons: the two files are aligned
  grey = read_box(raw, (0, 0, 0), raw.shape)
  assert grey[labels == 0].mean() < grey[labels == 1].mean() - 10
  again = flyem.load_flyem(root, tmp_path)
  np.testing.assert_array_equal(again.masks_ryx, table.masks_ryx)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(InputError, match='bodies_z180.*tif: got no such file'):
    flyem.load_flyem(tmp_path, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()

"""What the viewer is given: lazily read volumes, in place and in order."""
import sys

import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.report import viewer
from fibjax.report.viewer import SlicedVolume, add, layers_of, show
from fibjax.volumes.volume import create_volume, read_box, write_box
from tests.helpers import make_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('view') / 'w')


@pytest.mark.parametrize('index', [
    0, -1, slice(None), slice(1, 4, 2), (2,), (2, 5), (slice(1, 3), slice(4, 9), 7),
    (1, slice(None), slice(None, None, 3)), ()])
def test_a_sliced_volume_is_the_array(tmp_path, index):
  array = np.random.default_rng(0).random((5, 12, 13)).astype(np.float32)
  volume = create_volume(tmp_path / 'v', array.shape, array.dtype, None)
  write_box(volume, (0, 0, 0), array)
  lazy = SlicedVolume(volume)
  np.testing.assert_array_equal(lazy[index], array[index])
  np.testing.assert_array_equal(np.asarray(lazy), array)
  assert (lazy.shape, lazy.dtype, lazy.ndim) == (array.shape, array.dtype, 3)


def test_one_slice_reads_one_slice(tmp_path, monkeypatch):
  volume = create_volume(tmp_path / 'v', (9, 8, 8), np.uint8, None)
  boxes = []
  monkeypatch.setattr(viewer, 'read_box',
                      lambda v, a, b: boxes.append((a[0], b[0])) or read_box(v, a, b))
  assert SlicedVolume(volume)[4].shape == (8, 8)
  assert boxes == [(4, 5)]


def test_layers_of_a_run_lie_in_micrometres(folder):
  layers = {layer.options['name']: layer for layer in layers_of(folder)}
  assert list(layers) == [f'{name} {part}' for name in ('HPC22', 'HPC30') for part in (
      'image', 'score', 'segmentation', 'regions')]
  assert [n for n, layer in layers.items() if layer.options['visible']] == [
      'HPC22 image', 'HPC22 segmentation', 'HPC22 regions']
  assert all(layer.options['scale'] == (0.05, 0.01, 0.01) for layer in layers.values())
  assert layers['HPC22 segmentation'].kind == 'labels'
  assert layers['HPC22 score'].options['contrast_limits'] == (0, 1)
  frames = layers['HPC30 regions']
  assert frames.options['edge_color'] == ['yellow', 'cyan', 'magenta']
  np.testing.assert_array_equal(frames.data[1], [
      (1, 4.5, 9.5), (1, 4.5, 49.5), (1, 36.5, 49.5), (1, 36.5, 9.5)])


def test_a_single_volume_is_shown(folder):
  (image,) = layers_of(folder / 'prepared.ome.zarr' / 'HPC22')
  (labels,) = layers_of(folder / 'segmentation.ome.zarr' / 'HPC22')
  assert (image.kind, labels.kind) == ('image', 'labels')
  with pytest.raises(InputError, match='no such folder'):
    layers_of(folder / 'absent')


def test_without_napari_it_says_how_to_install_it(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, 'napari', None)
  with pytest.raises(InputError, match=r'pip install.*fibjax\[view\]'):
    show(folder)


def test_napari_takes_the_layers(folder, monkeypatch):
  monkeypatch.setenv('QT_QPA_PLATFORM', 'offscreen')
  components = pytest.importorskip('napari.components', exc_type=ImportError)
  model = components.ViewerModel()
  add(model, layers_of(folder))
  assert [layer.name for layer in model.layers][:2] == ['HPC22 image', 'HPC22 score']
  np.testing.assert_allclose(model.layers['HPC22 image'].scale, (0.05, 0.01, 0.01))
  colours = model.layers['HPC22 segmentation'].get_color(1)
  np.testing.assert_allclose(colours, (0.9, 0, 0, 1), atol=0.01)

"""Viewer: image, scores, segmentation and regions of a workdir in napari.

napari is an optional dependency (`pip install -e .[view]`), imported only by `show` and
`add`. Volumes are read slice by slice as they are displayed. Coordinates are in
micrometres where the voxel size is known, in voxels otherwise.
"""
import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fibjax.annotation.regions import select_regions
from fibjax.errors import InputError
from fibjax.metrics.labels import PORE, SOLID, UNLABELLED
from fibjax.report import sources
from fibjax.system.run_folder import RunFolder, volume_name
from fibjax.volumes.volume import Volume, open_volume, read_box

_LABEL_COLOURS = {PORE: (0., 0.75, 0., 1.), SOLID: (0.9, 0., 0., 1.),
                  None: (0., 0., 0., 0.)}


class Layer(NamedTuple):
  """A layer of the viewer.

  Attributes:
    kind: 'image', 'labels' or 'shapes'; napari's add_<kind> takes it.
    data: array-like [z, y, x], or a list of rectangles [4 corners, z y x].
    options: keyword arguments of add_<kind>.
  """
  kind: str
  data: object
  options: dict


class SlicedVolume:
  """A volume as a read-only array that is read when indexed.

  napari asks for shape, ndim, dtype and [index]; only the slices asked for are read,
  each as a whole.
  """

  def __init__(self, volume: Volume):
    self._volume = volume
    self.shape, self.dtype, self.ndim = volume.shape, volume.dtype, 3

  def __getitem__(self, index) -> np.ndarray:
    index = index if isinstance(index, tuple) else (index,)
    z = index[0] if index else slice(None)
    if not isinstance(z, slice):
      z = range(self.shape[0])[z]
      return self[(slice(z, z + 1), *index[1:])][0]
    start, stop, step = z.indices(self.shape[0])
    slices_zyx = read_box(self._volume, (start, 0, 0), (stop, *self.shape[1:]))
    return slices_zyx[(slice(None, None, step), *index[1:])]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(self[:], dtype)


def layers_of(folder) -> list[Layer]:
  """Lists the layers of a workdir, volume by volume; only the first is visible.

  Args:
    folder: workdir of a run, or a single volume.

  Raises:
    InputError: when there is nothing to show.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(str(folder), got='no such folder', expected="a run's workdir or a "
                     'volume', remedy='check the path')
  run = RunFolder(folder)
  films = sources.open_films(run)
  if not films:
    image = open_volume(folder)
    kind = 'labels' if image.dtype == np.uint8 and _is_binary(image) else 'image'
    return [_layer(kind, volume_name(folder), image, True)]
  regions = sources.load_regions_if_any(run, [])
  layers = []
  for i, film in enumerate(films):
    for kind, field, options in (
        ('image', 'image', {}),
        ('image', 'score', {'colormap': 'viridis', 'opacity': 0.4,
                            'contrast_limits': (0, 1)}),
        ('labels', 'segmentation', {'opacity': 0.4})):
      volume = getattr(film, field)
      if volume is not None:
        layers.append(_layer(kind, f'{film.name} {field}', volume,
                             i == 0 and field != 'score', **options))
    if regions is not None and film.image is not None:
      layers += _rectangles(film, regions, i == 0)
  return layers


def show(folder) -> None:
  """Opens the viewer and returns when it is closed.

  Args:
    folder: workdir of a run, or a single volume.

  Raises:
    InputError: when napari is not installed, or as `layers_of`.
  """
  layers = layers_of(folder)
  try:
    napari = importlib.import_module('napari')
  except ImportError:
    raise InputError('fibjax view', got='napari is not installed',
                     expected='the optional dependency "view"',
                     remedy='pip install "fibjax[view]", in a checkout '
                     'pip install -e .[view]') from None
  add(napari.Viewer(title=f'fibjax {folder}'), layers)
  napari.run()


def add(viewer, layers: list[Layer]) -> None:
  """Adds layers to a napari viewer."""
  for layer in layers:
    options = layer.options
    if layer.kind == 'labels':
      colours = importlib.import_module('napari.utils').DirectLabelColormap
      options = options | {'colormap': colours(color_dict=_LABEL_COLOURS)}
    getattr(viewer, f'add_{layer.kind}')(layer.data, **options)


def _layer(kind, name, volume, visible, **options) -> Layer:
  if kind == 'image' and 'contrast_limits' not in options:
    z = volume.shape[0] // 2
    slice_yx = read_box(volume, (z, 0, 0), (z + 1, *volume.shape[1:]))
    low, high = np.percentile(slice_yx, (0.5, 99.5)).tolist()
    options['contrast_limits'] = (low, high if high > low else low + 1)
  return Layer(kind, SlicedVolume(volume), {
      'name': name, 'visible': visible, **_placed(volume), **options})


def _placed(volume) -> dict:
  if volume.voxel_size_zyx_nm is None:
    return {}
  return {'scale': tuple(nm / 1000 for nm in volume.voxel_size_zyx_nm),
          'units': ('um',) * 3}


def _is_binary(volume) -> bool:
  first = read_box(volume, (0, 0, 0), (1, *volume.shape[1:]))
  return set(np.unique(first).tolist()) <= {PORE, SOLID, UNLABELLED}


def _rectangles(film, regions, visible) -> list[Layer]:
  """Makes the layer of a film's region outlines, coloured by split."""
  chosen = select_regions(regions, volume=film.name)
  if not len(chosen.volume):
    return []
  corners = []
  for r in range(len(chosen.volume)):
    z, y, x = int(chosen.z[r]), int(chosen.y[r]), int(chosen.x[r])
    bottom, right = y + int(chosen.heights[r]), x + int(chosen.widths[r])
    # in napari pixel i covers i - 0.5 to i + 0.5
    corners.append(np.array([(z, a - 0.5, b - 0.5) for a, b in (
        (y, x), (y, right), (bottom, right), (bottom, x))]))
  colours = {'train': 'yellow', 'val': 'cyan', 'test': 'magenta'}
  return [Layer('shapes', corners, {
      'name': f'{film.name} regions', 'visible': visible, 'shape_type': 'rectangle',
      'face_color': 'transparent', 'edge_width': 2,
      'edge_color': [colours.get(split, 'white') for split in chosen.split],
      **_placed(film.image)})]

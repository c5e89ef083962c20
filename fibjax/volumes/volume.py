"""A volume on disk: OME-Zarr 0.5, one level, zarr v3 with shards.

A volume is a folder: `zarr.json`, the OME group, and the array `0` with axes z, y, x in
nanometres, or c, z, y, x where a voxel has several named values, the channels. Readers
that ask for no channel get the first. Free JSON that fibjax keeps with a volume is in
the group under `attributes.fibjax`. A volume of unknown voxel size has scale 1 without
a unit, and a flag in that JSON; a size is never guessed. Boxes are half-open
[start, stop) in voxels, z, y, x.

The array is stored in shards: a shard is one file and the unit of writing. It is made
of inner chunks, the unit of reading, each compressed by itself, so that a small box is
read without its whole shard.

Invariants:
* `new_volume` leaves a whole volume or none: it writes beside the target and renames.
* Each inner chunk ends in a checksum, so a damaged shard is an error, not noise; a
  checksum of the metadata is kept in `attributes.fibjax`. With fill_value=None, a
  promise that every voxel will be written, a missing shard is an error as well;
  otherwise voxels that were never written read as the fill value.
* One writer per shard: writing a part of a shard reads all of it and writes it again.
  Two writers of one shard would lose each other's voxels.

No other module uses tensorstore.
"""
import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import tensorstore as ts

from fibjax.errors import InputError
from fibjax.system import files, geometry, refusals
from fibjax.system.run_folder import volume_name
from fibjax.volumes import ome_zarr
from fibjax.volumes.metadata import (
  CHECKSUM,
  LEVEL,
  UNKNOWN_SIZE,
  check_dtype,
  check_layout,
  check_metadata,
  check_room,
  check_volume_shape,
  describe_image,
  not_a_volume,
  read_group,
  read_json_group,
  size_from_ome,
  write_metadata,
)
from fibjax.volumes.voxel_size import check_voxel_size

# No cache: it gave no speed-up where it was tried, and its memory grows (2026-11).
_CONTEXT = ts.Context({'cache_pool': {'total_bytes_limit': 0}})
_ALL_STORED = 'every_shard_stored'
_OWN_KEYS = (UNKNOWN_SIZE, _ALL_STORED, CHECKSUM)  # of attributes.fibjax


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
  """An open volume; read and write it with the functions of this module.

  Attributes:
    path: folder of the OME-Zarr group.
    store: TensorStore handle of the array; only this module uses it.
    shape: voxels in z, y, x.
    dtype: numpy dtype of a voxel.
    voxel_size_zyx_nm: nm per voxel in z, y, x; None when unknown.
    attributes: free JSON kept with the volume.
    channels: names of the values of a voxel; () for a single value without a name.
  """
  path: Path
  store: object
  shape: tuple[int, int, int]
  dtype: np.dtype
  voxel_size_zyx_nm: tuple[float, float, float] | None
  attributes: dict
  channels: tuple[str, ...]


def open_volume(path) -> Volume:
  """Opens a volume for reading and writing.

  Raises:
    InputError: when path is not an OME-Zarr 0.5 image with axes z, y, x, or is damaged.

  Example:
    >>> import fibjax
    >>> volume = fibjax.open_volume('film.ome.zarr')
    >>> volume.shape, str(volume.dtype)
    ((36, 64, 64), 'uint16')
  """
  path = Path(path)
  ome, fibjax_attributes = read_group(path)
  folder, scale, units, channels = describe_image(path, ome)
  all_stored = fibjax_attributes.get(_ALL_STORED, False)
  check_layout(folder, all_stored and not files.is_partial(path))
  with store_errors(folder):
    store = open_array(folder, 'zarr3', {
        'fill_missing_data_reads': not all_stored,
        'store_data_equal_to_fill_value': all_stored}, open=True)
  if store.rank != 3 + bool(channels) or channels and store.shape[0] != len(channels):
    raise not_a_volume(path, f'an array of {store.rank} axes, {len(channels)} channels')
  size = size_from_ome(path, scale, units, fibjax_attributes)
  check_metadata(path, ome, fibjax_attributes)
  return _volume(path, store, size, fibjax_attributes, channels)


def check_image(name: str, image_zyx) -> np.ndarray:
  """Returns an array; raises InputError unless it has axes z, y, x and a voxel."""
  image_zyx = np.asarray(image_zyx)
  if image_zyx.ndim != 3 or not image_zyx.size:
    raise InputError(name, got=f'an array of shape {image_zyx.shape}',
                     expected='three axes z, y, x with at least one voxel',
                     remedy='add an axis of length one for a single slice')
  return image_zyx


def array_volume(image_zyx: np.ndarray, voxel_size_zyx_nm=None, *,
                 name: str = 'array') -> Volume:
  """Wraps an array in memory as a volume, for functions that read volumes.

  Args:
    image_zyx: [z, y, x] array; not copied where its dtype allows.
    voxel_size_zyx_nm: nm per voxel in z, y, x; None when unknown.
    name: stands for the path in messages.

  Raises:
    InputError: for an array of another rank, or without a voxel.
  """
  image_zyx = check_image(name, image_zyx)
  return Volume(Path(name), ts.array(image_zyx), image_zyx.shape, image_zyx.dtype,
                voxel_size_zyx_nm, {}, ())


def create_volume(path, shape, dtype, voxel_size_zyx_nm, *, shard_zyx=None,
                  attributes=None, fill_value=0, channels=()) -> Volume:
  """Creates an empty volume at a new path, and missing parent folders.

  Args:
    path: folder to create.
    shape: voxels in z, y, x.
    dtype: one of uint8, uint16, uint32, int32, float32, float64.
    voxel_size_zyx_nm: nm per voxel, or None when unknown.
    shard_zyx: voxels per shard; None: about 8 x 1024 x 1024, adapted to the volume.
    attributes: free JSON kept with the volume.
    fill_value: value of voxels that were not written; None promises that every voxel
      will be written, and reading a missing shard is then an error.
    channels: names of the values of a voxel; () for a single value.

  Raises:
    InputError: when the path exists, cannot be written, or an argument is bad.
  """
  path = Path(path)
  files.check_absent(path)
  shape, dtype = check_volume_shape(path, shape), check_dtype(path, dtype)
  size = check_voxel_size(str(path), voxel_size_zyx_nm)
  chunk, shard = ome_zarr.choose_grid(
      shape, None if shard_zyx is None else check_volume_shape(path, shard_zyx))
  fibjax_attributes = dict(attributes or {})
  if size is None:
    fibjax_attributes[UNKNOWN_SIZE] = True
  if fill_value is None:
    fibjax_attributes[_ALL_STORED] = True
  settings = {
      'metadata': ome_zarr.array_metadata(shape, dtype, chunk, shard, fill_value or 0,
                                          channels),
      'store_data_equal_to_fill_value': fill_value is None,
      'fill_missing_data_reads': fill_value is not None}
  ome = ome_zarr.image_attributes(
      volume_name(files.final_name(path)), size, LEVEL, channels)
  with store_errors(path, 'choose a folder that can be written'):
    files.make_folders(path.parent)
    store = open_array(path / LEVEL, 'zarr3', settings, create=True)
    write_metadata(path, ome, fibjax_attributes)
  return _volume(path, store, size, fibjax_attributes, channels)


@contextlib.contextmanager
def new_volume(path, shape, dtype, voxel_size_zyx_nm, **options):
  """Yields a volume to write, which appears at path only when the block succeeds.

  It is written to `path.partial`, where what a killed process left is removed first,
  and renamed at the end; after an error nothing is left. Open the result with
  `open_volume(path)`.

  Args:
    path, shape, dtype, voxel_size_zyx_nm, options: as for `create_volume`.

  Raises:
    InputError: as `create_volume`.
  """
  with files.new_folder(path) as partial:
    yield create_volume(partial, shape, dtype, voxel_size_zyx_nm, **options)


def write_attributes(volume: Volume, attributes: dict) -> None:
  """Replaces the free JSON kept with a volume; open it again to see it.

  Raises:
    InputError: when the volume is damaged or cannot be written.
  """
  ome, own = read_group(volume.path)
  check_metadata(volume.path, ome, own)
  kept = {key: own[key] for key in (UNKNOWN_SIZE, _ALL_STORED) if key in own}
  with store_errors(volume.path, 'check free space and permissions'):
    write_metadata(volume.path, ome, {**attributes, **kept})


def create_group(path) -> Path:
  """Creates a plain zarr group for several volumes; an existing one is kept.

  A folder becomes a group when it is empty, or has only temporary files of a call of
  this function that was killed.

  Raises:
    InputError: when there is something else at path.
  """
  path = Path(path)
  content = list(path.iterdir()) if path.is_dir() else []
  if any(not files.is_temporary(entry, path / 'zarr.json') for entry in content):
    if 'ome' in read_json_group(path):
      raise InputError(str(path), got='a volume', expected='a group of volumes',
                       remedy='choose another path')
    return path
  with store_errors(path, 'choose a folder that can be written'):
    files.write_json(path / 'zarr.json', ome_zarr.group(), checked=False)
  return path


def read_box(volume: Volume, start_zyx, stop_zyx, channel: int | None = 0, *,
             steps_zyx=(1, 1, 1)) -> np.ndarray:
  """Reads the box [start, stop), or every k-th voxel of it.

  Args:
    volume: the volume to read.
    start_zyx, stop_zyx: first voxel, and voxel after the last.
    channel: number of the channel, where the volume has channels; None: all of them.
    steps_zyx: k of each axis; the first voxel of the box is read. Only what is read
      is held in memory.

  Returns:
    [z, y, x] array of the volume's dtype, [c, z, y, x] for all channels.

  Raises:
    InputError: when the box is empty or leaves the volume, or the data are damaged.
  """
  start, stop = _check_box(volume, start_zyx, stop_zyx)
  channels = ()
  if volume.channels:
    channels = (slice(None) if channel is None else channel,)
  n_channels = len(volume.channels) if channel is None else 1
  slices = tuple(map(slice, start, stop, map(int, steps_zyx)))
  check_room(volume.path, (max(1, n_channels), *(
      len(range(s.start, s.stop, s.step)) for s in slices)), volume.dtype.itemsize)
  with store_errors(volume.path):
    return np.asarray(volume.store[channels + slices].read().result())


def read_mirrored(volume: Volume, start_zyx, stop_zyx) -> np.ndarray:
  """Reads a box that may extend beyond the volume, which is mirrored at its faces.

  The edge voxel is not repeated, as in numpy.pad(mode='reflect') (§1.9, I1).
  Channels: as `read_box`, the first.

  Returns:
    [z, y, x] array of the volume's dtype.

  Raises:
    InputError: when the box is empty or the data are damaged.
  """
  if _is_inside(volume, start_zyx, stop_zyx):
    return read_box(volume, start_zyx, stop_zyx)
  indices = [geometry.mirror_indices(int(a), int(b), n)
             for a, b, n in zip(start_zyx, stop_zyx, volume.shape, strict=True)]
  if not all(i.size for i in indices):
    raise InputError(str(volume.path), got=f'box {start_zyx} to {stop_zyx}',
                     expected='a box of at least one voxel', remedy='correct the size')
  # The smallest box inside the volume that has all mirrored voxels; then pick them.
  low = tuple(int(i.min()) for i in indices)
  high = tuple(int(i.max()) + 1 for i in indices)
  inside = read_box(volume, low, high)
  return inside[np.ix_(*(i - a for i, a in zip(indices, low, strict=True)))]


def write_box(volume: Volume, start_zyx, array_zyx: np.ndarray) -> None:
  """Writes an array of the volume's dtype with its first voxel at start.

  Where the volume has channels, the array has all of them: [c, z, y, x].

  Raises:
    InputError: when the box is not inside the volume, for another dtype, or when the
      volume cannot be written.
  """
  array_zyx = np.asarray(array_zyx)
  axes = 3 + bool(volume.channels)
  if array_zyx.ndim != axes or array_zyx.dtype != volume.dtype:
    raise InputError(str(volume.path),
                     got=f'{array_zyx.ndim}-D {array_zyx.dtype} to write',
                     expected=f'{axes}-D {volume.dtype}', remedy='convert it first')
  stop = [int(a) + n for a, n in zip(start_zyx, array_zyx.shape[-3:], strict=True)]
  start, stop = _check_box(volume, start_zyx, stop)
  all_channels = (slice(None),) if volume.channels else ()
  writes = [volume.store[all_channels + _slices(*box)].write(array_zyx[..., *_slices(
      *(np.subtract(corner, start) for corner in box))])
            for box in geometry.cut_at_grid(start, stop, shard_shape(volume))]
  # All are waited for, so that none is still writing when the caller cleans up.
  errors = [write.exception() for write in writes]
  with store_errors(volume.path, 'check free space and permissions'):
    for error in filter(None, errors):
      raise error


def shard_shape(volume: Volume) -> tuple[int, int, int]:
  """Voxels per shard in z, y, x; it may exceed a small volume."""
  return tuple(int(n) for n in volume.store.chunk_layout.write_chunk.shape[-3:])


def discard_shard(volume: Volume, start_zyx) -> None:
  """Deletes the file of the shard that starts at a voxel, even a damaged one."""
  index = (str(a // n) for a, n in zip(start_zyx, shard_shape(volume), strict=True))
  all_channels = ('0',) if volume.channels else ()
  volume.path.joinpath(LEVEL, 'c', *all_channels, *index).unlink(missing_ok=True)


def slab_boxes(volume: Volume):
  """Yields the boxes of slabs one shard deep, z ascending, that cover the volume."""
  depth = shard_shape(volume)[0]
  return geometry.tile_boxes(volume.shape, (depth, *volume.shape[1:]))


def _volume(path, store, size, fibjax_attributes, channels) -> Volume:
  free = {k: v for k, v in fibjax_attributes.items()
          if k not in _OWN_KEYS}
  return Volume(path, store, tuple(int(n) for n in store.shape[-3:]),
                np.dtype(store.dtype.numpy_dtype), size, free, tuple(channels))


def open_array(path, driver: str, settings: dict, **mode):
  """Opens or creates a zarr array in a folder; all access to TensorStore is here.

  Args:
    path: folder of the array.
    driver: 'zarr3', or 'zarr' for version 2.
    settings: further entries of the TensorStore spec, e.g. metadata.
    mode: open, create, read: arguments of tensorstore.open.

  Returns:
    The TensorStore handle. Call this, and read and write it, within `store_errors`.
  """
  kvstore = {'driver': 'file', 'path': str(Path(path).absolute()) + '/'}
  return ts.open({'driver': driver, 'kvstore': kvstore, **settings}, context=_CONTEXT,
                 **mode).result()


def _slices(start, stop):
  return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


def _is_inside(volume, start, stop) -> bool:
  return all(0 <= a < b <= n
             for a, b, n in zip(start, stop, volume.shape, strict=True))


def _check_box(volume, start_zyx, stop_zyx):
  start, stop = [int(a) for a in start_zyx], [int(b) for b in stop_zyx]
  if not (len(start) == len(stop) == 3 and _is_inside(volume, start, stop)):
    raise InputError(str(volume.path), got=f'box {start} to {stop}',
                     expected=f'a box inside the volume of shape {volume.shape}',
                     remedy='correct the position or the size')
  return start, stop


@contextlib.contextmanager
def store_errors(path, remedy='the file is damaged: import or compute it again',
                 expected='a readable and writable volume'):
  """Turns errors of TensorStore, which carry its whole spec, into one line."""
  try:
    yield
  except (ValueError, OSError, NotImplementedError) as error:
    if refusal := refusals.refused(error, str(path)):
      raise refusal from error
    got = str(error).split(' [tensorstore_spec=')[0].split(' [source locations=')[0]
    raise InputError(str(path), got=got, expected=expected, remedy=remedy) from error

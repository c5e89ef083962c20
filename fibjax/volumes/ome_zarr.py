"""Metadata of OME-Zarr 0.5 volumes: contents of zarr.json of the group and the array.

Plain dicts; no file is read or written here. A volume has axes z, y, x, or c, z, y, x
with named channels (volume.py).
"""
AXES = ('z', 'y', 'x')
VERSION = '0.5'
# A shard is the unit of writing, an inner chunk that of reading: at most 32 MiB and
# 256 KiB of float32 per channel.
SHARD_ZYX = (8, 1024, 1024)
CHUNK_ZYX = (4, 128, 128)


def group(**attributes) -> dict:
  """zarr.json of a group."""
  return {'zarr_format': 3, 'node_type': 'group', 'attributes': attributes}


def image_attributes(name: str, size_zyx_nm, level: str, channels=()) -> dict:
  """The 'ome' attributes of an image of one resolution; size None: unknown."""
  unit = {} if size_zyx_nm is None else {'unit': 'nanometer'}
  scale = [1.0, 1.0, 1.0] if size_zyx_nm is None else list(size_zyx_nm)
  axes = [{'name': axis, 'type': 'space', **unit} for axis in AXES]
  ome = {'version': VERSION}
  if channels:
    axes, scale = [{'name': 'c', 'type': 'channel'}, *axes], [1.0, *scale]
    ome['omero'] = {'channels': [{'label': channel} for channel in channels]}
  return ome | {'multiscales': [{'name': name, 'axes': axes, 'datasets': [
      {'path': level, 'coordinateTransformations': [
          {'type': 'scale', 'scale': scale}]}]}]}


def array_metadata(shape, dtype, chunk, shard, fill_value, channels=()) -> dict:
  """zarr.json of the array; a shard has all channels, an inner chunk has one."""
  little = {'name': 'bytes', 'configuration': {'endian': 'little'}}
  # lz4 is nine times as fast as zstd on noisy float32; files are a tenth larger.
  blosc = {'name': 'blosc', 'configuration': {'cname': 'lz4', 'clevel': 5,
                                              'shuffle': 'shuffle'}}
  checksum = {'name': 'crc32c'}
  names = list(AXES)
  if channels:
    shape, shard = [len(channels), *shape], [len(channels), *shard]
    chunk, names = [1, *chunk], ['c', *names]
  return {
      'shape': shape, 'data_type': dtype.name, 'dimension_names': names,
      'fill_value': fill_value,
      'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': shard}},
      'codecs': [{'name': 'sharding_indexed', 'configuration': {
          'chunk_shape': chunk, 'codecs': [little, blosc, checksum],
          'index_codecs': [little, checksum]}}]}


def choose_grid(shape, shard_zyx=None) -> tuple[list[int], list[int]]:
  """Inner chunk and shard of a volume; the inner chunk divides the shard (zarr v3).

  Args:
    shape: voxels in z, y, x.
    shard_zyx: voxels of a shard; None chooses SHARD_ZYX cut to the volume.
  """
  if shard_zyx is None:
    chunk = [min(c, n) for c, n in zip(CHUNK_ZYX, shape, strict=True)]
    # Shards of equal size: with a remainder, most of the last one would be computed for
    # few voxels.
    shard = [-(-n // (-(-n // s)) // c) * c if n > s else -(-n // c) * c
             for s, c, n in zip(SHARD_ZYX, chunk, shape, strict=True)]
    return chunk, shard
  chunk = [max(d for d in range(1, min(c, s) + 1) if s % d == 0)
           for c, s in zip(CHUNK_ZYX, shard_zyx, strict=True)]
  return chunk, list(shard_zyx)

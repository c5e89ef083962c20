"""Your own volumes and regions, with the recommended network and training.

Make volumes with `fibjax import` and regions with `fibjax regions import` first.

COMMAND   fibjax run --config=configs/own.py --workdir=workdirs/own \
              --config.data.volumes=A.ome.zarr,B.ome.zarr \
              --config.data.regions=A_regions,B_regions
HARDWARE  2 CPU cores, about 20 minutes of training and 10 s per million voxels
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; large (113 x 113 neighbourhoods, for a GPU); tiny (a minute)."""
  if variant not in ('base', 'large', 'tiny'):
    raise unknown_variant(variant, ('base', 'large', 'tiny'))
  config = base()
  config.name = 'own'
  config.data.source = 'volumes'
  # Pore-backs move along y, the direction of the tilt, from slice to slice; flips along
  # y would hide that. Choose 'dihedral' or 'full' where pore-backs do not move so.
  config.train.augment = 'physical'
  if variant == 'large':
    config.model.n_xy = 113
  if variant == 'tiny':
    config.train.crop_px = 32
    config.train.batch = 2
    config.train.epochs = 1
    config.train.steps_per_epoch = 4
    config.train.val_windows = 4
  return config

"""A network that learns from simulated films of random materials alone (§7.8).

COMMAND   fibjax run --config=configs/pretrain.py --workdir=workdirs/pretrain
HARDWARE  2 CPU cores, 70 minutes beside other work
SCORE     mIoU 0.796 on 24 further random films, 0.629 on the 8 of the run, two of which
          (walls 8 px thick) it gets wrong (2026-11-30)

`fibjax share --workdir=workdirs/pretrain --out=DIR` makes a folder of it, from which
others start: --config.train.start=DIR --config.prepare.scale=standard.
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; wide (begins with the base network); unet; tiny (tests)."""
  known = ('base', 'wide', 'unet', 'tiny')
  if variant not in known:
    raise unknown_variant(variant, known)
  config = base()
  config.name = 'pretrain'
  config.data.source = 'random'
  config.data.films = 16
  config.data.shape_zyx = (48, 192, 192)
  config.data.regions_per_volume = 20
  config.data.region_px = 96
  config.prepare.scale = 'standard'
  config.model.n_z = 7
  config.train.films = 24
  config.train.steps_per_epoch = 96
  config.train.crop_px = 96
  config.train.val_windows = 64
  config.train.balance = 'natural'
  config.train.augment = 'physical'
  config.train.dropout_dense = 0.0
  config.train.dropout_spatial = 0.0
  config.train.l2 = 1e-6
  config.train.log10_learning_rate = -2.7
  config.train.epochs = 30
  config.train.keep = 'average'  # a few films decide which epoch validates best
  # A threshold tuned on some random films means nothing to another material.
  config.postprocess.tune = 'none'
  config.postprocess.sigma_px = 0.0
  config.postprocess.threshold = 0.5
  config.analyse.mvoxel = 0.0
  if variant == 'wide':
    config.model.n_xy = 65
    config.train.start = 'cnn_33x7'
    config.train.log10_learning_rate = -3.0
  if variant == 'unet':
    config.model.name = 'unet'
  if variant == 'tiny':
    config.data.films = 2
    config.data.shape_zyx = (16, 160, 160)
    config.data.regions_per_volume = 10
    config.data.region_px = 32
    config.model.n_z = 3
    config.train.films = 2
    config.train.crop_px = 32
    config.train.batch = 2
    config.train.epochs = 2
    config.train.steps_per_epoch = 4
    config.train.val_windows = 4
  return config

"""Comparison of losses, each trained with the same seeds on the same simulated films.

COMMAND   fibjax sweep --config=configs/losses.py --workdir=workdirs/losses
HARDWARE  2 CPU cores, about 4 hours; stops and resumes at any time
SCORE     not run to its end yet
RESULT    workdirs/losses/sweep/report.html, losses.json and loss_start.json

All are judged on the test regions and on whole films, seed by seed against `bce`.

Soft labels, weights of borders and composition of batches, variant `labels`:

COMMAND   fibjax sweep --config=configs/losses.py:labels --workdir=workdirs/soft
HARDWARE  2 CPU cores, about 3 hours

How losses bias the porosity as experts disagree, three of them whose outlines wander by
0, 1, 2 or 4 px about the true ones, variants `experts_0`, `experts_1`, `experts_2` and
`experts_4`:

COMMAND   fibjax sweep --config=configs/losses.py:experts_2 --workdir=workdirs/experts_2
HARDWARE  2 CPU cores, about 50 minutes each

Fine-tuning from common weights instead of random ones, variant `further`:

COMMAND   fibjax sweep --config=configs/losses.py:further --workdir=workdirs/further
HARDWARE  2 CPU cores, about 2 hours
"""
from fibjax.config import base, unknown_variant

# Cross-entropy first: it finds the phases, and pulls back after a collapse.
RECIPE = '0.25*bce + 0.75*ramp(0.2, 0.5)*jaccard'
SOFT = '0.25*bce + 0.75*ramp(0.2, 0.5)*jml'
LOVASZ = 'fade(0.2, 0.5)*bce + ramp(0.2, 0.5)*lovasz'
EXPERTS = ('experts_0', 'experts_1', 'experts_2', 'experts_4')


def get_config(variant: str = 'base'):
  """Variants: base; labels; experts_0, _1, _2, _4; further (needs the network
  cnn_33x7); tiny (a minute, for tests)."""
  known = ('base', 'labels', *EXPERTS, 'further', 'tiny')
  if variant not in known:
    raise unknown_variant(variant, known)
  config = base()
  config.postprocess.tune = 'miou'
  config.name = 'losses'
  config.data.source = 'simulate'
  config.data.shape_zyx = (48, 288, 288)
  config.data.regions_per_volume = 60
  config.data.region_px = 128
  config.model.n_z = 7
  config.train.steps_per_epoch = 32
  config.train.val_windows = 24
  config.train.balance = 'natural'
  config.train.augment = 'physical'
  config.train.log10_learning_rate = -2.8
  config.train.dropout_dense = 0.1
  config.train.dropout_spatial = 0.05
  config.train.epochs = 10
  config.analyse.mvoxel = 4.0  # a whole film
  config.sweep.members = 8
  config.sweep.weights = 'average'  # an epoch chosen by BCE would favour BCE
  config.sweep.losses = (
      'bce', 'dice', 'jaccard', 'lovasz', 'bce + jaccard', '0.25*bce + 0.75*jaccard',
      RECIPE, LOVASZ, 'bce + calibration', 'bce + 0.5*porosity')
  if variant == 'labels':
    config.sweep.losses = (
        'bce', 'bce label_smoothing_px=2', f'{RECIPE} label_smoothing_px=2',
        f'{SOFT} label_smoothing_px=2', 'bce border_weight=2', 'bce border_weight=-0.7',
        'jaccard mixed_batches=True', 'jaccard batch=1')
  if variant in EXPERTS:
    config.data.experts = 3
    config.data.expert_sd_px = float(variant.removeprefix('experts_'))
    config.data.expert_omission = 0.0
    config.sweep.members = 4
    config.sweep.losses = ('bce', RECIPE, SOFT, LOVASZ)
  if variant == 'further':
    config.prepare.scale = 'standard'
    config.train.start = 'cnn_33x7'
    config.train.log10_learning_rate = -3.3
    config.train.epochs = 5
    config.sweep.losses = ('bce', 'jaccard', 'lovasz', '0.25*bce + 0.75*jaccard',
                           '0.25*bce + 0.75*lovasz', 'bce + calibration')
  if variant == 'tiny':
    config.data.presets = ('HPC30',)
    config.data.shape_zyx = (9, 96, 96)
    config.data.regions_per_volume = 10
    config.data.region_px = 32
    config.model.n_z = 1
    config.train.augment = 'dihedral'
    config.train.crop_px = 32
    config.train.epochs = 1
    config.train.steps_per_epoch = 2
    config.train.val_windows = 2
    config.analyse.mvoxel = 0.1
    config.sweep.members = 2
    config.sweep.losses = ('bce', 'jaccard')
  return config

"""The network of Skärberg et al. 2021 with the hyper-parameters of the paper's winner.

Zero padding, 113 x 113 x 3, single voxels, SGD with momentum 0.99 (J. Microscopy
283:51; §1.4 to §1.7), on the authors' data: DIR is the unzipped record
10.5281/zenodo.4317170. The report has Tables 1 to 3 beside the published ones.

COMMAND   fibjax run --config=configs/skarberg2021.py --config.data.root=DIR \
              --workdir=workdirs/skarberg2021
HARDWARE  one GPU

To use the authors' weights instead of training: --config.train.weights=archive.
On other data: --config.data.source=volumes --config.data.volumes=A,B,C
--config.data.regions=RA,RB,RC.

The paper's search, 100 members for each of 36 sizes, is the variant `sweep`:

COMMAND   fibjax sweep --config=configs/skarberg2021.py:sweep ... --workdir=...
HARDWARE  one node with several GPUs (launch/local.sh) or several nodes
          (launch/slurm.sbatch)

The same search on simulated films, trained densely with Adam, 8 members for each of 12
sizes, the worse half of which stops early: variant `sweep_films`. In full, for a node
with several GPUs: `sweep_films_full`. In small, the published way, padded, single
voxels: `sweep_films_patch`:

COMMAND   fibjax sweep --config=configs/skarberg2021.py:sweep_films \
              --workdir=workdirs/films
HARDWARE  2 CPU cores, about 4 hours; stops and resumes at any time
COMMAND   fibjax sweep --config=configs/skarberg2021.py:sweep_films_patch \
              --workdir=workdirs/films_patch
HARDWARE  2 CPU cores, about 2 hours

What successive halving would find, three times 32 random draws of one size that are all
trained to the end, variant `halving`, and the noise of seeds, `halving_seeds`:

COMMAND   fibjax sweep --config=configs/skarberg2021.py:halving \
              --workdir=workdirs/halving
HARDWARE  2 CPU cores, about 3 hours, and half an hour for halving_seeds
"""
from fibjax.config import base, unknown_variant

FILMS = ('sweep_films', 'sweep_films_full', 'sweep_films_patch', 'halving',
         'halving_seeds')


def get_config(variant: str = 'base'):
  """Variants: base; sweep (the search); sweep_films, sweep_films_full,
  sweep_films_patch, halving, halving_seeds (simulated films); tiny, sweep_tiny (a small
  film, for tests)."""
  known = ('base', 'tiny', 'sweep', 'sweep_tiny', *FILMS)
  if variant not in known:
    raise unknown_variant(variant, known)
  config = base()
  config.postprocess.tune = 'miou'
  config.name = 'skarberg2021'
  config.data.source = 'zenodo'
  config.split.allow_overlap = True  # published splits are taken as they are
  config.model.n_xy = 113
  config.model.padding = 'same'
  config.model.standardise = False
  config.train.sampling = 'patch'
  config.train.voxel_fraction = 0.01
  config.train.batch = 128
  config.train.epochs = 40
  config.train.optimizer = 'sgd'
  config.train.momentum = 0.99
  config.train.schedule = 'steps'
  config.train.log10_learning_rate = -2.0
  config.train.decay_epochs = 8
  config.train.l2 = 4.16e-6
  config.train.dropout_dense = 0.401
  config.train.dropout_spatial = 0.195
  config.train.intensity_mean_sd = 0.048
  config.train.intensity_deviation_sd = 0.056
  if variant in FILMS:
    _use_films(config)
    if variant != 'sweep_films_patch':
      _train_densely(config)
  if variant.startswith('sweep'):
    config.sweep.draw = 'random'
    config.sweep.members = 100
    config.sweep.sizes = _sizes(range(33, 114, 16), range(1, 12, 2))
  if variant == 'sweep_films':
    config.sweep.sizes = _sizes((33, 65, 113), (1, 3, 7, 11))
    config.sweep.members = config.sweep.group = 8
    config.sweep.halving = (2,)
  if variant == 'sweep_films_full':
    config.train.epochs = 20
    config.sweep.members = config.sweep.group = 32
    config.sweep.halving = (5, 10)
  if variant == 'sweep_films_patch':
    config.train.voxel_fraction = 0.005
    config.train.epochs = 8
    config.sweep.sizes = (*_sizes((33, 65), (1, 3, 7)), '113x3')
    config.sweep.members = config.sweep.group = 6
    config.sweep.halving = (2,)
  if variant.startswith('halving'):
    config.model.n_xy = 33
    config.train.epochs = 8
    config.sweep.draw = 'seeds' if variant == 'halving_seeds' else 'random'
    config.sweep.members = 8 if variant == 'halving_seeds' else 96
  if variant == 'halving':
    config.sweep.replay = (1, 2, 4)
  if variant.endswith('tiny'):
    config.data.source = 'simulate'
    config.data.presets = ('HPC30',)
    config.data.shape_zyx = (9, 72, 72)
    config.data.regions_per_volume = 10
    config.data.region_px = 24
    config.split.mode = 'paper'
    config.model.n_xy = 33
    config.model.n_z = 1
    config.train.voxel_fraction = 0.1
    config.train.epochs = 1
    if variant == 'sweep_tiny':
      config.sweep.sizes = ('33x1', '49x1')
      config.sweep.members = 3
      config.sweep.group = 2
      config.train.epochs = 2
  return config


def _sizes(sides, depths):
  return tuple(f'{n_xy}x{n_z}' for n_z in depths for n_xy in sides)


def _use_films(config):
  """The films of configs/demo.py instead of the authors' data."""
  config.data.source = 'simulate'
  config.data.shape_zyx = (48, 288, 288)
  config.data.regions_per_volume = 60
  config.data.region_px = 128
  config.split.allow_overlap = False


def _train_densely(config):
  """Windows instead of single voxels, with real pixels around them, and Adam."""
  config.model.padding = 'context'
  config.model.standardise = True
  config.train.sampling = 'dense'
  config.train.balance = 'natural'
  config.train.batch = 2
  config.train.steps_per_epoch = 32
  config.train.val_windows = 24
  config.train.epochs = 6
  config.train.optimizer = 'adam'
  config.train.momentum = 0.9
  config.train.schedule = 'cosine'
  config.train.log10_learning_rate = -2.5

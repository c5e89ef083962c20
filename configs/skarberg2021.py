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
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; sweep (the search); tiny, sweep_tiny (a small film, for tests)."""
  known = ('base', 'tiny', 'sweep', 'sweep_tiny')
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
  if variant.startswith('sweep'):
    config.sweep.draw = 'random'
    config.sweep.members = 100
    config.sweep.sizes = tuple(f'{16 * n + 1}x{n_z}' for n_z in range(1, 12, 2)
                               for n in range(2, 8))
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

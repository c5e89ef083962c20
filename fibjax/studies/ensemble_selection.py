"""Which members of a sweep become an ensemble (§8.7).

'top' takes those of lowest validation cross-entropy. 'greedy' builds the ensemble
member by member (Caruana et al. 2004): each time the one is added, again if need be,
that lowers the cross-entropy of the mean probability on the validation regions most. So
it takes members that err elsewhere, and those twice that deserve it.
"""
import numpy as np

from fibjax.annotation.regions import region_mask, select_regions
from fibjax.errors import InputError
from fibjax.evaluation import region_scores
from fibjax.methods import network
from fibjax.methods.method import Inputs
from fibjax.metrics.labels import UNLABELLED
from fibjax.studies import sweep_members, sweep_plan
from fibjax.system import files, progress
from fibjax.system.run_folder import RunFolder
from fibjax.training import checkpoint

_EDGE = 1e-7  # scores are kept this far from 0 and 1


def greedy_choice(scores_mn: np.ndarray, solid_n: np.ndarray,
                  weights_n: np.ndarray, *, count: int) -> list[int]:
  """Chooses members, with replacement, by the cross-entropy of their mean score.

  Args:
    scores_mn: [m, n] P(solid) of each member at n labelled voxels.
    solid_n: [n] whether a voxel is solid.
    weights_n: [n] weights of the voxels.
    count: members to choose, each as often as it helps.

  Returns:
    `count` numbers of members in the order of their choice; the first is the best
    alone, and of equals the first one is taken.
  """
  sums_n = np.zeros(scores_mn.shape[1])
  # The score of the true class: its mean over members is that of the mean score.
  true_mn = np.where(solid_n, scores_mn, 1 - scores_mn)
  chosen: list[int] = []
  while len(chosen) < count:
    losses_m = [-np.sum(weights_n * np.log(np.maximum(
        (sums_n + true_n) / (len(chosen) + 1), _EDGE))) for true_n in true_mn]
    chosen.append(int(np.argmin(losses_m)))
    sums_n += true_mn[chosen[-1]]
  return chosen


def choose_members(config, inputs: Inputs, workdir: RunFolder) -> None:
  """Writes ensemble.json and the weights of the chosen members; once.

  A member that was chosen several times is listed several times.

  Raises:
    InputError: for config.ensemble.top above the number of finished members.
  """
  settings = config.ensemble
  if workdir.ensemble.exists():
    return
  ranked = sweep_members.find_members(config, workdir.sweep)
  if len(ranked) < settings.top:
    raise InputError('config.ensemble.top', got=settings.top,
                     expected=f'at most the {len(ranked)} members that finished',
                     remedy='lower it or train more members')
  rows = ranked[:settings.top]
  if settings.selection == 'greedy':
    chosen = greedy_choice(*_validation_scores(config, inputs, workdir, ranked),
                           count=settings.top)
    rows = [ranked[k] for k in chosen]
    progress.say(f'chose {len(set(chosen))} of {len(ranked)} members')
  members = []
  for row in rows:
    model, weights = sweep_members.load_member(config, workdir.sweep, row,
                                               settings.weights)
    for params in weights:
      checkpoint.replace_weights(workdir.ensemble_weights / str(len(members)), params)
      members.append({'size': sweep_plan.size_name(row['n_xy'], row['n_z']),
                      'member': row['member'], 'seed': row['seed'],
                      'val_bce': row['val_bce'], 'model': model.settings})
  files.write_json(workdir.ensemble, {'weights': settings.weights,
                                      'dihedral': settings.dihedral,
                                      'members': members})


def _validation_scores(config, inputs: Inputs, workdir: RunFolder, rows: list[dict]
                       ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Scores [m, n], classes [n] and weights [n] of all validation voxels.

  A member of several weights, as with snapshots, has the mean of their scores. Classes
  weigh as in training.
  """
  val = select_regions(inputs.regions, split='val')
  masks = [region_mask(val, r) for r in range(len(val.volume))]
  labels_n = np.concatenate([mask_yx[mask_yx != UNLABELLED] for mask_yx in masks])
  scores_mn = np.empty((len(rows), labels_n.size), np.float32)
  for m, row in progress.track(enumerate(rows), 'select', 'member', len(rows)):
    model, weights = sweep_members.load_member(config, workdir.sweep, row,
                                               config.ensemble.weights)
    scorers = network.member_scorers([model] * len(weights), weights,
                                     config.ensemble.dihedral)
    scores_ryx = region_scores.score_regions(scorers, inputs.prepared, val, 0).mean(0)
    scores_mn[m] = labelled_scores(scores_ryx, masks)
  return scores_mn, labels_n == 1, class_weights(config.train, labels_n)


def labelled_scores(scores_ryx: np.ndarray, masks) -> np.ndarray:
  """Scores of the labelled voxels of all regions, [n]; regions may be smaller."""
  return np.concatenate([
      score_yx[tuple(map(slice, mask_yx.shape))][mask_yx != UNLABELLED]
      for score_yx, mask_yx in zip(scores_ryx, masks, strict=True)])


def class_weights(settings, labels_n: np.ndarray) -> np.ndarray:
  """Weights of voxels with which training with config.train is validated, [n]."""
  if not network.is_balanced(settings):
    return np.ones(labels_n.size)
  return (labels_n.size / (2 * np.bincount(labels_n, minlength=2)))[labels_n]

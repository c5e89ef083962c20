"""What more members of an ensemble bring, at equal cost of inference.

All members of a sweep are scored on the validation and test regions once, in each of
the ways that an ensemble can be made of them: KINDS. Ensembles of every kind and size
are then means of stored scores; nothing is trained. Their cost is the number of passes
of a network over the volume. Where there are more members than an ensemble needs, it is
drawn several times; 'greedy' is built on the validation regions from all members.
"""
import math

import numpy as np

from fibjax.annotation.regions import region_mask
from fibjax.evaluation import region_scores
from fibjax.methods import network
from fibjax.methods.method import Inputs
from fibjax.metrics.labels import UNLABELLED
from fibjax.studies import ensemble_selection, sweep_members
from fibjax.system import files, progress
from fibjax.system.run_folder import RunFolder

# Kind -> which weights of a member, whether averaged over the 8 symmetries.
KINDS = {
    'seeds': ('best', False),
    'averaged weights': ('average', False),
    'dihedral': ('best', True),
    'snapshots': ('snapshots', False)}
SCORES = ('miou_after', 'worst_miou', 'boundary_f1', 'porosity_error', 'ece', 'brier',
          'nll', 'ece_calibrated')
_DRAWS = 8  # ensembles of a kind and size, at most
_SYMMETRIES = 8


def sizes_of(members: int) -> list[int]:
  """Sizes of ensembles: 1, 2, 4, .. and the number of members."""
  powers = [2 ** k for k in range(members.bit_length()) if 2 ** k < members]
  return [*powers, members]


def draw_subsets(members: int, count: int, seed: int) -> list[list[int]]:
  """Different subsets of the members, all of them where there are few; seeded."""
  wanted = min(_DRAWS, math.comb(members, count))
  random, found = np.random.default_rng((seed, count)), {}
  while len(found) < wanted:
    subset = sorted(random.choice(members, count, replace=False).tolist())
    found[tuple(subset)] = subset
  return list(found.values())


def measure_growth(config, inputs: Inputs, workdir: RunFolder) -> None:
  """Writes growth.json: scores of ensembles of each kind and size, mean and sd."""
  setting = region_scores.make_setting(
      config.postprocess, network.is_balanced(config.train), inputs.regions)
  ranked = sweep_members.find_members(config, workdir.sweep)
  rows = []
  for kind, (which, dihedral) in KINDS.items():
    if which == 'snapshots' and config.train.schedule != 'cycles':
      continue
    val_mryx, test_mryx, passes = _score_members(
        config, workdir, setting, inputs, ranked, which, dihedral, kind)
    for count in sizes_of(len(ranked)):
      subsets = draw_subsets(len(ranked), count, config.data.seed)
      rows.append(_summary(kind, count, passes * count, [
          _measure(setting, val_mryx[subset], test_mryx[subset])
          for subset in subsets]))
      progress.say(f'{kind}, {count}: test mIoU {rows[-1]["miou_after"][0]:.4f}')
    if kind == 'seeds':
      rows += _greedy_rows(config, setting, val_mryx, test_mryx)
  files.write_json(workdir.growth, rows)


def _score_members(config, workdir: RunFolder, setting, inputs: Inputs, ranked,
                   which: str, dihedral: bool, title: str):
  """Scores of all members on validation and test regions, [m, r, y, x] each, and the
  passes that one member takes."""
  splits = ([], [])
  for row in progress.track(ranked, title, 'member', len(ranked)):
    model, weights = sweep_members.load_member(config, workdir.sweep, row, which)
    scorers = network.member_scorers([model] * len(weights), weights, dihedral)
    for found, regions in zip(splits, (setting.val, setting.test), strict=True):
      found.append(region_scores.score_regions(scorers, inputs.prepared, regions,
                                               setting.margin_px).mean(0))
  return (*map(np.stack, splits), len(weights) * (_SYMMETRIES if dihedral else 1))


def _measure(setting, val_mryx, test_mryx) -> dict:
  return region_scores.measure(setting, val_mryx.mean(0), test_mryx.mean(0))[0]


def _greedy_rows(config, setting, val_mryx, test_mryx) -> list[dict]:
  """Rows of greedily chosen ensembles; their cost is that of different members."""
  inside = slice(setting.margin_px, -setting.margin_px or None)
  masks = [region_mask(setting.val, r) for r in range(len(setting.val.volume))]
  scores_mn = np.stack([ensemble_selection.labelled_scores(
      scores_ryx[:, inside, inside], masks) for scores_ryx in val_mryx])
  labels_n = np.concatenate([mask_yx[mask_yx != UNLABELLED] for mask_yx in masks])
  chosen = ensemble_selection.greedy_choice(
      scores_mn, labels_n == 1,
      ensemble_selection.class_weights(config.train, labels_n), count=len(val_mryx))
  rows = []
  for count in sizes_of(len(val_mryx)):
    subset = chosen[:count]
    rows.append(_summary('greedy', count, len(set(subset)),
                         [_measure(setting, val_mryx[subset], test_mryx[subset])]))
  return rows


def _summary(kind: str, count: int, passes: int, measured: list[dict]) -> dict:
  """Entry of growth.json: per score [mean, sd over draws, or None for one draw]."""
  row = {'kind': kind, 'members': count, 'passes': passes, 'draws': len(measured)}
  for name in SCORES:
    values = [scores[name] for scores in measured]
    row[name] = [float(np.mean(values)),
                 float(np.std(values, ddof=1)) if len(values) > 1 else None]
  return row

"""The training-set study: how many slices to train on, and where (methods, section 3).

1. A random forest, trained on a few partly painted slices, segments the stack.
2. Its pore-backs are corrected: by hand in another program (export forest/
   segmentation.ome.zarr, correct it, import it, name it in config.study.labels), or on
   simulated stacks by emulation.
3. For each number and placement of training slices, several seeds of a network are
   trained on slices of the result and judged on the tested slices and on all others,
   against the corrected labels and, where it is known, the truth.

A workdir gets film/ (simulated), prepared.ome.zarr, forest/, labels.ome.zarr,
trials/<count>-<placement>/ (workdirs of `sweep`), slices.csv (a row per trial, seed,
slice and kind of labels) and study.json with the table and the contrasts.
"""
import csv
import itertools
import os
from pathlib import Path

import numpy as np
from scipy import stats

from fibjax.annotation import choose_slices
from fibjax.annotation.regions import (
  Regions,
  concatenate_regions,
  load_regions,
  make_regions,
  save_regions,
  select_regions,
)
from fibjax.config import from_dict, to_dict
from fibjax.datasets import collect, simulated
from fibjax.errors import InputError
from fibjax.inference import score
from fibjax.methods import forest_method, method
from fibjax.pipeline import stages
from fibjax.report import study_page
from fibjax.studies import sweep
from fibjax.system import csv_files, files, progress, run_folder
from fibjax.system.cluster import HERE, Resources
from fibjax.volumes.volume import Volume, new_volume, open_volume, read_box, write_box

_SIMULATED = 'raw'  # name of a simulated stack, as of its file
_HELD_OUT = 0.1  # of the squares of training slices, for validation (§3.5)
_EVERY = 4  # of the painted slices, every fourth validates the forest
SCORES = ('loss', 'accuracy', 'miou', 'iou_solid', 'dice_solid', 'porosity_error')


def run_study(config, folder, resources: Resources = HERE) -> dict:
  """Does the whole study, or goes on.

  Args:
    config: the experiment; config.study says which trials.
    folder: workdir.
    resources: where volumes are scored and members trained.

  Returns:
    The content of study.json.

  Raises:
    InputError: for a slice outside the stack or both trained and tested on, labels
      that do not fit the stack, or as `sweep.run_sweep`.
  """
  folder = Path(folder).resolve()
  with run_folder.undo_on_mistake(folder), run_folder.lock(folder):
    depth = (config.data.shape_zyx[0] if config.data.source == 'simulate'
             else _open_real(config).shape[0])
    for count, placement in trials_of(config):
      if placement != 'uncertain':  # mistakes are told before any work
        choose_slices.choose_slices(depth, count, placement, config.study.test_slices)
    stages.claim(config, folder)
    raw, truth_zyx = _open_stack(config, folder)
    name = _name_of(raw)
    prepared = stages.prepare_volumes(config, {name: raw}, folder)[name]
    scores, segmentation = _segment_by_forest(config, prepared, truth_zyx, folder,
                                              resources)
    labels = _correct(config, segmentation, truth_zyx, folder)
    labels_zyx = _read(labels)
    entropy_z = choose_slices.mean_entropy(_read(scores))
    for count, placement in trials_of(config):
      home = run_folder.RunFolder(folder).trial(count, placement).path
      if not (home / 'slices.csv').exists():
        chosen = choose_slices.choose_slices(depth, count, placement,
                                      config.study.test_slices, entropy_z)
        _run_trial(config, chosen, raw, labels_zyx, truth_zyx, home, resources)
    result = _summarise(config, folder)
    study_page.write_study_report(folder)
    return result


def trials_of(config) -> list[tuple[int, str]]:
  """(number of training slices, placement) of all trials."""
  return [(count, placement) for count in config.study.counts
          for placement in config.study.placements]


def _read(volume: Volume) -> np.ndarray:
  return read_box(volume, (0, 0, 0), volume.shape)


def _open_stack(config, folder: Path) -> tuple[Volume, np.ndarray | None]:
  """The raw stack and its truth, None for a real one."""
  data = config.data
  if data.source != 'simulate':
    return _open_real(config), None
  film = folder / 'film'
  if not (film / f'{_SIMULATED}.ome.zarr').exists():
    simulated.simulate(data.presets[0], data.shape_zyx, data.seed, data.artefacts, film,
                      shine_through=data.shine_through)
    progress.say(f'simulated {data.presets[0]}')
  return (open_volume(film / f'{_SIMULATED}.ome.zarr'),
          _read(open_volume(film / 'truth.ome.zarr')))


def _open_real(config) -> Volume:
  found = list(collect.open_named(config.data.volumes).values())
  if len(found) != 1:
    raise InputError('config.data.volumes', got=f'{len(found)} volumes',
                     expected='one, the stack to study', remedy='give one')
  return found[0]


def _name_of(raw: Volume) -> str:
  return raw.path.name.removesuffix('.ome.zarr')


def _segment_by_forest(config, prepared: Volume, truth_zyx, folder: Path,
                       resources: Resources) -> tuple[Volume, Volume]:
  """Stage 1: scores and segmentation of the forest."""
  home = folder / 'forest'
  home.mkdir(exist_ok=True)
  if truth_zyx is None:
    painted = concatenate_regions(
        [load_regions(path) for path in config.data.regions])
  else:
    painted = _painted(config, truth_zyx)
  name = prepared.path.name
  named = {name: prepared}
  forest_method.train(config, named, select_regions(painted, split='train'),
                   select_regions(painted, split='val'), home)
  inputs = method.Inputs(named, painted, None)
  scores = stages.score(config, inputs, forest_method.load(home), home, resources)
  return scores[name], stages.segment(config, inputs, scores, home, resources)[name]


def _painted(config, truth_zyx: np.ndarray) -> Regions:
  """Partly painted slices, evenly over the stack, none of them tested."""
  study, depth = config.study, len(truth_zyx)
  evenly = np.linspace(0, depth - 1, study.painted + 2).astype(int)[1:-1]
  places = [z + 1 if z in study.test_slices else z for z in evenly.tolist()]
  masks = choose_slices.paint(truth_zyx, places, study.painted_share, config.data.seed)
  splits = ['val' if k % _EVERY == _EVERY - 1 else 'train' for k in range(len(places))]
  return make_regions((_SIMULATED,) * len(places),
                                    [(z, 0, 0) for z in places], list(masks), splits)


def _correct(config, segmentation: Volume, truth_zyx, folder: Path) -> Volume:
  """Stage 1, corrected: labels.ome.zarr, or what the user corrected by hand."""
  if config.study.labels:
    labels = open_volume(config.study.labels)
    for what, got, expected in (
        ('shape', labels.shape, segmentation.shape),
        ('voxel size', labels.voxel_size_zyx_nm, segmentation.voxel_size_zyx_nm)):
      if got != expected:
        raise InputError('config.study.labels', got=f'{what} {got}',
                         expected=f'{expected}, that of the stack',
                         remedy='correct the exported segmentation without moving, '
                         'cutting or scaling it')
    codes = np.unique(_read(labels)).tolist()
    if not set(codes) <= {0, 1}:
      raise InputError('config.study.labels', got=f'codes {codes[:8]}',
                       expected='0 pore and 1 solid',
                       remedy='import it with the profile of your program')
    return labels
  out = folder / 'labels.ome.zarr'
  if not out.exists():
    labels_zyx = _read(segmentation)
    if truth_zyx is not None:
      labels_zyx = choose_slices.correct_pore_backs(labels_zyx, truth_zyx,
                                             config.study.correction)
    with new_volume(out, labels_zyx.shape, np.uint8,
                            segmentation.voxel_size_zyx_nm, fill_value=None) as made:
      write_box(made, (0, 0, 0), labels_zyx)
  return open_volume(out)


def _trial_regions(config, name: str, chosen: list[int],
                   labels_zyx: np.ndarray) -> Regions:
  """Training slices without some squares, the squares, and the tested slices."""
  side = config.train.crop_px
  masks, places, splits = [], [], []
  for z in chosen:
    kept_yx, squares = choose_slices.hold_out_squares(labels_zyx[z], _HELD_OUT, side,
                                               (config.data.seed, z))
    masks += [kept_yx, *(labels_zyx[z, y:y + side, x:x + side] for y, x in squares)]
    places += [(z, 0, 0), *((z, y, x) for y, x in squares)]
    splits += ['train', *['val'] * len(squares)]
  for z in config.study.test_slices:
    masks.append(labels_zyx[z])
    places.append((z, 0, 0))
    splits.append('test')
  return make_regions((name,) * len(masks), places, masks, splits)


def _run_trial(config, chosen: list[int], raw: Volume, labels_zyx, truth_zyx,
               home: Path, resources: Resources) -> None:
  """Trains the members of a trial and writes slices.csv and the last tested slice."""
  home.mkdir(parents=True, exist_ok=True)
  if not (home / 'slices' / 'regions.csv').exists():
    save_regions(home / 'slices', _trial_regions(
        config, _name_of(raw), chosen, labels_zyx))
  for name in ('prepared.ome.zarr', 'preprocessing.json'):
    if not (home / name).exists():
      (home / name).symlink_to(os.path.relpath(home.parents[1] / name, home))
  own = from_dict(to_dict(config))
  own.data.update(source='volumes', volumes=(str(raw.path),),
                  regions=(str(home / 'slices'),))
  own.study.counts = ()
  sweep.run_sweep(own, home, resources)
  source = open_volume(home / 'prepared.ome.zarr' / _name_of(raw))
  rows = []
  for member in sorted(sweep.find_members(own, home), key=lambda row: row['seed']):
    model, (params,) = sweep.load_member(own, home, member, own.sweep.weights)
    out = home / 'scores' / str(member['seed'])
    out.parent.mkdir(exist_ok=True)
    scores_zyx = _read(score.score_volume(score.Predictor((model,), (params,)), source,
                                          out, resources=resources))
    for kind, target_zyx in (('corrected', labels_zyx), ('truth', truth_zyx)):
      if target_zyx is not None:
        found = choose_slices.score_slices(scores_zyx, target_zyx)
        rows += [{'seed': member['seed'], 'z': z, 'against': kind,
                  'trained_on': int(z in chosen),
                  **{name: float(found[name][z]) for name in (*SCORES, 'all_pore')}}
                 for z in range(len(scores_zyx))]
    progress.say(f'{home.name}, seed {member["seed"]}: scored')
  csv_files.write_csv(home / 'slices.csv', rows, rows[0])


def _summarise(config, folder: Path) -> dict:
  """study.json: mean and sd over seeds at the tested slices, and contrasts."""
  tables, found = {}, []
  for count, placement in trials_of(config):
    path = run_folder.RunFolder(folder).trial(count, placement).path / 'slices.csv'
    with open(path, encoding='utf-8', newline='') as file:
      tables[count, placement] = list(csv.DictReader(file))
  for (count, placement), rows in tables.items():
    kinds = dict.fromkeys(row['against'] for row in rows)
    for kind in kinds:
      for z in config.study.test_slices:
        here = [row for row in rows if row['against'] == kind and int(row['z']) == z]
        found.append({
            'count': count, 'placement': placement, 'against': kind, 'z': z,
            'seeds': len(here), 'all_pore': float(here[0]['all_pore']),
            **{name: _mean_sd([float(row[name]) for row in here]) for name in SCORES}})
  result = {'table': found, 'contrasts': {
      kind: contrasts(tables, kind, config.study.test_slices)
      for kind in dict.fromkeys(row['against'] for row in found)}}
  files.write_json(folder / 'study.json', result)
  return result


def _mean_sd(values) -> list[float | None]:
  return [float(np.mean(values)),
          float(np.std(values, ddof=1)) if len(values) > 1 else None]


def contrasts(tables: dict, kind: str, test_slices) -> dict[str, dict[str, float]]:
  """How placements differ away from the top, and whether more with many slices (§3.1).

  Args:
    tables: (count, placement) -> rows of slices.csv.
    kind: 'corrected' or 'truth'.
    test_slices: those but the first are away from the top.

  Returns:
    For each two placements B and A, 'B - A, COUNT slices': difference of their
    accuracy; and with several counts the interaction, 'B - A, MOST - FEWEST slices':
    difference of these differences. Each mean, low and high of the 95 % t interval
    over the seeds in common; none where these are fewer than two.
  """
  away = set(test_slices[1:])
  by_seed = {trial: _accuracy_by_seed(rows, kind, away)
             for trial, rows in tables.items()}
  gains = {}
  for first, second in itertools.combinations(tables, 2):
    if first[0] == second[0]:
      gain = _difference(by_seed[second], by_seed[first])
      gains.setdefault(f'{second[1]} - {first[1]}', {})[first[0]] = gain
  found = {}
  for pair, by_count in gains.items():
    found.update({f'{pair}, {count} slices': gain for count, gain in by_count.items()})
    if len(by_count) > 1:
      few, many = min(by_count), max(by_count)
      found[f'{pair}, {many} - {few} slices'] = _difference(by_count[many],
                                                            by_count[few])
  return {name: _t_interval(np.array(list(values.values())))
          for name, values in found.items() if len(values) > 1}


def _accuracy_by_seed(rows, kind, places) -> dict[str, float]:
  found = {}
  for row in rows:
    if row['against'] == kind and int(row['z']) in places:
      found.setdefault(row['seed'], []).append(float(row['accuracy']))
  return {seed: float(np.mean(values)) for seed, values in found.items()}


def _difference(second: dict, first: dict) -> dict:
  return {seed: second[seed] - first[seed] for seed in second if seed in first}


def _t_interval(values) -> dict[str, float]:
  mean, error = float(values.mean()), float(stats.sem(values))
  reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
  return {'mean': mean, 'low': mean - reach, 'high': mean + reach}

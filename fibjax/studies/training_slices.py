"""The training-set study: how many slices to train on, and where (§3).

1. A random forest, trained on a few partly painted slices, segments the stack.
2. Its pore-backs are corrected: by hand in another program (export forest/
   segmentation.ome.zarr, correct it, import it, name it in config.study.labels), or on
   simulated stacks by emulation.
3. For each number and placement of training slices, several seeds of a network are
   trained on slices of the result and judged on the tested slices and on all others,
   against the corrected labels and, where it is known, the ground truth.

A workdir gets film/ (simulated), prepared.ome.zarr, forest/, labels.ome.zarr,
trials/<count>-<placement>/ (workdirs of `sweep`), slices.csv (a row per trial, seed,
slice and kind of labels) and study.json with the table and the contrasts.
"""
import csv
import itertools
from pathlib import Path

import numpy as np
from scipy import stats

from fibjax.annotation.choose_slices import (
  choose_slices,
  correct_pore_backs,
  hold_out_squares,
  mean_entropy,
  paint,
  score_slices,
)
from fibjax.annotation.regions import (
  Regions,
  concatenate_regions,
  load_regions,
  make_regions,
  save_regions,
)
from fibjax.config import from_dict, to_dict
from fibjax.datasets import collect
from fibjax.datasets.simulated import simulate
from fibjax.errors import InputError
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import score_volume
from fibjax.methods import forest_method
from fibjax.methods.method import Inputs
from fibjax.methods.registry import make_method
from fibjax.pipeline import stages
from fibjax.report import study_page
from fibjax.studies import sweep, sweep_members
from fibjax.system import csv_files, files, progress
from fibjax.system.cluster import HERE, Resources
from fibjax.system.run_folder import (
  RunFolder,
  film_path,
  lock,
  volume_name,
)
from fibjax.volumes.volume import Volume, new_volume, open_volume, read_box, write_box

_SIMULATED = 'raw'  # name of a simulated stack, as of its file
_HELD_OUT = 0.1  # of the squares of training slices, for validation (§3.5)
_EVERY = 4  # of the painted slices, every fourth validates the forest
SCORES = ('loss', 'accuracy', 'miou', 'iou_solid', 'dice_solid', 'porosity_error')


def run_study(config, folder, resources: Resources = HERE) -> dict:
  """Does the whole study, or resumes it.

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
  workdir = RunFolder(Path(folder).resolve())
  method = make_method(config)
  with lock(workdir):
    is_simulated = collect.find_source(config.data).is_simulated
    depth = (config.data.shape_zyx[0] if is_simulated
             else _open_real(config).shape[0])
    for count, placement in trials_of(config):
      if placement != 'uncertain':  # mistakes are reported before any work
        choose_slices(depth, count, placement, config.study.test_slices)
    stages.record_settings(config, workdir)
    raw, truth_zyx = _open_stack(config, workdir)
    name = volume_name(raw.path)
    prepared = stages.prepare_volumes(config.prepare, {name: raw}, workdir)[name]
    scores, segmentation = _segment_by_forest(config, prepared, truth_zyx, workdir,
                                              resources)
    labels_zyx = _read(_correct(config, segmentation, truth_zyx, workdir.labels))
    entropy_z = mean_entropy(_read(scores))
    for count, placement in trials_of(config):
      trial = workdir.trial(count, placement)
      if not trial.slices.exists():
        chosen = choose_slices(depth, count, placement, config.study.test_slices,
                               entropy_z)
        _run_trial(config, chosen, raw, labels_zyx, truth_zyx, workdir, trial,
                   resources)
    result = _summarise(config, workdir)
    study_page.write_study_report(workdir, method.facts)
    return result


def trials_of(config) -> list[tuple[int, str]]:
  """(number of training slices, placement) of all trials."""
  return [(count, placement) for count in config.study.counts
          for placement in config.study.placements]


def _read(volume: Volume) -> np.ndarray:
  return read_box(volume, (0, 0, 0), volume.shape)


def _open_stack(config, workdir: RunFolder) -> tuple[Volume, np.ndarray | None]:
  """The raw stack and its ground truth, None for a real one."""
  data = config.data
  if not collect.find_source(data).is_simulated:
    return _open_real(config), None
  film = workdir.film()
  if not film_path(film, _SIMULATED).exists():
    simulate(data.presets[0], data.shape_zyx, data.seed, data.artefacts, film,
             shine_through=data.shine_through)
    progress.say(f'simulated {data.presets[0]}')
  return (open_volume(film_path(film, _SIMULATED)),
          _read(open_volume(film_path(film, 'truth'))))


def _open_real(config) -> Volume:
  volumes = list(collect.open_named(config.data.volumes).values())
  if len(volumes) != 1:
    raise InputError('config.data.volumes', got=f'{len(volumes)} volumes',
                     expected='one, the stack to study', remedy='give one')
  return volumes[0]


def _segment_by_forest(config, prepared: Volume, truth_zyx, workdir: RunFolder,
                       resources: Resources) -> tuple[Volume, Volume]:
  """Stage 1: scores and segmentation of the forest."""
  if truth_zyx is None:
    painted = concatenate_regions([load_regions(path) for path in config.data.regions])
  else:
    painted = _paint(config, truth_zyx)
  forest_run, name = workdir.forest_run(), prepared.path.name
  inputs = Inputs({name: prepared}, painted)
  forest_method.fit(config.forest, config.train.voxel_fraction, config.train.consensus,
                    config.data.seed, config.seed, inputs, forest_run)
  scorer = forest_method.forest_scorer(forest_method.load(forest_run))
  scores = stages.score_volumes(scorer, inputs.prepared, forest_run, resources)
  segmentations = stages.segment_volumes(config.postprocess, painted, scores,
                                         forest_run, resources)
  return scores[name], segmentations[name]


def _paint(config, truth_zyx: np.ndarray) -> Regions:
  """Partly painted slices, evenly over the stack, none of them tested."""
  study, depth = config.study, len(truth_zyx)
  evenly = np.linspace(0, depth - 1, study.painted + 2).astype(int)[1:-1]
  places = [z + 1 if z in study.test_slices else z for z in evenly.tolist()]
  masks = paint(truth_zyx, places, study.painted_share, config.data.seed)
  splits = ['val' if k % _EVERY == _EVERY - 1 else 'train' for k in range(len(places))]
  return make_regions((_SIMULATED,) * len(places), [(z, 0, 0) for z in places],
                      list(masks), splits)


def _correct(config, segmentation: Volume, truth_zyx, out: Path) -> Volume:
  """Stage 1, corrected: emulated in out, or what the user corrected by hand."""
  if config.study.labels:
    return _open_corrected(config.study.labels, segmentation)
  if not out.exists():
    labels_zyx = _read(segmentation)
    if truth_zyx is not None:
      labels_zyx = correct_pore_backs(labels_zyx, truth_zyx, config.study.correction)
    with new_volume(out, labels_zyx.shape, np.uint8, segmentation.voxel_size_zyx_nm,
                    fill_value=None) as labels:
      write_box(labels, (0, 0, 0), labels_zyx)
  return open_volume(out)


def _open_corrected(path, segmentation: Volume) -> Volume:
  """Labels that were corrected in another program; checked against the stack."""
  labels = open_volume(path)
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


def _trial_regions(config, name: str, chosen: list[int],
                   labels_zyx: np.ndarray) -> Regions:
  """Training slices without some squares, the squares, and the tested slices."""
  side = config.train.crop_px
  masks, places, splits = [], [], []
  for z in chosen:
    kept_yx, squares = hold_out_squares(labels_zyx[z], _HELD_OUT, side,
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
               workdir: RunFolder, trial: RunFolder, resources: Resources) -> None:
  """Trains the members of a trial and writes the scores of every slice."""
  name, regions = volume_name(raw.path), trial.path / 'slices'
  with lock(trial):  # which makes it a workdir before it has files
    if not (regions / 'regions.csv').exists():
      save_regions(regions, _trial_regions(config, name, chosen, labels_zyx))
    files.share_folder(workdir.prepared, trial.prepared)
    files.write_json(trial.preprocessing, files.read_json(workdir.preprocessing))
  trial_config = from_dict(to_dict(config))
  trial_config.data.update(source='volumes', volumes=(str(raw.path),),
                           regions=(str(regions),))
  trial_config.study.counts = ()
  sweep.run_sweep(trial_config, trial, resources)
  source = open_volume(trial.prepared / name)
  rows = []
  members = sweep_members.find_members(trial_config, trial.sweep)
  for member in sorted(members, key=lambda row: row['seed']):
    model, params = sweep_members.load_member(
        trial_config, trial.sweep, member, config.sweep.weights)
    out = trial.path / 'scores' / str(member['seed'])
    scores_zyx = _read(score_volume(network_scorer([model], params), source, out,
                                    resources=resources))
    for against, target_zyx in (('corrected', labels_zyx), ('truth', truth_zyx)):
      if target_zyx is not None:
        by_slice = score_slices(scores_zyx, target_zyx)
        rows += [{'seed': member['seed'], 'z': z, 'against': against,
                  'trained_on': int(z in chosen),
                  **{name: float(by_slice[name][z])
                     for name in (*SCORES, 'all_pore')}}
                 for z in range(len(scores_zyx))]
    progress.say(f'{trial.path.name}, seed {member["seed"]}: scored')
  csv_files.write_csv(trial.slices, rows, rows[0])


def _summarise(config, workdir: RunFolder) -> dict:
  """study.json: mean and sd over seeds at the tested slices, and contrasts."""
  trials, table = {}, []
  for count, placement in trials_of(config):
    path = workdir.trial(count, placement).slices
    with open(path, encoding='utf-8', newline='') as file:
      trials[count, placement] = list(csv.DictReader(file))
  for (count, placement), rows in trials.items():
    for against in dict.fromkeys(row['against'] for row in rows):
      for z in config.study.test_slices:
        at_z = [row for row in rows
                if row['against'] == against and int(row['z']) == z]
        table.append({
            'count': count, 'placement': placement, 'against': against, 'z': z,
            'seeds': len(at_z), 'all_pore': float(at_z[0]['all_pore']),
            **{name: _mean_sd([float(row[name]) for row in at_z]) for name in SCORES}})
  result = {'table': table, 'contrasts': {
      against: contrasts(trials, against, config.study.test_slices)
      for against in dict.fromkeys(row['against'] for row in table)}}
  files.write_json(workdir.study, result)
  return result


def _mean_sd(values) -> list[float | None]:
  return [float(np.mean(values)),
          float(np.std(values, ddof=1)) if len(values) > 1 else None]


def contrasts(trials: dict, against: str, test_slices) -> dict[str, dict[str, float]]:
  """Differences between placements away from the top, and their interaction (§3.1).

  Args:
    trials: (count, placement) -> rows of slices.csv.
    against: 'corrected' or 'truth'.
    test_slices: all but the first are away from the top.

  Returns:
    For each two placements B and A, 'B - A, COUNT slices': difference of their
    accuracy; and with several counts the interaction, 'B - A, MOST - FEWEST slices':
    difference of these differences. Each mean, low and high of the 95 % t interval
    over the seeds in common; none where these are fewer than two.
  """
  away = set(test_slices[1:])
  by_seed = {trial: _accuracy_by_seed(rows, against, away)
             for trial, rows in trials.items()}
  gains = {}
  for first, second in itertools.combinations(trials, 2):
    if first[0] == second[0]:
      gain = _difference(by_seed[second], by_seed[first])
      gains.setdefault(f'{second[1]} - {first[1]}', {})[first[0]] = gain
  differences = {}
  for pair, by_count in gains.items():
    differences.update({f'{pair}, {count} slices': gain
                        for count, gain in by_count.items()})
    if len(by_count) > 1:
      few, many = min(by_count), max(by_count)
      differences[f'{pair}, {many} - {few} slices'] = _difference(by_count[many],
                                                                  by_count[few])
  return {name: _t_interval(np.array(list(values.values())))
          for name, values in differences.items() if len(values) > 1}


def _accuracy_by_seed(rows, against, places) -> dict[str, float]:
  accuracies = {}
  for row in rows:
    if row['against'] == against and int(row['z']) in places:
      accuracies.setdefault(row['seed'], []).append(float(row['accuracy']))
  return {seed: float(np.mean(values)) for seed, values in accuracies.items()}


def _difference(second: dict, first: dict) -> dict:
  return {seed: second[seed] - first[seed] for seed in second if seed in first}


def _t_interval(values) -> dict[str, float]:
  mean, error = float(values.mean()), float(stats.sem(values))
  reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
  return {'mean': mean, 'low': mean - reach, 'high': mean + reach}

"""Comparison of the losses of a sweep, member by member of the same seed.

Each member is measured once, with post-processing and temperature chosen for it on the
validation regions: on the test regions and, where the truth of every voxel is known, on
whole films. What was measured stands in sweep/scores/, so that the comparison resumes.
The difference from the first loss is that of pairs with the same seed; its interval
covers regions and seeds (a bootstrap), on whole films the seeds (a t interval).
"""
import math

import numpy as np

from fibjax import models
from fibjax.config import from_dict, to_dict
from fibjax.datasets import collect
from fibjax.evaluation import film_scores, region_scores
from fibjax.evaluation.film_scores import Film
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import score_array
from fibjax.methods import network
from fibjax.methods.method import Inputs
from fibjax.methods.registry import make_method
from fibjax.metrics import comparison
from fibjax.pipeline import stages
from fibjax.studies import loss_start
from fibjax.studies.sweep_members import find_members, load_member
from fibjax.studies.sweep_plan import (
  Choice,
  choice_name,
  choices_of,
  config_of,
  draw_member,
  largest,
)
from fibjax.system import cluster, files, progress
from fibjax.system.cluster import Resources
from fibjax.system.run_folder import RunFolder
from fibjax.training import loop, loss_expression
from fibjax.volumes.volume import read_box

_BATCHES = 16  # of which the start of a loss is the mean
FILM_SCORES = (*comparison.SCORES, 'diffusivity_error')


def examine_start(config, inputs: Inputs, workdir: RunFolder) -> None:
  """Writes loss_start.json: how the losses start, for the first size and member."""
  rows, size = [], choices_of(config)[0][:2]
  for choice in (choice for choice in choices_of(config) if choice[:2] == size):
    choice_config = config_of(config, choice)
    settings, model = choice_config.train, models.make_model(choice_config.model)
    train, _ = network.put_regions(settings, model, inputs)
    seed = draw_member(config, *size, 0).seed
    state, = loop.initial_states(
        settings, model, [seed], train, choice_config.model.standardise,
        network.start_params(settings, config.prepare, model))
    batches = loss_start.first_batches(settings, model, train, config.data.seed, seed,
                                       _BATCHES)
    rows.append({'loss': choice.loss, **loss_start.examine(
        loss_expression.make_loss(settings.loss), model, state.params, batches)})
    progress.say(f'start of {choice.loss}: gradient norm '
                 f'{rows[-1]["gradient_norm"]:.3g}')
  files.make_folders(workdir.sweep.path)
  files.write_json(workdir.sweep.loss_start, rows)


def compare_losses(config, workdir: RunFolder, resources: Resources) -> None:
  """Writes losses.json: for each size and loss the scores of its members, and the
  difference from the first loss with its interval."""
  sweep = workdir.sweep
  seeds = {choice: sorted(row['seed'] for row in find_members(config, sweep)
                          if row['unit'].choice == choice)
           for choice in choices_of(config)}
  units = [(choice, seed) for choice in seeds for seed in seeds[choice] if not
           sweep.network_scores(choice_name(config, choice), seed).exists()]
  if units:
    shared = to_dict(config), workdir, true_diffusivities(config, workdir)
    measured = cluster.run_units(_measure_unit, shared, units, resources)
    for _ in progress.track(measured, 'compare', 'network', len(units)):
      pass
  found = {choice: {seed: files.read_json(sweep.network_scores(
      choice_name(config, choice), seed)) for seed in seeds[choice]}
           for choice in seeds}
  files.write_json(sweep.losses, [
      _row(choice, members, found[choice._replace(loss=config.sweep.losses[0])],
           config.data.seed) for choice, members in found.items()])


def true_diffusivities(config, workdir: RunFolder) -> dict[str, dict[str, float]]:
  """Effective diffusivity of each film whose truth is known, by axis."""
  found = {}
  for path in sorted(workdir.data.glob('*')) if workdir.data.is_dir() else ():
    truth = collect.open_truth(path.name, workdir)
    if truth is not None:
      found[path.name] = film_scores.diffusivity(
          read_box(truth, (0, 0, 0), truth.shape), truth.voxel_size_zyx_nm,
          config.analyse.mvoxel)
  return found


def _measure_unit(shared, unit: tuple[Choice, int]) -> None:
  """Writes the scores of a member and the counts behind them."""
  content, workdir, diffusivities = shared
  choice, seed = unit
  config = from_dict(content)
  widest, sweep = largest(config), workdir.sweep
  inputs = stages.collect_inputs(widest, make_method(widest), workdir)
  row = next(row for row in find_members(config, sweep)
             if row['unit'].choice == choice and row['seed'] == seed)
  model, params = load_member(config, sweep, row, config.sweep.weights)
  scorer = network_scorer([model], params)
  setting = region_scores.make_setting(
      config.postprocess, network.is_balanced(config.train), inputs.regions)
  scores, counts = region_scores.measure(setting, *(
      region_scores.score_regions([scorer], inputs.prepared, regions,
                                  setting.margin_px)[0]
      for regions in (setting.val, setting.test)))
  films = []
  for name, diffusivity in diffusivities.items():
    image, truth = inputs.prepared[name], collect.open_truth(name, workdir)
    films.append(Film(name, *(read_box(volume, (0, 0, 0), volume.shape)
                              for volume in (image, truth)),
                      truth.voxel_size_zyx_nm, diffusivity))
  content = {'scores': scores, 'counts': {
      name: value if name == 'volume_r' else value.tolist()
      for name, value in counts._asdict().items()}, 'films': None}
  if films:
    opened = scorer.open(cluster.HERE.memory_gb)
    content['films'] = film_scores.measure(
        films, lambda image_zyx: score_array(opened, image_zyx),
        stages.postprocessing(config.postprocess, scores), scores['temperature'],
        setting.prior_offset, config.analyse.mvoxel)
  path = sweep.network_scores(choice_name(config, choice), seed)
  files.make_folders(path.parent)
  files.write_json(path, content)


def _row(choice: Choice, members: dict[int, dict], first: dict[int, dict],
         seed: int) -> dict:
  """Entry of losses.json of a size and loss."""
  row = {**choice._asdict(), 'members': [
      {'seed': k, **content['scores'], 'films': content['films']}
      for k, content in members.items()]}
  common = [k for k in members if k in first]
  pairs = [(members[k], first[k]) for k in common]
  row['against_first'] = {
      name: _plain(interval) for name, interval in comparison.compare(
          *([_counts(content) for content in side]
            for side in zip(*pairs, strict=True)), seed).items()} if common else None
  with_films = [pair for pair in pairs if all(content['films'] for content in pair)]
  row['films_against_first'] = {
      name: _plain(comparison.paired_interval(*(
          [content['films'][name] for content in side]
          for side in zip(*with_films, strict=True))))
      for name in FILM_SCORES if all(content['films'][name] is not None
                                     for pair in with_films for content in pair)
  } if with_films else None
  return row


def _counts(content: dict) -> comparison.Counts:
  counts = content['counts']
  return comparison.Counts(tuple(counts['volume_r']), *(
      np.array(counts[name]) for name in comparison.Counts._fields[1:]))


def _plain(interval: comparison.Interval) -> dict[str, float | None]:
  return {name: value if math.isfinite(value) else None
          for name, value in interval._asdict().items()}

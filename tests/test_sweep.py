import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fibjax import config, models
from fibjax.errors import InputError
from fibjax.methods import network
from fibjax.methods.registry import make_method
from fibjax.pipeline import run, segmenter, stages
from fibjax.studies import compare_losses, sweep, sweep_plan
from fibjax.system import cluster
from fibjax.system.run_folder import RunFolder
from fibjax.training import loop, members_table, single

ROOT = Path(__file__).parents[1]
CONFIG = f'{ROOT}/configs/skarberg2021.py'


def load(*overrides):
  return config.load(f'{CONFIG}:sweep_tiny', overrides)


def test_the_search_is_the_papers():
  settings = config.load(f'{CONFIG}:sweep')
  assert len(sweep_plan.sizes_of(settings)) == 36 and settings.sweep.members == 100
  drawn = [sweep_plan.draw_member(settings, 113, 3, k) for k in range(400)]
  values = {name: np.array([m.settings[name] for m in drawn]) for name in
            loop.MEMBER_SETTINGS}
  for name, low, high in (('intensity_mean_sd', 0.025, 0.1),
                          ('intensity_deviation_sd', 0.025, 0.1),
                          ('dropout_dense', 0, 0.6), ('dropout_spatial', 0, 0.6)):
    assert stats.kstest(values[name], 'uniform', (low, high - low)).pvalue > 1e-3
  assert stats.kstest(np.log10(values['l2']), 'uniform', (-7, 2)).pvalue > 1e-3
  for name, known in (('log10_learning_rate', (-2.5, -2.25, -2)),
                      ('decay_epochs', range(4, 21, 2))):
    counts = [int((values[name] == value).sum()) for value in known]
    assert sum(counts) == 400 and stats.chisquare(counts).pvalue > 1e-3
  assert abs(np.corrcoef(values['dropout_dense'], values['dropout_spatial'])[0, 1]) < .2


def test_a_member_depends_on_its_size_and_number_only():
  few, many = load('sweep.members=2'), load('sweep.members=50')
  assert sweep_plan.draw_member(few, 33, 1, 1) == sweep_plan.draw_member(many, 33, 1, 1)
  seeds = {sweep_plan.draw_member(many, *size, k).seed for k in range(100)
           for size in sweep_plan.sizes_of(config.load(f'{CONFIG}:sweep'))}
  assert len(seeds) == 3600
  alike = load('sweep.draw=seeds', 'seed=7')
  crew = [sweep_plan.draw_member(alike, 33, 1, k) for k in range(3)]
  assert [m.seed for m in crew] == [7, 8, 9]
  assert all(m.settings == crew[0].settings for m in crew)


def rows_of(folder):
  with open(folder / 'sweep' / 'members.csv', encoding='utf-8') as file:
    return [{k: v for k, v in row.items() if k != 'seconds'}
            for row in csv.DictReader(file)]


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweep') / 'w'
  return folder, sweep.run_sweep(load(), folder)


@pytest.mark.long
def test_every_size_and_member_is_in_the_table(swept):
  folder, result = swept
  rows = rows_of(folder)
  assert result['members'] == len(rows) == 6 and result['finished'] == 6
  assert [(r['n_xy'], r['n_z'], r['member']) for r in rows] == [
      (n, '1', str(k)) for n in ('33', '49') for k in range(3)]
  best = min(rows, key=lambda row: float(row['val_bce']))
  assert result['best']['seed'] == int(best['seed'])
  winner = json.loads((folder / 'sweep' / 'winners' / 'best.json').read_text())
  assert str(winner['seed']) == best['seed']
  assert (folder / 'sweep' / 'report.html').exists()
  assert not list(folder.rglob('groups/*/*/checkpoints'))


@pytest.mark.long
def test_a_winner_is_the_run_it_would_have_been_alone(swept, tmp_path):
  folder, result = swept
  winner = folder / 'sweep' / 'winners' / '33x1'
  settings, _ = run.open_run(winner)
  assert settings.model.n_xy == 33
  assert float(settings.train.l2) == pytest.approx(
      10 ** min((float(r['val_bce']), float(r['log10_l2'])) for r in rows_of(folder)
                if r['n_xy'] == '33')[1])
  widest = sweep_plan.largest(load())
  inputs = stages.collect_inputs(widest, make_method(widest), RunFolder(folder))
  model = models.make_model(settings.model)
  best = single.train_run(
      settings.train, model, *network.put_regions(settings.train, model, inputs),
      tmp_path, seed=settings.seed, data_seed=settings.data.seed,
      standardise=settings.model.standardise)
  found = members_table.best_row(members_table.read_rows(winner))
  assert best['val_bce'] == pytest.approx(found['val_bce'], abs=1e-5)
  out = segmenter.segment_other(winner, folder / 'data' / 'HPC30' / 'raw.ome.zarr',
                                tmp_path / 'out', 'auto')
  assert out.exists()


@pytest.mark.long
def test_a_killed_sweep_goes_on_where_it_was(swept, tmp_path, monkeypatch):
  folder, _ = swept
  run_units, seen = cluster.run_units, []

  def dying(train, shared, units, resources):
    def count(shared, unit):
      seen.append(unit)
      if len(seen) == 2:
        raise KeyboardInterrupt
      return train(shared, unit)
    return run_units(count, shared, units, resources)

  monkeypatch.setattr(cluster, 'run_units', dying)
  with pytest.raises(KeyboardInterrupt):
    sweep.run_sweep(load(), tmp_path / 'w')
  assert len(rows_of(tmp_path / 'w')) == 3  # of the first size, on two devices
  # Also on a machine that would form other groups.
  monkeypatch.setattr(sweep, 'plan_units', None)
  sweep.run_sweep(load(), tmp_path / 'w')
  assert rows_of(tmp_path / 'w') == rows_of(folder)
  assert len(seen) == 2 + 1  # the finished group is not trained again


@pytest.mark.long
def test_groups_change_nothing_and_follow_the_memory(swept, tmp_path, monkeypatch):
  folder, _ = swept
  sweep.run_sweep(load('sweep.group=1'), tmp_path / 'w')
  assert len(list(tmp_path.rglob('members.json'))) == 4
  for found, expected in zip(rows_of(tmp_path / 'w'), rows_of(folder), strict=True):
    assert float(found.pop('val_bce')) == pytest.approx(float(expected.pop('val_bce')),
                                                        abs=1e-5)
    assert found['seed'] == expected['seed']
  settings = load('sweep.group=0', 'sweep.members=40', 'sweep.sizes=33x1')
  model = models.make_model(settings.model)
  one = sweep_plan.member_bytes(settings.train, model)
  two_cpus = 2 / sweep_plan.MEMORY_SHARE  # they share the machine's memory
  monkeypatch.setattr(sweep_plan, 'device_memory_bytes', lambda: 3.5 * one * two_cpus)
  units = sweep_plan.plan_units(settings)
  assert units[0].last - units[0].first + 1 == 3 * 2  # two devices
  monkeypatch.setattr(sweep_plan, 'device_memory_bytes', lambda: 0.9 * one * two_cpus)
  with pytest.raises(InputError, match='a member of size 33x1.*lower config.train'):
    sweep.run_sweep(settings, tmp_path / 'none')
  shutil.rmtree(tmp_path / 'w')
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize('override, message', [
    ('sweep.members=0', 'sweep.members=0'), ('sweep.sizes=34x1', 'sweep.sizes'),
    ('sweep.sizes=33x2', 'sweep.sizes'), ('sweep.sizes=33x1,33x1', 'sweep.sizes'),
    ('sweep.draw=none', 'sweep.draw'), ('sweep.halving=(0,)', 'sweep.halving'),
    ('train.border_weight=-1.0', 'train.border_weight')])
def test_bad_settings_are_named(override, message):
  with pytest.raises(InputError, match=message):
    make_method(load(override))


def test_an_unknown_loss_is_named_before_any_work(tmp_path):
  with pytest.raises(InputError, match=r'config\.train\.loss.*hinge'):
    sweep.run_sweep(load('train.loss=bce + hinge'), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def test_a_folder_of_other_settings_is_refused_in_one_line(tmp_path):
  run_folder = RunFolder(tmp_path)
  stages.record_settings(load('train.epochs=3'), run_folder)
  with pytest.raises(InputError, match=r'other settings: train\.epochs.*another '
                     '--workdir') as error:
    sweep.run_sweep(load(), tmp_path)
  assert '\n' not in str(error.value) and not run_folder.sweep.path.exists()


@pytest.fixture(scope='module')
def losses(tmp_path_factory):
  folder = tmp_path_factory.mktemp('losses') / 'w'
  settings = config.load(f'{ROOT}/configs/losses.py:tiny')
  sweep.run_sweep(settings, folder)
  return settings, folder


@pytest.mark.long
def test_losses_are_trained_with_the_same_members_and_compared(losses):
  settings, folder = losses
  rows = rows_of(folder)
  assert [(row['loss'], row['seed']) for row in rows] == [
      (loss, str(seed)) for loss in ('bce', 'jaccard') for seed in (0, 1)]
  assert len({row['val_bce'] for row in rows}) == 4
  found = json.loads((folder / 'sweep' / 'losses.json').read_text())
  assert [row['loss'] for row in found] == ['bce', 'jaccard']
  first, second = ([m['ece'] for m in row['members']] for row in found)
  assert found[1]['against_first']['ece']['difference'] == pytest.approx(
      np.mean(second) - np.mean(first))
  assert found[0]['against_first']['ece']['difference'] == 0
  for row in found:
    for measured in row['members']:
      films = measured['films']
      assert 0 <= films['miou'] <= 1 and set(films['per_volume']) == {'HPC30'}
      assert films['diffusivity_error'] >= 0
  start = json.loads((folder / 'sweep' / 'loss_start.json').read_text())
  assert [row['loss'] for row in start] == ['bce', 'jaccard']
  assert len(start[0]['solid_share']) == settings.train.steps_per_epoch
  for loss in ('bce', 'jaccard'):
    own, _ = run.open_run(folder / 'sweep' / 'winners' / f'33x1-{loss}')
    assert own.train.loss == loss


def test_an_entry_has_an_expression_and_settings():
  settings = config.load(f'{ROOT}/configs/losses.py:tiny', (
      'sweep.losses=bce,fade(0, 0.5)*bce + ramp(0, 0.5)*jml label_smoothing_px=2 '
      'mixed_batches=True',))
  bce, other = sweep_plan.choices_of(settings)
  found = sweep_plan.config_of(settings, other)
  assert found.train.loss == 'fade(0, 0.5)*bce + ramp(0, 0.5)*jml'
  assert found.train.label_smoothing_px == 2.0 and found.train.mixed_batches
  assert sweep_plan.config_of(settings, bce).train == settings.train
  assert sweep_plan.choice_name(settings, other) == (
      '33x1-fade(0,0.5)xbce+ramp(0,0.5)xjml-label_smoothing_px=2-mixed_batches=True')


@pytest.mark.long
def test_a_comparison_of_losses_resumes(losses, monkeypatch):
  settings, folder = losses
  path = folder / 'sweep' / 'losses.json'
  before, measured = path.read_text(), []
  next((folder / 'sweep' / 'scores').glob('*-jaccard/1.json')).unlink()
  measure = compare_losses._measure_unit
  monkeypatch.setattr(compare_losses, '_measure_unit', lambda shared, unit: (
      measured.append(unit), measure(shared, unit)))
  (folder / 'sweep' / 'report.html').unlink()
  sweep.run_sweep(settings, folder)
  assert [(unit[0].loss, unit[1]) for unit in measured] == [('jaccard', 1)]
  assert path.read_text() == before


def test_losses_that_are_none_are_named(tmp_path):
  path = f'{ROOT}/configs/losses.py:tiny'
  settings = config.load(path, ('sweep.losses=bce,bce + 0.5*ramp(0.6, 1)*jaccard',))
  assert settings.sweep.losses == ('bce', 'bce + 0.5*ramp(0.6, 1)*jaccard')
  with pytest.raises(InputError, match='sweep.losses'):
    config.load(path, ('sweep.losses=bce+dice,bce + dice',))
  with pytest.raises(InputError, match="losses: setting in 'bce batches=1'.*'batch'"):
    sweep.run_sweep(config.load(path, ('sweep.losses=bce,bce batches=1',)),
                    tmp_path / 'w')
  with pytest.raises(InputError, match='label_smoothing_px=-1'):
    sweep.run_sweep(config.load(path, ('sweep.losses=bce label_smoothing_px=-1',)),
                    tmp_path / 'w')
  with pytest.raises(InputError, match='nonsense'):
    sweep.run_sweep(config.load(path, ('sweep.losses=bce,nonsense',)), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()

import json
from pathlib import Path

import numpy as np
import pytest

from fibjax.analysis import intervals
from fibjax.annotation.regions import load_regions, make_regions, select_regions
from fibjax.config import load
from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.evaluation import evaluate
from fibjax.inference import small_objects, tuning
from fibjax.metrics import confusion
from fibjax.pipeline import run, segmenter
from fibjax.preparation import scaling
from fibjax.report import page
from fibjax.system import run_folder
from fibjax.training import checkpoint
from fibjax.volumes import blockwise
from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

DEMO = str(Path(__file__).parents[1] / 'configs' / 'demo.py')
TINY = ('data.shape_zyx=16,128,128', 'train.steps_per_epoch=2', 'analyse.draws=8')


class _StoppedError(Exception):
  pass


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A whole run: its config, workdir and metrics."""
  folder = tmp_path_factory.mktemp('run') / 'w'
  settings = load(f'{DEMO}:tiny', TINY)
  return settings, folder, run.run(settings, folder)


def _interrupt(monkeypatch, owner, name, call=1, after=False):
  """Makes the call-th call of owner.name raise, before or after its work."""
  original, count = getattr(owner, name), []

  def wrapped(*args, **options):
    count.append(1)
    stop = len(count) == call
    if stop and not after:
      raise _StoppedError
    result = original(*args, **options)
    if stop:
      raise _StoppedError
    return result

  monkeypatch.setattr(owner, name, wrapped)


# Modules that call these functions, as they look them up.
STAGES = (
    (collect, 'save_regions', 1, False), (scaling, 'write_box', 1, True),
    (scaling, 'prepare_volume', 1, True), (checkpoint, 'save', 2, False),
    (blockwise, 'write_box', 1, False), (tuning, 'choose', 1, False),
    (small_objects, 'remove_small_streamed', 2, False),
    (confusion, 'summarise', 3, False), (intervals, 'quantity_intervals', 1, False),
    (page, 'write_report', 1, False))


@pytest.mark.long
def test_a_run_stopped_in_every_stage_ends_with_the_same_metrics(finished, tmp_path):
  settings, whole, result = finished
  folder = tmp_path / 'w'
  for owner, name, call, after in STAGES:
    with pytest.MonkeyPatch.context() as patch:
      _interrupt(patch, owner, name, call, after)
      with pytest.raises(_StoppedError):
        run.run(settings, folder)
  assert not (folder / 'report.html').exists()
  assert run.run(settings, folder) == result
  for name in ('metrics.json', 'postprocess.json', 'porosities.csv',
               'regions/regions.csv'):
    assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
  for kind in ('prepared', 'scores', 'segmentation'):
    opened = [open_volume(f / f'{kind}.ome.zarr' / 'HPC30')
              for f in (whole, folder)]
    found = [read_box(v, (0, 0, 0), v.shape) for v in opened]
    np.testing.assert_array_equal(*found)


@pytest.mark.long
def test_a_finished_run_has_what_the_design_promises(finished):
  settings, folder, result = finished
  names = {path.name for path in folder.iterdir()}
  assert {'config.json', 'versions.json', 'metrics.csv', 'checkpoints', 'metrics.json',
          'scores.ome.zarr', 'segmentation.ome.zarr', 'report.html', 'figures',
          'events', 'preprocessing.json', 'regions', 'porosities.csv'} <= names
  assert json.loads((folder / 'metrics.json').read_text()) == result
  assert not [path for path in folder.rglob('*.partial')]
  scores = open_volume(folder / 'scores.ome.zarr' / 'HPC30')
  labels = open_volume(folder / 'segmentation.ome.zarr' / 'HPC30')
  assert scores.dtype == np.float32 and labels.dtype == np.uint8
  assert scores.shape == labels.shape == settings.data.shape_zyx
  score = read_box(scores, (0, 0, 0), scores.shape)
  assert 0 <= score.min() < score.max() <= 1
  labels_zyx = read_box(labels, (0, 0, 0), labels.shape)
  porosity = result['whole_volume']['HPC30']['porosity_automatic']
  assert porosity == pytest.approx((labels_zyx == 0).mean())


@pytest.mark.long
def test_metrics_are_pooled_over_the_regions(finished):
  _, folder, result = finished
  regions = select_regions(load_regions(folder / 'regions'), split='test')
  labels = open_volume(folder / 'segmentation.ome.zarr' / 'HPC30')
  counts = np.zeros((2, 2), int)
  for r in range(len(regions.volume)):
    z, y, x = regions.z[r], regions.y[r], regions.x[r]
    found = read_box(labels, (z, y, x), (z + 1, y + 32, x + 32))[0]
    for label in (0, 1):
      for predicted in (0, 1):
        counts[label, predicted] += ((regions.masks_ryx[r] == label)
                                     & (found == predicted)).sum()
  assert result['test']['after']['accuracy'] == pytest.approx(
      np.trace(counts) / counts.sum())
  assert result['test']['after']['n_voxels'] == counts.sum()


@pytest.mark.long
def test_other_settings_and_a_second_process_are_refused(finished, tmp_path):
  settings, folder, _ = finished
  other = load(f'{DEMO}:tiny', (*TINY, 'train.l2=0.5'))
  with pytest.raises(InputError, match=r'train\.l2 was 4\.16e-06, now 0\.5'):
    run.run(other, folder)
  with run_folder.lock(folder), pytest.raises(InputError, match='in use'):
    run.run(settings, folder)
  with pytest.raises(InputError, match='--resume'):
    run.train_only(settings, folder, resume=False)


@pytest.mark.long
def test_a_trained_run_segments_another_volume_and_evaluates_again(finished, tmp_path):
  _, folder, result = finished
  raw = folder / 'data' / 'HPC30' / 'raw.ome.zarr'
  path = segmenter.segment_other(folder, raw, tmp_path / 'out', 'auto')
  again, first = (open_volume(p) for p in
                  (path, folder / 'segmentation.ome.zarr' / 'HPC30'))
  np.testing.assert_array_equal(*(read_box(v, (0, 0, 0), v.shape)
                                  for v in (again, first)))
  assert run.evaluate_again(folder) == result


def test_regions_without_a_label_have_no_porosity(tmp_path):
  with new_volume(tmp_path / 'a', (1, 8, 8), np.float32, None) as volume:
    write_box(volume, (0, 0, 0), np.ones((1, 8, 8), np.float32))
  with new_volume(tmp_path / 'b', (1, 8, 8), np.uint8, None) as volume:
    write_box(volume, (0, 0, 0), np.ones((1, 8, 8), np.uint8))
  regions = make_regions(('a',), [(0, 0, 0)],
                         [np.full((4, 4), 255, np.uint8)], ('test',))
  row = evaluate._region_row(regions, 0, {'a': open_volume(tmp_path / 'a')},
                             {'a': open_volume(tmp_path / 'b')})
  assert row['manual'] is None and row['automatic'] is None


def test_intervals_of_the_scores_come_from_drawing_regions():
  def row(name, right, wrong):
    return {'volume': name, 'after': np.array([[right, wrong], [wrong, right]])}
  equal = evaluate._intervals([row('a', 9, 1), row('a', 9, 1)], 0)
  assert equal['accuracy'] == pytest.approx([0.9, 0.9])
  assert equal['miou'] == pytest.approx([9 / 11, 9 / 11])
  # Both ends, the same region twice, have a chance of 1/4 each.
  two = evaluate._intervals([row('a', 9, 1), row('a', 5, 5)], 0)
  assert two['accuracy'] == pytest.approx([0.5, 0.9])
  assert two['miou'] == pytest.approx([1 / 3, 9 / 11])
  # A volume's only region is always drawn.
  assert evaluate._intervals([row('a', 9, 1), row('b', 5, 5)], 0)['accuracy'] == (
      pytest.approx([0.7, 0.7]))
  assert evaluate._intervals([row('a', 9, 1)], 0) == {}


@pytest.mark.long
def test_the_reliability_is_that_of_the_test_regions(finished):
  settings, folder, result = finished
  regions = select_regions(load_regions(folder / 'regions'), split='test')
  found = result['reliability']
  labelled = regions.masks_ryx != 255
  assert sum(found['count_b']) == found['n_voxels'] == labelled.sum()
  solid = np.average(found['solid_b'], weights=found['count_b'])
  assert solid == pytest.approx(regions.masks_ryx[labelled].mean())
  gap = np.abs(np.subtract(found['score_b'], found['solid_b']))
  assert found['ece'] == pytest.approx(np.average(gap, weights=found['count_b']))


@pytest.mark.long
def test_a_run_without_epochs_gives_the_scores_of_its_start(finished, tmp_path):
  """And one with epochs says how good its start was."""
  settings, folder, result = finished
  segmenter.share(folder, tmp_path / 'm')
  content = json.loads((tmp_path / 'm' / 'model.json').read_text())
  content['postprocess'] |= {'sigma_px': 0.0, 'threshold': 0.5}
  (tmp_path / 'm' / 'model.json').write_text(json.dumps(content))
  changed = (*TINY, f'train.start={tmp_path / "m"}', 'analyse.mvoxel=0')
  again = run.run(load(f'{DEMO}:tiny', (*changed, 'train.epochs=0')), tmp_path / 'w')
  assert 'start' not in again and again['test'] == result['test']
  trained = run.run(load(f'{DEMO}:tiny', changed), tmp_path / 'v')
  before = result['test']['before']['miou']
  assert trained['start'] == {'miou': before, 'per_volume': {'HPC30': before}}
  assert trained['test']['before']['miou'] != before
  page_text = (tmp_path / 'v' / 'report.html').read_text(encoding='utf-8')
  assert 'no label' in page_text
  with pytest.raises(InputError, match=r'train\.epochs'):
    load(f'{DEMO}:tiny', ('train.epochs=0',))

"""Streamed segmentation against the whole array, stopped and resumed."""
import shutil

import numpy as np
import pytest
from scipy import ndimage

from fibjax.errors import InputError
from fibjax.inference import postprocess, segment, small_objects
from fibjax.system.cluster import HERE, Resources
from fibjax.volumes import blockwise, ome_zarr
from fibjax.volumes.volume import (
  create_group,
  new_volume,
  open_volume,
  read_box,
  write_box,
)

SIGMA_PX, THRESHOLD = 1.3, 0.47


class _StoppedError(Exception):
  pass


def settings_of(**changes):
  return segment.Postprocessing(SIGMA_PX, THRESHOLD, min_size_vox=12)._replace(
      **changes)


@pytest.fixture
def scores(tmp_path, monkeypatch):
  """Smooth scores in 27 shards with objects of all sizes, and their array."""
  monkeypatch.setattr(ome_zarr, 'SHARD_ZYX', (3, 8, 12))
  monkeypatch.setattr(ome_zarr, 'CHUNK_ZYX', (1, 4, 4))
  noise = np.random.default_rng(0).normal(size=(7, 22, 31))
  noise = ndimage.gaussian_filter(noise, (0.4, 1.2, 1.2))
  scores_zyx = (1 / (1 + np.exp(-4 * noise / noise.std()))).astype(np.float32)
  with new_volume(tmp_path / 'scores', noise.shape, np.float32,
                  (50., 10., 10.)) as volume:
    write_box(volume, (0, 0, 0), scores_zyx)
  return open_volume(tmp_path / 'scores'), scores_zyx


def whole(scores_zyx, settings, sigma_px=SIGMA_PX):
  labels_zyx = postprocess.double_threshold(scores_zyx, sigma_px, THRESHOLD,
                                            settings.kernel)
  return small_objects.remove_small(
      labels_zyx, settings.min_size_vox, ndim=settings.ndim,
      connectivity=settings.connectivity)


def run(scores, out, settings, sigma_px=SIGMA_PX, resources=HERE):
  volume = segment.segment_scores(scores, out, settings._replace(sigma_px=sigma_px),
                                  resources=resources)
  assert volume.path == out and volume.dtype == np.uint8
  return read_box(volume, (0, 0, 0), volume.shape)


@pytest.mark.parametrize('changes', [
    {}, {'connectivity': 6}, {'ndim': 2, 'connectivity': 8}, {'kernel': 'scipy4sigma'}])
@pytest.mark.parametrize('sigma_px', [0, 1.3, 4.1])
def test_streamed_equals_whole(scores, tmp_path, changes, sigma_px):
  volume, scores_zyx = scores
  settings = settings_of(**changes)
  got = run(volume, tmp_path / 'out', settings, sigma_px)
  np.testing.assert_array_equal(got, whole(scores_zyx, settings, sigma_px))
  np.testing.assert_array_equal(got, segment.segment_array(
      scores_zyx, settings._replace(sigma_px=sigma_px)))
  thresholded = postprocess.double_threshold(scores_zyx, sigma_px, THRESHOLD,
                                             settings.kernel)
  assert sigma_px > 2 or (got != thresholded).any()
  made = open_volume(tmp_path / 'out')
  assert made.voxel_size_zyx_nm == (50., 10., 10.)
  assert {path.name for path in tmp_path.iterdir()} == {'scores', 'out'}


@pytest.mark.parametrize('call', [1, 10, 20, 30, 40, 53, 60, 70, 81])
def test_a_segmentation_stopped_anywhere_goes_on(scores, tmp_path, monkeypatch, call):
  """Writes are counted over the three stages, 27 shards each, one fault per call."""
  volume, scores_zyx = scores
  original, count = blockwise.write_box, []

  def write(*args):
    count.append(1)
    if len(count) == call:
      raise _StoppedError
    original(*args)
  monkeypatch.setattr(blockwise, 'write_box', write)
  with pytest.raises(_StoppedError):
    run(volume, tmp_path / 'out', settings_of())
  assert not (tmp_path / 'out').exists()
  got = run(volume, tmp_path / 'out', settings_of())
  np.testing.assert_array_equal(got, whole(scores_zyx, settings_of()))
  assert len(count) == 81 + 1  # nothing that was finished is made again
  assert {path.name for path in tmp_path.iterdir()} == {'scores', 'out'}


@pytest.mark.parametrize('name', ['_find_kept', '_open_cleaning'])
@pytest.mark.parametrize('phase', [0, 1])
def test_a_search_stopped_goes_on(scores, tmp_path, monkeypatch, name, phase):
  volume, scores_zyx = scores
  original = getattr(small_objects, name)

  def stop(search, *args):
    if search.phase == phase:
      raise _StoppedError
    return original(search, *args)
  with monkeypatch.context() as patch:
    patch.setattr(small_objects, name, stop)
    with pytest.raises(_StoppedError):
      run(volume, tmp_path / 'out', settings_of())
  got = run(volume, tmp_path / 'out', settings_of())
  np.testing.assert_array_equal(got, whole(scores_zyx, settings_of()))


def test_a_call_stopped_while_it_tidies_up_is_tidied_by_the_next(scores, tmp_path,
                                                                 monkeypatch):
  remove = shutil.rmtree

  def stop(path, **options):
    if path.name == '.out.stages':
      raise _StoppedError
    remove(path, **options)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', stop)
    with pytest.raises(_StoppedError):
      run(scores[0], tmp_path / 'out', settings_of())
  assert (tmp_path / '.out.stages').exists()
  run(scores[0], tmp_path / 'out', settings_of())
  assert {path.name for path in tmp_path.iterdir()} == {'scores', 'out'}


def test_a_finished_segmentation_is_returned_untouched(scores, tmp_path, monkeypatch):
  first = run(scores[0], tmp_path / 'out', settings_of())
  for name in ('write_box', 'create_volume'):
    monkeypatch.setattr(blockwise, name, None)
  np.testing.assert_array_equal(run(scores[0], tmp_path / 'out', settings_of()), first)


def test_other_settings_or_scores_are_refused(scores, tmp_path, monkeypatch):
  volume, scores_zyx = scores
  out = tmp_path / 'out'
  run(volume, out, settings_of())
  with pytest.raises(InputError, match="out: .*'sigma_px': 1.3.*'sigma_px': 1.4"):
    run(volume, out, settings_of(), 1.4)
  with pytest.raises(InputError, match="'threshold': 0.47.*'threshold': 0.5"):
    segment.segment_scores(volume, out, settings_of(threshold=0.5))
  with pytest.raises(InputError, match="'connectivity': 26.*'connectivity': 18"):
    run(volume, out, settings_of(connectivity=18))
  write_box(volume, (0, 0, 0), 1 - scores_zyx[:3])
  with pytest.raises(InputError, match="out: .*'scores'"):
    run(volume, out, settings_of())
  shutil.rmtree(out)
  with monkeypatch.context() as patch:
    patch.setattr(blockwise, 'map_blocks', None)
    with pytest.raises(TypeError):
      run(volume, out, settings_of())
  with pytest.raises(InputError, match="threshold: .*'sigma_px'"):
    run(volume, out, settings_of(), 1.4)


@pytest.mark.parametrize(('sigma_px', 'threshold', 'kernel'), [
    (-1, 0.5, 'matlab'), (1, 1.0, 'matlab'), (1, 0.5, 'boxcar')])
def test_bad_parameters_leave_nothing_behind(scores, tmp_path, sigma_px, threshold,
                                             kernel):
  with pytest.raises(InputError):
    segment.segment_scores(scores[0], tmp_path / 'out', settings_of(
        sigma_px=sigma_px, threshold=threshold, kernel=kernel))
  assert {path.name for path in tmp_path.iterdir()} == {'scores'}


def test_stages_do_not_disturb_the_group_around_them(scores, tmp_path, monkeypatch):
  group = create_group(tmp_path / 'group')
  with monkeypatch.context() as patch:
    patch.setattr(blockwise, 'map_blocks', None)
    with pytest.raises(TypeError):
      run(scores[0], group / 'film', settings_of())
  assert (group / '.film.stages' / 'threshold').exists()
  assert create_group(group) == group
  with pytest.raises(InputError, match='without OME metadata'):  # no member is named
    open_volume(group)
  run(scores[0], group / 'film', settings_of())
  with pytest.raises(InputError, match='a group with film, expected'):
    open_volume(group)


@pytest.mark.long
def test_workers_make_the_same(scores, tmp_path):
  volume, scores_zyx = scores
  got = run(volume, tmp_path / 'out', settings_of(), resources=Resources(workers=2))
  np.testing.assert_array_equal(got, whole(scores_zyx, settings_of()))

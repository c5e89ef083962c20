"""Regions as a data set of nnU-Net v2, read the way nnU-Net reads it, and back."""
import json

import numpy as np
import pytest
from skimage import io

from fibjax.annotation import nnunet
from fibjax.annotation.regions import make_regions, save_regions
from fibjax.cli import main
from fibjax.errors import InputError
from fibjax.volumes.volume import (
  array_volume,
  new_volume,
  open_volume,
  read_box,
  write_box,
)

SHAPE = (5, 24, 30)


def film():
  return np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)


def regions(splits=('train', 'val', 'test')):
  masks = [np.random.default_rng(k).choice([0, 1, 255], (8, 8)).astype(np.uint8)
           for k in range(len(splits))]
  return make_regions('film', [(0, 2, 3), (2, 5, 6), (4, 16, 22)][:len(splits)], masks,
                      splits)


def read_as_nnunet(folder, case, channels):
  """As NaturalImage2DIO: one 2-D image per channel."""
  images = [io.imread(folder / f'{case}_{k:04d}.tif') for k in range(channels)]
  assert all(image.ndim == 2 for image in images)
  return np.stack(images).astype(np.float32)


def test_channels_are_the_slices_around_a_region(tmp_path):
  image_zyx, table, out = film(), regions(), tmp_path / 'Dataset001_film'
  counts = nnunet.export_nnunet(table, {'film': array_volume(image_zyx)}, out, slices=3)
  assert counts == {'train': 1, 'val': 1, 'test': 1}
  found = read_as_nnunet(out / 'imagesTr', 'region_0001', 3)
  np.testing.assert_array_equal(found, image_zyx[1:4, 5:13, 6:14])
  first = read_as_nnunet(out / 'imagesTr', 'region_0000', 3)
  np.testing.assert_array_equal(first, image_zyx[[1, 0, 1], 2:10, 3:11])  # mirrored
  labels = io.imread(out / 'labelsTr' / 'region_0001.tif')
  np.testing.assert_array_equal(labels, np.where(table.masks_ryx[1] == 255, 2,
                                                 table.masks_ryx[1]))
  assert (out / 'labelsTs' / 'region_0002.tif').exists()
  content = json.loads((out / 'dataset.json').read_text())
  assert content['numTraining'] == len(list((out / 'labelsTr').iterdir())) == 2
  assert content['labels'] == {'pore': 0, 'solid': 1, 'ignore': 2}
  assert list(content['channel_names']) == ['0', '1', '2']
  assert json.loads((out / 'splits_final.json').read_text()) == [
      {'train': ['region_0000'], 'val': ['region_0001']}]


def test_a_margin_shows_the_surroundings_and_is_ignored(tmp_path):
  image_zyx = film()
  nnunet.export_nnunet(regions(), {'film': array_volume(image_zyx)}, tmp_path / 'd',
                       slices=1, margin_px=4)
  found = read_as_nnunet(tmp_path / 'd' / 'imagesTr', 'region_0001', 1)
  np.testing.assert_array_equal(found[0], image_zyx[2, 1:17, 2:18])
  labels = io.imread(tmp_path / 'd' / 'labelsTr' / 'region_0001.tif')
  assert labels.shape == (16, 16)
  assert set(labels[:4].ravel()) == {2} and set(labels[:, -4:].ravel()) == {2}
  assert {0, 1} <= set(labels[4:12, 4:12].ravel())


def test_predictions_of_whole_slices_come_back_as_a_volume(tmp_path, capsys):
  truth_zyx = (film() > 30000).astype(np.uint8)
  nnunet.export_nnunet(regions(), {'film': array_volume(film())}, tmp_path / 'd',
                       slices=3, whole=True)
  slices = tmp_path / 'd' / 'slices' / 'film'
  assert len(list(slices.iterdir())) == 3 * SHAPE[0]
  np.testing.assert_array_equal(read_as_nnunet(slices, 'film_00002', 3), film()[1:4])
  predicted = tmp_path / 'predicted'
  predicted.mkdir()
  for z, truth_yx in enumerate(truth_zyx):
    io.imsave(predicted / f'film_{z:05d}.tif', truth_yx, check_contrast=False)
  (predicted / 'dataset.json').write_text('{}')
  assert main.main(['import', str(predicted), '--profile=nnunet',
                    f'--out={tmp_path / "labels.ome.zarr"}']) in (0, None)
  labels = open_volume(tmp_path / 'labels.ome.zarr')
  np.testing.assert_array_equal(read_box(labels, (0, 0, 0), SHAPE), truth_zyx)
  capsys.readouterr()


def test_the_command_line_takes_a_folder_of_regions(tmp_path, capsys):
  save_regions(tmp_path / 'regions', regions())
  with new_volume(tmp_path / 'film.ome.zarr', SHAPE, np.uint16, None, fill_value=None
                  ) as volume:
    write_box(volume, (0, 0, 0), film())
  main.main(['regions', 'export', str(tmp_path / 'regions'),
             str(tmp_path / 'film.ome.zarr'), '--profile=nnunet', '--context_slices=3',
             '--context_px=12', f'--out={tmp_path / "d"}'])
  assert json.loads(capsys.readouterr().out) == {'train': 1, 'val': 1, 'test': 1}
  assert read_as_nnunet(tmp_path / 'd' / 'imagesTr', 'region_0001', 3).shape == (
      3, 12, 12)


def test_bad_requests_are_named(tmp_path):
  volumes = {'film': array_volume(film())}
  for table, slices, match in ((regions(), 2, 'odd'), (regions(('train',)), 3, 'val'),
                               (regions(('train', '', 'test')), 3, 'val')):
    with pytest.raises(InputError, match=match):
      nnunet.export_nnunet(table, volumes, tmp_path / 'd', slices=slices)
  with pytest.raises(InputError, match='film'):
    nnunet.export_nnunet(regions(), {'other': array_volume(film())}, tmp_path / 'd')
  assert not (tmp_path / 'd').exists()

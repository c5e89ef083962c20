"""Simulated films on disk: whole or made again, real geometry, an expert's labels."""
import numpy as np
import pytest
import tifffile

from fibjax.cli import main
from fibjax.config import base, change
from fibjax.datasets import collect, simulated
from fibjax.datasets.source import Request
from fibjax.errors import InputError
from fibjax.simulation import annotator, films
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import open_volume, read_box

SHAPE = (3, 40, 44)


def simulate(folder, **options):
  simulated.simulate('HPC30', SHAPE, 5, 'none', folder, **options)


def read(folder, kind):
  volume = open_volume(folder / f'{kind}.ome.zarr')
  return read_box(volume, (0, 0, 0), volume.shape)


@pytest.mark.parametrize('call', [1, 2, 3])
def test_a_film_killed_while_it_was_written_is_made_again(tmp_path, monkeypatch, call):
  original, kinds = simulated.new_volume, []

  def dying(path, *args, **options):
    kinds.append(path.name)
    if len(kinds) == call:
      raise KeyboardInterrupt
    return original(path, *args, **options)
  with monkeypatch.context() as patch:
    patch.setattr(simulated, 'new_volume', dying)
    with pytest.raises(KeyboardInterrupt):
      simulate(tmp_path, annotator=True)
  assert kinds == ['annotated.ome.zarr', 'truth.ome.zarr', 'raw.ome.zarr'][:call]
  (tmp_path / 'annotated.ome.zarr.partial').mkdir()
  simulate(tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {'truth.ome.zarr', 'raw.ome.zarr'}
  film = films.simulate_film('HPC30', SHAPE, 5, artefacts='none')
  np.testing.assert_array_equal(read(tmp_path, 'raw'), film.image_zyx)
  np.testing.assert_array_equal(read(tmp_path, 'truth'), film.truth_zyx)


def test_a_film_that_is_there_is_kept(tmp_path):
  simulate(tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  with pytest.raises(InputError, match=r'raw\.ome\.zarr: got a path that already'):
    simulate(tmp_path, annotator=True)
  assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before


def test_an_experts_labels_stand_beside_the_truth(tmp_path):
  words = ['simulate', '--preset=HPC30', '--shape=3,40,44', '--seed=5',
           '--artefacts=none', f'--out={tmp_path / "film"}']
  assert main.main([*words, '--annotator']) == 0
  labels, truth = (read(tmp_path / 'film', kind) for kind in ('annotated', 'truth'))
  assert labels.dtype == np.uint8 and 0.5 < np.mean(labels == truth) < 1
  np.testing.assert_array_equal(labels, annotator.annotate_stack(truth, 5))


# Real geometry.

def test_codes_of_a_geometry_are_never_guessed(tmp_path, capsys):
  codes = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.uint8)
  three, two, bits = (tmp_path / f'{name}.tif' for name in ('three', 'two', 'bits'))
  tifffile.imwrite(three, codes, photometric='minisblack')
  tifffile.imwrite(two, (codes == 2).astype(np.uint8), photometric='minisblack')
  tifffile.imwrite(bits, codes == 2, photometric='minisblack')
  for path, code in ((three, 2), (two, None), (bits, None), (two, 1)):
    got = simulated.read_geometry(path, code)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, codes == 2)
  assert simulated.read_geometry(None) is None
  words = ['simulate', '--preset=HPC30', '--shape=3,40,44',
           f'--out={tmp_path / "film"}']
  for more, message in (
      ([f'--geometry={three}'], 'three.tif: got codes 0, 1, 2, expected 0 (pore) and'),
      ([f'--geometry={three}', '--solid_code=7'], 'got codes 0, 1, 2, expected 7'),
      ([f'--geometry={tmp_path / "no.tif"}'], 'no such file'),
      ([f'--geometry={two}', '--geometry_scale=0'], 'geometry_scale: got 0'),
      (['--solid_code=1'], '--solid_code: got 1, expected --geometry')):
    assert main.main(words + more) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / 'film').exists()


def test_a_film_of_a_public_binary_volume(shared_data, tmp_path):
  file = (shared_data / 'geom_openimpala_2phase'
          / 'volB_from_raw_z100_y100_x100_u8.tif')
  out = tmp_path / 'film'
  assert main.main(['simulate', '--preset=HPC45', '--shape=3,48,50', f'--out={out}',
                    f'--geometry={file}', '--geometry_scale=5',
                    '--artefacts=none']) == 0
  # One slice is five fine planes, here one voxel of the source.
  solid = tifffile.imread(file)[:3, :10, :10] == 1
  assert 0.2 < solid.mean() < 0.8
  assert np.mean(read(out, 'truth')[:, 2::5, 2::5] == solid) > 0.9
  meta = open_volume(out / 'raw.ome.zarr').attributes['simulation']
  assert meta['geometry'] == {'source': 'given', 'scale': 5}


def test_films_of_a_run_may_have_real_geometries(tmp_path):
  solid_zyx = np.random.default_rng(0).random((9, 12, 12)) > 0.4
  tifffile.imwrite(tmp_path / 'real.tif', solid_zyx.astype(np.uint8))
  config = base()
  config.data.source, config.data.presets = 'simulate', ('HPC45',)
  config.data.shape_zyx, config.data.geometry_scale = SHAPE, 6
  settings = change(config, (f'data.geometries={tmp_path / "real.tif"}',))
  run = RunFolder(tmp_path / 'w')
  volume, = simulated.SOURCE.open_volumes(Request(
      settings.data, (0.6, 0.2, 0.2), (1, 9, 9), run, False)).values()
  film = films.simulate_film('HPC45', SHAPE, 0, geometry=solid_zyx.astype(np.uint8),
                             geometry_scale=6)
  np.testing.assert_array_equal(read_box(volume, (0, 0, 0), volume.shape),
                                film.image_zyx)
  assert list(collect.fingerprint(settings.data)) == [str(tmp_path / 'real.tif')]
  with pytest.raises(InputError, match=r'data\.geometries'):
    change(config, ('data.geometries=a.tif,b.tif',))


def test_experts_of_a_run_disagree_as_much_as_they_are_told(tmp_path):
  config = base()
  config.data.source, config.data.presets = 'simulate', ('HPC45',)
  config.data.shape_zyx, config.data.region_px = (9, 120, 120), 64
  config.data.experts = 3
  differences = []
  for sd_px in (0., 1., 4.):
    settings = change(config, (f'data.expert_sd_px={sd_px}', 'data.expert_omission=0'))
    request = Request(settings.data, (0.6, 0.2, 0.2), (1, 9, 9),
                      RunFolder(tmp_path / 'w'), False)
    regions = simulated.SOURCE.load_regions(
        request, simulated.SOURCE.open_volumes(request))
    votes = [mask_yx for mask_yx, split in zip(regions.masks_ryx, regions.split,
                                               strict=True) if split != 'test']
    pairs = [(votes[k], votes[k + 1]) for k in range(0, len(votes), 3)]
    differences.append(np.mean([first != second for first, second in pairs]))
  assert differences[0] == 0 < differences[1] < 0.5 * differences[2]

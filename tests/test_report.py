"""Figures by the pixels they draw, tables by their cells, the page on a small run."""
import base64
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from fibjax.annotation.regions import (
  load_regions,
  make_regions,
  region_mask,
  save_regions,
)
from fibjax.errors import InputError
from fibjax.metrics import confusion
from fibjax.models.facts import FOREST
from fibjax.report import figures, page, preparation, sources, tables
from fibjax.system.csv_files import read_columns
from fibjax.system.files import write_json
from fibjax.system.run_folder import RunFolder
from fibjax.volumes.volume import create_volume, read_box, write_box
from tests.helpers import (
  NETWORK_FACTS,
  example_metrics,
  film,
  make_run,
  split_scores,
  visible_text,
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = make_run(tmp_path_factory.mktemp('runs') / 'complete')
  return folder, page.write_report(folder, NETWORK_FACTS).read_text(encoding='utf-8')


def report_text(folder, facts=NETWORK_FACTS):
  return visible_text(page.write_report(folder, facts).read_text(encoding='utf-8'))


def test_comparison_has_the_papers_colours():
  mask = np.array([[0, 1, 0, 1, 255]], np.uint8)
  said = np.array([[0, 1, 1, 0, 1]], np.uint8)
  black, white, green, orange, grey = figures.comparison(mask, said)[0]
  assert black.tolist() == [0, 0, 0] and white.tolist() == [1, 1, 1]
  assert green[1] > 0.5 and green[0] == green[2] == 0
  assert orange[0] == 1 and 0.4 < orange[1] < 0.7 and orange[2] == 0
  assert np.ptp(grey) < 0.1 and 0.3 < grey.mean() < 0.8


def test_score_colours_run_black_green_white():
  low, middle, high = figures.SCORE_COLOURS([0.0, 0.5, 1.0])[:, :3]
  np.testing.assert_allclose(low, 0)
  np.testing.assert_allclose(middle, [0, 1, 0], atol=0.01)
  np.testing.assert_allclose(high, 1)


def test_overlay_tints_pore_green_solid_red_and_nothing_else():
  image = np.linspace(0, 1, 300, dtype=np.float32).reshape(3, 100)
  labels = np.repeat(np.array([[0], [1], [255]], np.uint8), 100, 1)
  rgb = figures.overlay(image, labels)
  assert (rgb[0, :, 1] > rgb[0, :, 0]).all() and (rgb[1, :, 0] > rgb[1, :, 1]).all()
  np.testing.assert_allclose(rgb[2], figures.stretch(image)[2][:, None].repeat(3, 1))


def test_stretch_survives_constant_images():
  assert set(figures.stretch(np.full((4, 4), 7)).ravel()) == {0.5}
  assert figures.stretch(np.arange(100).reshape(10, 10)).min() == 0


@pytest.mark.parametrize(('width', 'length'), [
    (2.56, 0.5), (33.7, 10), (0.64, 0.1), (96, 20), (100, 20), (10 / 3, 1.0)])
def test_scale_bar_is_a_round_length_below_a_third(width, length):
  assert figures.scale_bar_length(width) == pytest.approx(length)


def panel(size_nm, name='HPC22'):
  image, truth, score = film(3)
  return figures.RegionPanel(name, image[0], truth[0], score[0],
                             (score[0] > 0.5).astype(np.uint8), size_nm)


def texts(figure: Figure):
  found = figure.findobj(lambda a: hasattr(a, 'get_text'))
  return [t.get_text() for t in found if t.get_visible()]


def test_axes_are_micrometres_when_known_and_pixels_otherwise():
  known = figures.regions_figure([panel((20.0, 10.0))])
  ax = known.axes[0]
  np.testing.assert_allclose(ax.get_xlim(), (0, 0.70))
  np.testing.assert_allclose(ax.get_ylim(), (1.20, 0))  # top left is the first voxel
  assert '200 nm' in texts(known) and 'µm' in texts(known)
  unknown = figures.regions_figure([panel(None)])
  np.testing.assert_allclose(unknown.axes[0].get_xlim(), (0, 70))
  assert '20 px' in texts(unknown) and 'pixels' in texts(unknown)


def test_regions_figure_shows_the_arrays_it_was_given():
  one = panel((10.0, 10.0))
  axes = figures.regions_figure([one]).axes
  shown = [ax.images[0].get_array() for ax in axes[:5]]
  np.testing.assert_allclose(shown[1], figures.overlay(one.image_yx, one.mask_yx))
  np.testing.assert_allclose(shown[2], one.score_yx)
  np.testing.assert_allclose(shown[3],
                             figures.overlay(one.image_yx, one.segmentation_yx))
  np.testing.assert_allclose(shown[4],
                             figures.comparison(one.mask_yx, one.segmentation_yx))


def test_names_are_drawn_as_they_are():
  name = r'a$\b_^{$<x>'  # between two dollars: a formula that does not parse
  image = panel(None).image_yx
  for figure in (figures.regions_figure([panel(None, name)]),
                 figures.slice_figure(name, 0, image, image > 0.5),
                 figures.porosity_figure({name: np.array([0.2])},
                                         {name: np.array([0.3])})):
    assert figures.to_png(figure).startswith(b'\x89PNG')
    assert any(name in t for t in texts(figure))


def test_neighbourhood_squares_cover_whole_voxels_around_the_centre():
  stack = np.random.default_rng(0).random((3, 45, 45))
  figure = figures.neighbourhood_figure(stack, (33,), 33, None)
  ax = figure.subfigs[0].axes[0]
  square = next(p for p in ax.patches if p.get_width() == 33)
  assert (square.get_x(), square.get_y()) == (6, 6)  # (45 - 33) / 2
  cross = ax.lines[0].get_xydata()[0]
  assert cross.tolist() == [22.5, 22.5]
  crops = [a.images[0].get_array() for a in figure.subfigs[1].axes]
  np.testing.assert_allclose(np.stack(crops), figures.stretch(stack)[:, 6:39, 6:39])


@pytest.mark.parametrize(('chosen', 'n_z'), [(None, 1), (33, 1), (33, 7)])
def test_neighbourhood_figure_of_any_depth(chosen, n_z):
  stack = np.random.default_rng(0).random((n_z, 45, 45))
  assert figures.to_png(figures.neighbourhood_figure(stack, (33,), chosen, (10, 10)))


def test_curves_mark_the_selected_epoch_and_bear_gaps():
  curves = {'epoch': np.arange(1.0, 5), 'train_loss': np.array([3, 2, 1, 1.0]),
            'val_bce': np.array([np.nan, 0.5, 0.4, 0.6]),
            'val_miou': np.full(4, np.nan)}
  figure = figures.curves_figure(curves)
  assert 'selected epoch 3' in texts(figure)
  assert figures.to_png(figure) == figures.to_png(figures.curves_figure(curves))


def test_wide_and_tall_slices_are_drawn():
  for shape in ((30, 200), (200, 30)):
    image = np.random.default_rng(0).random(shape)
    figure = figures.slice_figure('a', 1, image, image > 0.5, (10, 10))
    assert max(figure.get_size_inches()) < 17
    assert figures.to_png(figure)


def test_preparation_shows_both_images_and_how_far_rows_deviate():
  raw = np.tile(np.arange(40.)[:, None], (1, 30))  # a gradient, and without it
  figure = preparation.preparation_figure('a$b_$', 3, raw, np.ones((40, 30)),
                                          (20., 10.))
  before, after = figure.axes[2].lines
  np.testing.assert_allclose(before.get_xdata()[5:-5], np.linspace(
      -50, 50, 40)[5:-5] * 39 / np.ptp(np.percentile(raw, (1, 99))))
  np.testing.assert_allclose(after.get_xdata(), 0)
  np.testing.assert_allclose(before.get_ydata(), 0.02 * (np.arange(40) + 0.5))
  assert figures.to_png(figure) and 'a$b_$, slice 3' in texts(figure)


def test_preparation_is_read_from_where_the_record_says(run, tmp_path):
  film_ = sources.open_films(RunFolder(run[0]))[0]
  raw = create_volume(tmp_path / 'raw', film_.image.shape, np.uint8, None)
  write_box(raw, (2, 0, 0), np.full((1, 60, 70), 7, np.uint8))
  z, raw_yx, prepared_yx = sources.read_preparation(film_, {'source': str(raw.path)})
  assert z == 2 and (raw_yx == 7).all()
  np.testing.assert_array_equal(prepared_yx, film(0)[0][2])
  assert sources.read_preparation(film_, {'source': str(tmp_path / 'gone')}) is None
  assert sources.read_preparation(film_, None) is None


def test_split_tables_hold_the_numbers_of_metrics():
  content = example_metrics()
  own = {'test': {'after': split_scores(0.5, 0.6, 0.2, 0.3)}}
  content['per_volume'] = {'A': own, 'B': {}}
  table = tables.split_table(content, 'after')
  assert table.rows[0] == ('A', *['–'] * 8, '0.5000', '0.6000', '20.00', '30.00')
  assert table.rows[2][:5] == ('Combined', '0.8123', '0.9000', '25.00', '26.25')
  assert {len(r) for r in table.rows} == {len(table.columns)} == {
      sum(n for _, n in table.groups)}
  rows = tables.split_rows(content, 'after')
  assert rows[2] == {'volume': 'A', 'split': 'test', 'miou': 0.5, 'accuracy': 0.6,
                     'porosity_manual': 0.2, 'porosity_automatic': 0.3, 'n_voxels': 100}


def test_one_volume_needs_no_combined_row():
  table = tables.split_table(example_metrics(('A',)), 'before')
  assert [r[0] for r in table.rows] == ['A']


def test_summary_gives_the_gain_over_the_threshold():
  rows = {r[0]: r for r in tables.summary_table(example_metrics()).rows}
  assert rows['A'][1:5] == ('0.7000', '0.8123', '0.7000', '+0.1123')
  assert rows['A'][5:] == ('25.00', '26.25', '+1.25')
  assert rows['B'][3:5] == ('–', '–')


def test_porosity_table_names_its_interval():
  table = tables.porosity_table(example_metrics())
  assert table.rows[0] == ('A', '5', '25.00', '26.00', '+1.00 [−0.50, 3.00]', '0.77',
                           '< 0.0001')
  assert '90 %' in table.note


def test_volume_table_shows_truth_only_where_there_is_some():
  content = {'whole_volume': {
      'A': {'porosity_automatic': 0.31, 'truth': split_scores(0.8, 0.9, 0.3, 0.31)},
      'B': {'porosity_automatic': 0.2}}}
  table = tables.volume_table(content)
  assert table.rows == (('A', '31.00', '30.00', '+1.00', '0.8000', '0.9000'),
                        ('B', '20.00', '–', '–', '–', '–'))
  del content['whole_volume']['A']
  assert tables.volume_table(content).rows == (('B', '20.00'),)


def test_markdown_is_a_table_whatever_the_name():
  content = example_metrics(('a|b <i>\nc', 'B'))
  lines = tables.to_markdown(tables.split_table(content, 'after')).splitlines()
  body = [line for line in lines if line.startswith('|')]
  assert len(body) == 2 + 3
  assert {len(re.findall(r'(?<!\\)\|', line)) for line in body} == {14}
  assert 'a\\|b &lt;i> c' in body[2]


def test_page_is_complete_and_self_contained(run):
  folder, html = run
  text = visible_text(html)
  assert 'Not in this report' not in text
  for expected in ('small', '33 × 33 × 3 voxels', 'σ 2.5 px', '0.8123', 'HPC30',
                   '+0.1123', 'test region at z 2, y 5, x 10', 'model.n_xy', 'jax'):
    assert expected in text
  assert not re.search(r'(?:src|href)\s*=\s*"(?!data:)', html)
  assert not re.search(r'<script .*src|<link|@import|url\(', html)
  files = sorted(p.name for p in (folder / 'figures').iterdir())
  assert files == ['curves.png', 'cuts_1.jpeg', 'cuts_2.jpeg', 'neighbourhoods.png',
                   'porosities.png', 'regions.png', 'slice_1.jpeg', 'slice_2.jpeg',
                   'view_1.png', 'view_2.png']
  html = re.sub(r'<div class="slider.*?</template>', '', html, flags=re.S)
  images = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
  assert {base64.b64decode(i) for i in images} == {
      p.read_bytes() for p in (folder / 'figures').iterdir()}
  assert '| HPC22 |' in (folder / 'tables.md').read_text(encoding='utf-8')


def test_report_is_the_same_a_second_time(run):
  folder, html = run
  assert page.write_report(folder, NETWORK_FACTS).read_text(encoding='utf-8') == html


def test_shown_region_is_the_one_of_median_accuracy(run):
  folder, _ = run
  film_ = sources.open_films(RunFolder(folder))[0]
  regions = load_regions(folder / 'regions')
  everything = make_regions(
      regions.volume, np.stack([regions.z, regions.y, regions.x], 1),
      [region_mask(regions, r) for r in range(6)], ['test'] * 6)
  notes = []
  shown, where = sources.region_panel(film_, everything, notes)
  accuracy = []
  for r in range(3):
    mask = region_mask(regions, r)
    labels = read_box(film_.segmentation, (r, 5, 10), (r + 1, 37, 50))[0]
    accuracy.append(confusion.summarise(confusion.confusion(mask, labels))['accuracy'])
  median = int(np.argsort(accuracy)[1])
  assert f'z {median},' in where and notes == []
  np.testing.assert_array_equal(shown.mask_yx, region_mask(regions, median))
  np.testing.assert_array_equal(
      shown.image_yx,
      read_box(film_.image, (median, 5, 10), (median + 1, 37, 50))[0])


def test_markup_in_names_is_inert(tmp_path):
  name = '<img src=x onerror=alert(1)>'
  folder = make_run(tmp_path / 'a&b<script>', names=(name,), voxel_size=None)
  html = page.write_report(folder, NETWORK_FACTS).read_text(encoding='utf-8')
  assert '<img src=x' not in html and html.count('<script>') == 1
  assert '&lt;img src=x onerror=alert(1)&gt;' in html
  assert 'a&amp;b&lt;script&gt;' in html


def test_missing_test_split_is_said(tmp_path):
  folder = make_run(tmp_path / 'run', names=('A',), with_test=False)
  content = example_metrics(('A',))
  nothing = confusion.summarise(np.zeros((2, 2), np.int64))
  content['test'] = {'before': nothing, 'after': nothing}
  content['per_volume']['A']['test'] = content['test']
  write_json(folder / 'metrics.json', content)
  text = report_text(folder)
  assert 'Test: no regions in this split' in text
  assert 'A: no test regions; a validation region is shown instead' in text


def test_empty_folder_gives_a_page_that_says_so(tmp_path):
  html = page.write_report(tmp_path, None).read_text(encoding='utf-8')
  text = visible_text(html)
  for expected in ('config.json is missing', 'metrics.json is missing',
                   'no annotated regions', 'no volumes', 'no training curves'):
    assert expected in text
  assert '<img' not in html and '<table' not in html


def test_run_without_scores_still_shows_its_images(tmp_path):
  folder = make_run(tmp_path / 'run', names=('A',))
  (folder / 'scores.ome.zarr').rename(folder / 'away')
  (folder / 'segmentation.ome.zarr').rename(folder / 'away2')
  text = report_text(folder)
  assert 'A: no score and no segmentation volume' in text
  assert 'Neighbourhood sizes.' in text and 'Full slice' not in text


def test_only_networks_have_curves_and_only_some_a_neighbourhood(tmp_path):
  folder = make_run(tmp_path / 'run', names=('A',))
  curves = 'Loss, accuracy and mIoU after each epoch'
  unet = report_text(folder, NETWORK_FACTS._replace(has_neighbourhood=False))
  assert curves in unet and 'Neighbourhood sizes.' not in unet
  forest = report_text(folder, NETWORK_FACTS._replace(role=FOREST))
  assert curves not in forest and 'metrics.csv' not in forest
  assert 'Neighbourhood sizes.' in forest


def test_the_kept_leaf_size_is_that_of_highest_validation_miou():
  rows = [{'min_leaf': leaf, 'nodes': 10, 'train_miou': 0.9, 'val_miou': miou,
           'train_accuracy': 0.9, 'val_accuracy': 0.8}
          for leaf, miou in ((1, 0.7), (4, 0.8))]
  table = tables.leaf_table('grown trees', rows)
  assert table.title == 'Grown trees'
  assert table.rows == (('1', '10', '0.9000', '0.7000', '0.9000', '0.8000'),
                        ('4 (kept)', '10', '0.9000', '0.8000', '0.9000', '0.8000'))


def test_columns_are_numbers_save_for_names(tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text('volume,manual\n01,0.5\n"a,b",\n', encoding='utf-8')
  columns = read_columns(path, ('volume',))
  assert columns['volume'].tolist() == ['01', 'a,b']
  np.testing.assert_array_equal(columns['manual'], [0.5, np.nan])
  path.write_text('volume,manual\nA,half\n', encoding='utf-8')
  with pytest.raises(InputError, match='manual.*half'):
    read_columns(path, ('volume',))


def test_missing_folder_and_damaged_files_are_one_line_errors(tmp_path):
  with pytest.raises(InputError, match='no such folder'):
    page.write_report(tmp_path / 'absent', NETWORK_FACTS)
  (tmp_path / 'metrics.json').write_text('{"test": ', encoding='utf-8')
  with pytest.raises(InputError, match='metrics.json'):
    page.write_report(tmp_path, None)
  (tmp_path / 'metrics.json').unlink()
  (tmp_path / 'metrics.csv').write_text('epoch,lr\n1,2\n3\n', encoding='utf-8')
  with pytest.raises(InputError, match='metrics.csv'):
    page.write_report(tmp_path, None)
  assert not (tmp_path / 'report.html').exists()


def test_splits_that_overlap_are_told_at_the_top_of_the_page(tmp_path):
  folder = make_run(tmp_path / 'run', names=('A',))
  assert 'Not to be taken' not in report_text(folder)
  regions = load_regions(folder / 'regions')
  at = np.stack([regions.z, regions.y, regions.x], 1)
  at[-1] = at[0] + (0, 8, 8)
  masks = [region_mask(regions, r) for r in range(len(at))]
  save_regions(folder / 'regions', make_regions(regions.volume, at, masks,
                                                regions.split))
  text = report_text(folder)
  assert text.index('Not to be taken as they are') < text.index('Results')
  assert '1 of 1 test regions share labelled voxels' in text
  assert 'the scores of the test split are too good' in text

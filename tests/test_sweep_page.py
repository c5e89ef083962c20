"""A sweep's tables against numpy, its figures by what their axes hold, and the page."""
import csv
import re

import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.report import (
  figures,
  loss_tables,
  sweep_figures,
  sweep_page,
  sweep_tables,
  tables,
)
from fibjax.system import csv_files, files
from fibjax.system.run_folder import RunFolder
from fibjax.training import members_table
from tests.helpers import NETWORK_FACTS, visible_text

PAPER_HYPERS = dict(intensity_mean_sd=0.048, intensity_deviation_sd=0.056,
                    log10_learning_rate=-2, decay_epochs=8, log10_l2=-5.5,
                    dropout_dense=0.401, dropout_spatial=0.195)
CURVES = ('epoch,train_bce,val_bce,train_accuracy,val_accuracy\n'
          '1,0.6,0.5,0.7,0.75\n2,0.4,0.2,0.8,0.9\n3,0.3,0.25,0.85,0.88\n')


def member(n_xy, n_z, i, bce, miou, seconds=100.0, state='finished', **other):
  return {'n_xy': n_xy, 'n_z': n_z, 'loss': 'bce', 'member': i, 'seed': 2 ** 60 + i,
          **PAPER_HYPERS, 'best_epoch': 2, 'val_bce': bce, 'val_accuracy': 0.9,
          'val_miou': miou, 'seconds': seconds, 'state': state, **other}


def small_sweep():
  """Two sizes; the lowest BCE and the highest mIoU are different members."""
  return [
      member(33, 1, 0, 0.40, 0.70, 60), member(33, 1, 1, 0.30, 0.75, 66),
      member(33, 1, 2, 0.36, 0.91, 90), member(33, 1, 3, 0.1, 0.99, 1, 'diverged'),
      member(33, 1, 4, '', '', '', 'diverged', best_epoch='', val_accuracy=''),
      member(33, 1, 5, 0.05, 0.98, 10, 'stopped'),
      member(113, 3, 0, 0.20, 0.80, 600, decay_epochs=12, log10_l2=-6),
      member(113, 3, 1, 0.25, 0.90, 660)]


def random_sweep(sizes, n, seed=0):
  random = np.random.default_rng(seed)
  return [member(x, z, i, random.uniform(0.2, 0.5), random.uniform(0.7, 0.9),
                 random.uniform(10, 1e4)) for x, z in sizes for i in range(n)]


def write(folder, rows, columns=members_table.COLUMNS, curves=CURVES):
  sweep = RunFolder(folder).sweep
  sweep.path.mkdir(parents=True, exist_ok=True)
  text = csv_files.to_csv([{k: row[k] for k in columns} for row in rows], columns)
  sweep.members.write_text(text, encoding='utf-8')
  if curves:
    sweep.curves.write_text(curves, encoding='utf-8')
  return folder


def report_text(folder, facts=NETWORK_FACTS):
  path = sweep_page.write_sweep_report(folder, facts)
  return visible_text(path.read_text(encoding='utf-8'))


def read(folder):
  members = members_table.read_members(RunFolder(folder).sweep.members)
  return members, members_table.summarise_sizes(members)


def test_columns_are_those_agreed_with_the_sweep():
  assert ','.join(members_table.COLUMNS) == (
      'n_xy,n_z,loss,member,seed,intensity_mean_sd,intensity_deviation_sd,'
      'log10_learning_rate,decay_epochs,log10_l2,dropout_dense,dropout_spatial,'
      'best_epoch,val_bce,val_accuracy,val_miou,seconds,state')


def test_table_of_sizes_holds_numpys_numbers(tmp_path):
  sizes = [(x, z) for z in (1, 3) for x in (33, 65, 113)]
  folder = write(tmp_path, random_sweep(sizes, 7))
  table = sweep_tables.sizes_table(*read(folder), True)
  with open(RunFolder(folder).sweep.members, encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(table.rows) == 6
  for cells, (x, z) in zip(table.rows, sizes, strict=True):
    mine = [r for r in rows if (r['n_xy'], r['n_z']) == (str(x), str(z))]
    bce, miou, seconds = (np.array([float(r[k]) for r in mine])
                          for k in ('val_bce', 'val_miou', 'seconds'))
    assert cells[0].removesuffix(' (selected)') == f'{x} × {x} × {z}'
    assert cells[1:] == (
        '7', '0', '0', f'{bce.min():.4f}',
        f'{bce.mean():.4f} ± {bce.std(ddof=1):.4f}', f'{miou[bce.argmin()]:.4f}',
        f'{miou.mean():.4f} ± {miou.std(ddof=1):.4f}',
        f'{seconds.mean() / 60:.1f} ± {seconds.std(ddof=1) / 60:.1f}')
  assert table.columns[-1] == 'mean ± sd, min'
  assert sum(n for _, n in table.groups) == len(table.columns) == len(table.rows[0])
  assert sum('(selected)' in r[0] for r in table.rows) == 1


def test_diverged_and_stopped_members_are_counted_and_left_out(tmp_path):
  members, sizes = read(write(tmp_path, small_sweep()))
  small = sizes[0]
  assert small.counts == {'finished': 3, 'diverged': 2, 'stopped': 1}
  assert small.best == 1  # neither the stopped nor the diverged one below it
  assert small.mean['val_bce'] == pytest.approx(np.mean([0.40, 0.30, 0.36]))
  assert small.sd['seconds'] == pytest.approx(np.std([60, 66, 90], ddof=1))
  row = sweep_tables.sizes_table(members, sizes, True).rows[0]
  assert row[1:7] == ('3', '2', '1', '0.3000', '0.3533 ± 0.0503', '0.7500')


def test_selection_is_by_cross_entropy_not_by_miou(tmp_path):
  members, _ = read(write(tmp_path, small_sweep()))
  assert members_table.best_member(members) == 6
  assert members_table.best_member(members, members['n_xy'] == 33) == 1
  assert members_table.best_member(members, members['n_xy'] == 49) is None


def test_a_single_member_has_no_deviation(tmp_path):
  members, sizes = read(write(tmp_path, [member(113, 3, 0, 0.2, 0.8, 100)]))
  row = sweep_tables.sizes_table(members, sizes, True).rows[0]
  assert row[4:] == ('0.2000', '0.2000', '0.8000', '0.8000', '100.0')


def test_winner_stands_beside_the_paper(tmp_path):
  members, _ = read(write(tmp_path, small_sweep()))
  table = sweep_tables.winner_table(members, 6, True)
  rows = {r[0]: r[1:] for r in table.rows}
  assert rows['n_xy, pixels'] == ('113', '113') and rows['n_z, slices'] == ('3', '3')
  assert rows['weight penalty c'] == ('1e-06', '4.16e-06')
  assert rows['epochs k per decay step'] == ('12', '8')
  assert rows['log10 of first learning rate'] == ('−2.00', '−2.00')
  assert rows['intensity mean, sd a'] == ('0.048', '0.048')
  assert rows['dropout, dense layers'][1] == '0.401'
  assert rows['dropout, spatial'][1] == '0.195' and len(rows) == 9


@pytest.mark.parametrize(('changes', 'message'), [
    ({'state': 'running'}, "state: got 'running'"),
    ({'seed': '<b>'}, "seed: got '<b>'"),
    ({'n_xy': 33.5}, 'n_xy of row 2: got 33.5, expected a whole number'),
    ({'n_z': ''}, 'n_z of row 2'),
    ({'val_bce': ''}, 'val_bce of row 2: got nan'),
    ({'val_bce': 'inf'}, 'val_bce of row 2: got inf'),
    ({'val_miou': 1.2}, 'val_miou of row 2: got 1.2, expected a finite number from 0'),
    ({'seconds': -1}, 'seconds of row 2'),
    ({'best_epoch': ''}, 'best_epoch of row 2'),
    ({'dropout_dense': ''}, 'dropout_dense of row 2'),
    ({'val_bce': 'low'}, 'val_bce: got .*low'),
    ({'member': 1}, '33 x 1, member 1 of bce twice')])
def test_damaged_members_are_named(tmp_path, changes, message):
  rows = small_sweep()
  rows[0] |= changes
  with pytest.raises(InputError, match=f'members.csv.*{message}'):
    sweep_page.write_sweep_report(write(tmp_path, rows), NETWORK_FACTS)
  assert not RunFolder(tmp_path).sweep.report.exists()


@pytest.mark.parametrize('column', members_table.COLUMNS)
def test_missing_columns_are_named(tmp_path, column):
  columns = [c for c in members_table.COLUMNS if c != column]
  with pytest.raises(InputError, match=f'no column {column},'):
    sweep_page.write_sweep_report(write(tmp_path, small_sweep(), columns),
                                  NETWORK_FACTS)


def test_missing_and_damaged_files_are_one_line_errors(tmp_path):
  with pytest.raises(InputError, match='no such folder'):
    sweep_page.write_sweep_report(tmp_path / 'absent', NETWORK_FACTS)
  RunFolder(tmp_path).sweep.path.mkdir()
  with pytest.raises(InputError, match='members.csv.*no such file'):
    sweep_page.write_sweep_report(tmp_path, NETWORK_FACTS)
  path = RunFolder(tmp_path).sweep.members
  for content, message in ((b'', 'no rows'), (b'n_xy,n_z\n', 'no rows'),
                           (b'n_xy,n_z\n33\n', 'different lengths'),
                           (b'\xff\xfe\x00n_xy\n', 'damaged')):
    path.write_bytes(content)
    with pytest.raises(InputError, match=f'members.csv.*{message}'):
      sweep_page.write_sweep_report(tmp_path, NETWORK_FACTS)
  write(tmp_path, small_sweep(), curves='epoch,val_bce\n1,0.5\n')
  with pytest.raises(InputError, match='curves.csv.*no column train_bce'):
    sweep_page.write_sweep_report(tmp_path, NETWORK_FACTS)


def curves_of(folder, name):
  return sweep_page.size_curves(*read(folder), name)


def lines(ax):
  return [line.get_xydata() for line in ax.lines if len(line.get_xdata())]


def test_size_figure_holds_best_means_and_deviations(tmp_path):
  folder = write(tmp_path, small_sweep() + [member(49, 1, 0, 0.28, 0.77)])
  figure = sweep_figures.size_figure(curves_of(folder, 'val_bce'), 'BCE', (113, 3))
  best, spread = figure.axes
  one, three, ring = lines(best)
  np.testing.assert_allclose(one, [[33, 0.30], [49, 0.28]])
  np.testing.assert_allclose(three, [[113, 0.20]])
  np.testing.assert_allclose(ring, [[113, 0.20]])
  assert best.get_xticks().tolist() == [33, 49, 113]
  bars = [c.lines[2][0].get_segments() for c in spread.containers]
  values = [0.40, 0.30, 0.36]
  np.testing.assert_allclose(bars[0][0][:, 1], np.mean(values) + np.array(
      [-1, 1]) * np.std(values, ddof=1))
  np.testing.assert_allclose(bars[0][1][:, 1], 0.28)  # one member: no bar
  miou = sweep_figures.size_figure(curves_of(folder, 'val_miou'), 'mIoU', (113, 3))
  np.testing.assert_allclose(lines(miou.axes[0])[0], [[33, 0.75], [49, 0.77]])
  np.testing.assert_allclose(lines(miou.axes[0])[1], [[113, 0.80]])


def test_colour_of_a_depth_is_the_same_in_any_sweep():
  curve = sweep_figures.SizeCurve(*np.ones((4, 1)))
  both, alone = (sweep_figures.size_figure(dict.fromkeys(depths, curve), 'BCE').axes[0]
                 for depths in ((1, 7), (7,)))
  assert both.lines[1].get_color() == alone.lines[0].get_color()
  full = dict.fromkeys(sweep_figures.SIZES_Z, curve)
  drawn = sweep_figures.size_figure(full, 'BCE').axes[0].lines
  assert len({(li.get_color(), li.get_marker()) for li in drawn}) == 6


def test_time_figure_is_in_a_readable_unit(tmp_path):
  folder = write(tmp_path, small_sweep())
  ax = sweep_figures.time_figure(curves_of(folder, 'seconds')).axes[0]
  assert ax.get_ylabel() == 'Training time per member (min)'
  points = [c.lines[0].get_xydata() for c in ax.containers]
  np.testing.assert_allclose(points[0], [[33, 72 / 60]])
  np.testing.assert_allclose(points[1], [[113, 630 / 60]])
  assert ax.get_ylim()[0] == 0
  assert [sweep_figures.time_unit(s)[1] for s in (0, 179, 180, 10800)] == [
      's', 's', 'min', 'h']


def test_hyper_figure_holds_all_members_of_the_size(tmp_path):
  members, _ = read(write(tmp_path, small_sweep()[:6]))
  members['dropout_dense'] = np.linspace(0, 0.5, 6)
  figure = sweep_figures.hyper_figure(
      {k: members[k] for k in sweep_figures.HYPERS}, members['val_bce'],
      members['state'], 1)
  ax = figure.axes[list(sweep_figures.HYPERS).index('dropout_dense')]
  finished, stopped = (c.get_offsets() for c in ax.collections)
  np.testing.assert_allclose(finished, [[0, 0.40], [0.1, 0.30], [0.2, 0.36]])
  np.testing.assert_allclose(stopped, [[0.5, 0.05]])
  diverged, paper, ring = ax.lines
  np.testing.assert_allclose(diverged.get_xdata(), [0.3, 0.4])
  assert min(diverged.get_ydata()) > 1  # above the axes, whatever their score was
  assert paper.get_xdata()[0] == 0.401
  assert ring.get_xydata().tolist() == [[0.1, 0.30]]
  low, high = ax.get_xlim()
  assert low < 0 and high > 0.5


@pytest.mark.parametrize('scores', [[0.3, 0.31], [0.3, 9.0], [0.0, 0.5], [0.3, 0.3],
                                    [np.nan, np.nan]])
def test_hyper_figure_shows_every_score(scores):
  figure = sweep_figures.hyper_figure(
      {'dropout_dense': np.array([0.1, 0.2])}, np.array(scores),
      np.array(['finished', 'stopped']), None)
  low, high = figure.axes[0].get_ylim()
  assert all(low < s < high for s in scores if np.isfinite(s))
  assert figures.to_png(figure).startswith(b'\x89PNG')


def test_reliability_figure_holds_its_bins_and_their_error():
  before = (np.array([0.1, 0.5, 0.9]), np.array([0.2, np.nan, 0.6]), [30, 0, 10])
  after = (np.array([0.2, 0.8]), np.array([0.2, 0.8]), [20, 20])
  ax = sweep_figures.reliability_figure({'before': before, 'after': after}).axes[0]
  diagonal, first, second = lines(ax)
  assert diagonal.tolist() == [[0, 0], [1, 1]]
  np.testing.assert_allclose(first, [[0.1, 0.2], [0.9, 0.6]])
  np.testing.assert_allclose(second, [[0.2, 0.2], [0.8, 0.8]])
  error = (30 * 0.1 + 10 * 0.3) / 40
  labels = [t.get_text() for t in ax.get_legend().get_texts()]
  assert labels[1:] == [f'before, ECE {error:.4f}', 'after, ECE 0.0000']


@pytest.mark.parametrize('bins', [
    ([0.1], [0.2, 0.3], [1, 1]), ([0.1], [0.2], [0]), ([0.1], [1.2], [5]),
    ([np.nan], [0.2], [5]), ([], [], [])])
def test_reliability_refuses_what_are_no_bins(bins):
  with pytest.raises(InputError, match='reliability after'):
    sweep_figures.reliability_figure({'before': ([0.5], [0.5], [1]), 'after': bins})


def test_ensemble_table_shows_what_there_is():
  table = sweep_tables.ensemble_table([
      {'name': 'best | <i>', 'miou_before': 0.77744, 'miou_after': 0.798, 'ece': 0.02,
       'brier': 0.08, 'nll': 0.25, 'porosity_manual': 0.3, 'porosity_automatic': 0.31},
      {'name': 'mean of 5', 'miou_before': None, 'ece': float('nan'), 'n': 5}])
  assert table.columns == ('Network', 'before', 'after', 'ECE', 'Brier', 'NLL',
                           'manual', 'automatic')
  assert table.rows[0] == ('best | <i>', '0.7774', '0.7980', '0.0200', '0.0800',
                           '0.2500', '30.00', '31.00')
  assert table.rows[1] == ('mean of 5', *['–'] * 7)
  assert sum(n for _, n in table.groups) == len(table.columns)
  assert 'best \\| &lt;i>' in tables.to_markdown(table)
  assert len(sweep_tables.ensemble_table([{'name': 'a'}]).columns) == 6
  for rows in ([], [{'ece': 0.1}]):
    with pytest.raises(InputError, match='ensemble table'):
      sweep_tables.ensemble_table(rows)


def test_page_is_complete_self_contained_and_the_same_again(tmp_path):
  folder = write(tmp_path / 'search', small_sweep())
  path = sweep_page.write_sweep_report(folder, NETWORK_FACTS)
  assert path == RunFolder(folder).sweep.report
  first = {p: p.read_bytes() for p in folder.rglob('*.*')}
  html = path.read_text(encoding='utf-8')
  text = visible_text(html)
  for expected in ('5 finished, 2 diverged, 1 stopped', '113 × 113 × 3, member 0',
                   str(2 ** 60), 'selected by cross-entropy and not by mIoU',
                   '36 sizes.', '(Figure 5 of the paper)', 'Workdir: search.',
                   'Training of the selected member.', 'A. Author. A paper.'):
    assert expected in text
  assert not re.search(r'(?:src|href)\s*=\s*"(?!data:)', html)
  assert not re.search(r'<script|<link|@import|url\(', html)
  assert 'curves.csv' not in text
  sweep = RunFolder(RunFolder(folder).sweep.path)
  assert sorted(p.stem for p in sweep.figures.iterdir()) == [
      'curves', 'hyper_parameters', 'time', 'val_bce', 'val_miou']
  assert '| 113 × 113 × 3 (selected) |' in sweep.tables.read_text('utf-8')
  sweep_page.write_sweep_report(folder, NETWORK_FACTS)
  assert first == {p: p.read_bytes() for p in folder.rglob('*.*')}


def test_sizes_are_slices_where_there_is_no_neighbourhood(tmp_path):
  members = [member(33, 7, k, 0.3 + k / 10, 0.7, loss=loss)
             for loss in ('bce', 'jaccard') for k in range(2)]
  folder = write(tmp_path, members)
  rows = [compared('bce', [0.80, 0.82], 0.), compared('jaccard', [0.83, 0.85], 0.03)]
  files.write_json(RunFolder(folder).sweep.losses,
                   [row | {'n_z': 7} for row in rows])
  text = report_text(folder, NETWORK_FACTS._replace(has_neighbourhood=False))
  assert '33' not in text.replace('0.33', '') and 'n_xy' not in text
  for expected in ('7 slices, member 0', 'jaccard at 7 slices', 'members (7 slices)',
                   'n_z, slices'):
    assert expected in text
  single = write(tmp_path / 'single', [member(33, 1, 0, 0.3, 0.7)])
  text = report_text(single, NETWORK_FACTS._replace(has_neighbourhood=False))
  assert '1 slice (selected)' in text and '36 sizes.' not in text
  assert 'Figure 3 of the paper' not in text
  text = report_text(single)
  assert 'Figure 3 of the paper' in text and '36 sizes.' in text


def compared(loss, mious, against):
  members = [{'seed': k, 'miou_after': miou, 'accuracy': 0.9, 'porosity_error': 0.0123,
              'porosity_bias': -0.0123, 'worst_miou': 0.4, 'boundary_f1': 0.8,
              'ece': 0.05, 'ece_calibrated': 0.01,
              'films': dict.fromkeys(loss_tables.FILM_SCORES, 0.25 + k / 10)}
             for k, miou in enumerate(mious)]
  interval = {'difference': against, 'low': against - 0.01, 'high': against + 0.02}
  return {'n_xy': 33, 'n_z': 3, 'loss': loss, 'members': members,
          'against_first': dict.fromkeys(loss_tables.SCORES, interval),
          'films_against_first': {'diffusivity_error': interval, 'miou': {
              'difference': 0.5, 'low': None, 'high': None}}}


def test_losses_are_compared_with_the_first(tmp_path):
  rows = [compared('bce', [0.80, 0.82], 0.), compared('jaccard', [0.83, 0.85], 0.03)]
  table = loss_tables.loss_table(rows, True)
  first, second, against = table.rows
  assert first[:3] == ('bce at 33 × 33 × 3', '2', '0.8100 ± 0.0141')
  at = {heading: k for k, heading in enumerate(table.columns)}
  assert second[2] == '0.8400 ± 0.0141'
  assert second[at['porosity error, %']] == '1.23 ± 0.00'
  assert second[at['porosity bias, %']] == '−1.23 ± 0.00'
  assert against[2] == '+0.0300 [+0.0200, +0.0500]'
  assert against[at['porosity error, %']] == '+3.00 [+2.00, +5.00]'  # percent
  table = loss_tables.film_table(rows, True)
  at = {heading: k for k, heading in enumerate(table.columns)}
  assert table.rows[1][at['diffusivity error, %']] == '30.0 ± 7.1'
  assert table.rows[2][at['diffusivity error, %']] == '+3.0 [+2.0, +5.0]'
  assert table.rows[2][at['mIoU']] == '+0.5000 [–, –]'
  assert table.rows[2][at['ECE']] == '–'
  figure = sweep_figures.loss_figure(['jaccard'], [rows[1]['against_first']])
  line = figure.axes[0].containers[0]
  assert line.lines[0].get_xdata()[0] == pytest.approx(0.03)
  (bar,) = line.lines[2][0].get_segments()
  assert bar[:, 0] == pytest.approx([0.02, 0.05])
  members = [member(33, 3, k, 0.3 + k / 10, 0.7, loss=loss)
             for loss in ('bce', 'jaccard') for k in range(2)]
  folder = write(tmp_path / 's', members)
  files.write_json(RunFolder(folder).sweep.losses, rows)
  text = report_text(folder)
  assert 'Losses compared with bce' in text and '33 × 33 × 3, jaccard' in text
  folder = write(tmp_path / 'single', members[:2])
  files.write_json(RunFolder(folder).sweep.losses, rows[:1])
  assert 'Losses compared with bce' not in report_text(folder)


def test_how_losses_start_is_a_table(tmp_path):
  start = [{'loss': 'jaccard', 'value': 0.7, 'best_constant': 0.9, 'common_share': 0.25,
            'gradient_norm': 2., 'gradient_sd': 0.5, 'collapsed_gradient_norm': 0.001,
            'solid_share': [0.5, 1., 0.625]}]
  table = loss_tables.start_table(start)
  assert table.rows == (('jaccard', '50.00 to 100.00', '1', '0.900', '0.250',
                         '2.000 ± 0.500', '0.0005'),)
  folder = write(tmp_path, small_sweep())
  files.write_json(RunFolder(folder).sweep.loss_start, start)
  assert 'How the losses start' in report_text(folder)


def test_markup_in_names_is_inert(tmp_path):
  folder = write(tmp_path / 'a&b<script>', small_sweep())
  files.write_json(folder / 'config.json', {'name': '<img src=x>', 'seed': 1})
  path = sweep_page.write_sweep_report(folder, NETWORK_FACTS)
  html = path.read_text(encoding='utf-8')
  assert '<img src=x' not in html and '<script>' not in html
  assert '&lt;img src=x&gt;' in html and 'a&amp;b&lt;script&gt;' in html


def test_curves_of_another_member_are_noticed(tmp_path):
  folder = write(tmp_path, small_sweep(), curves=CURVES.replace('0.2,', '0.24,'))
  text = report_text(folder)
  assert '0.2400 in curves.csv and 0.2000 in members.csv' in text


def test_sweep_without_a_finished_member_is_still_shown(tmp_path):
  rows = [member(33, 1, i, '', '', 5, 'diverged', best_epoch='', val_accuracy='')
          for i in range(3)]
  folder = write(tmp_path, rows + [member(49, 1, 0, 0.6, 0.6, 5, 'stopped')])
  text = report_text(folder)
  assert 'Scores of 33 × 33 × 1, 49 × 49 × 1: no member has finished.' in text
  assert 'Selected' not in text and 'against size' not in text
  sweep = RunFolder(RunFolder(folder).sweep.path)
  assert [p.stem for p in sweep.figures.iterdir()] == ['hyper_parameters']
  assert '| 33 × 33 × 1 | 0 | 3 | 0 | – | – |' in sweep.tables.read_text('utf-8')


def test_absent_sizes_are_named_when_they_are_few(tmp_path):
  sizes = [(x, z) for x in (33, 49, 65, 81, 97, 113) for z in (1, 3, 5, 7, 9, 11)]
  folder = write(tmp_path, random_sweep(sizes[:-2], 1), curves=None)
  text = report_text(folder)
  assert '36 sizes: 113 × 113 × 9, 113 × 113 × 11.' in text
  assert 'curves.csv is missing' in text

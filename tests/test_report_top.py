"""What a report opens with: cuts, the view in 3-D, key quantities, slices."""
import base64
import copy
import hashlib
import math
import re

import imagecodecs
import numpy as np
import pytest

from fibjax.report import cuts, figures, intervals, opening, page, render, slider
from fibjax.report.sources import Film
from fibjax.system.files import write_json
from fibjax.volumes.volume import array_volume, create_volume, read_box, write_box
from tests.helpers import (
  NETWORK_FACTS,
  SIZE_NM,
  example_analysis,
  film,
  make_run,
  visible_text,
)


def ball(shape, spacing, radius):
  """A ball in the middle of a box."""
  at = np.meshgrid(*((np.arange(n) + 0.5 - n / 2) * s
                     for n, s in zip(shape, spacing, strict=True)), indexing='ij')
  return sum(a ** 2 for a in at) < radius ** 2


def unit(vector):
  return np.array(vector) / np.linalg.norm(vector)


# --- The view -----------------------------------------------------------------------

@pytest.mark.parametrize(('shape', 'spacing'), [
    ((60, 60, 60), (1, 1, 1)), ((20, 60, 60), (3, 1, 1))])
def test_a_ball_is_drawn_as_a_disc_of_its_size(shape, spacing):
  alpha = render.render(ball(shape, spacing, 21), spacing).rgba_yx[..., 3]
  scale = render.render(np.ones(shape, bool), spacing)
  diagonal = np.linalg.norm(scale.corners_8[5] - scale.corners_8[2])  # of the box
  right, down = camera_axes()
  expected = np.hypot(*((right @ (60, -60, 60)), down @ (60, -60, 60)))
  pixels = diagonal / expected
  assert alpha.sum() == pytest.approx(math.pi * (21 * pixels) ** 2, rel=0.03)
  y, x = np.nonzero(alpha > 0.5)
  np.testing.assert_allclose((x.mean() + 0.5, y.mean() + 0.5),
                             scale.corners_8.mean(0), atol=1)


def camera_axes():
  """Right and down of the picture as (z, y, x), from the direction of view."""
  into = unit((1.0, 0.50, -0.62))
  down = unit(np.array([0., 1., 0.]) - into[1] * into)
  right = np.cross(down, into)
  return right * np.sign(right[2]), down


def test_a_ball_is_brightest_where_it_faces_the_lamp():
  rgba = render.render(ball((60, 60, 60), (1, 1, 1), 24), (1, 1, 1)).rgba_yx
  light = rgba[..., :3].sum(2) * (rgba[..., 3] > 0.99)
  brightest = np.argwhere(light > 0.995 * light.max()).mean(0)[::-1]
  middle = np.array(light.shape[::-1]) / 2
  radius = math.sqrt((rgba[..., 3] > 0.5).sum() / math.pi)
  expected = middle + radius * unit((-0.45, -0.75, -0.80))[:2]
  np.testing.assert_allclose(brightest, expected, atol=0.1 * radius)


def test_a_full_box_shows_three_plain_faces():
  view = render.render(np.ones((30, 40, 50), bool), (1, 1, 1))
  solid = view.rgba_yx[view.rgba_yx[..., 3] > 0.999]
  colours, counts = np.unique(solid.round(3), axis=0, return_counts=True)
  faces = colours[counts > 0.05 * len(solid)]
  assert len(faces) == 3
  right, down = camera_axes()
  into = unit((1.0, 0.50, -0.62))
  areas = np.abs(into) * (40 * 50, 30 * 50, 30 * 40)  # of the faces as they are seen
  edge = view.corners_8[1] - view.corners_8[0]
  pixels = np.hypot(*edge) / np.hypot(right @ (0, 0, 50), down @ (0, 0, 50))
  np.testing.assert_allclose(sorted(counts[counts > 0.05 * len(solid)]),
                             sorted(areas * pixels ** 2), rtol=0.05)
  assert not render.render(np.zeros((30, 40, 50), bool), (1, 1, 1)).rgba_yx.any()


def test_a_thin_wall_has_no_holes():
  wall = np.zeros((48, 48, 48), bool)
  wall[24:27] = True  # narrower than two steps of a ray
  view = render.render(wall, (1, 1, 1))
  full = render.render(np.ones((3, 48, 48), bool), (1, 1, 1))
  assert view.rgba_yx[..., 3].sum() == pytest.approx(full.rgba_yx[..., 3].sum(),
                                                     rel=0.02)


def test_a_hollow_is_darker_than_a_bump():
  """Ambient occlusion: the bottom of a pit sees less of the sky."""
  block = np.ones((60, 60, 60), bool)
  block[:25, 24:36, 24:36] = False
  pit = render.render(block, (1, 1, 1)).rgba_yx
  bump = render.render(ball((60, 60, 60), (1, 1, 1), 24), (1, 1, 1)).rgba_yx
  dark = np.percentile(pit[..., :3].sum(2)[pit[..., 3] > 0.999], 1)
  assert dark < 0.6 * np.percentile(bump[..., :3].sum(2)[bump[..., 3] > 0.999], 50)


# --- Reading ------------------------------------------------------------------------

def test_every_kth_voxel_is_read(tmp_path):
  array = np.random.default_rng(0).random((2, 7, 20, 31)).astype(np.float32)
  volume = create_volume(tmp_path / 'v', array.shape[1:], array.dtype, None,
                         channels=('a', 'b'))
  write_box(volume, (0, 0, 0), array)
  read = read_box(volume, (1, 2, 3), (7, 20, 30), 1, steps_zyx=(2, 3, 5))
  np.testing.assert_array_equal(read, array[1, 1:7:2, 2:20:3, 3:30:5])


def test_a_gigavoxel_volume_is_sampled(monkeypatch):
  """Of any volume, a few million voxels are held at most."""
  volume = array_volume(np.zeros((2, 2, 2), np.uint8), (50., 5., 5.))
  object.__setattr__(volume, 'shape', (3000, 20000, 24000))
  sizes = []

  def read(volume, start, stop, steps_zyx=(1, 1, 1)):
    assert all(0 <= a < b <= n for a, b, n in zip(start, stop, volume.shape,
                                                  strict=True))
    shape = [len(range(*s)) for s in zip(start, stop, steps_zyx, strict=True)]
    sizes.append(math.prod(shape))
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, shape, dtype=np.uint8)

  monkeypatch.setattr(cuts, 'read_box', read)
  monkeypatch.setattr(slider, 'read_box', read)
  monkeypatch.setattr(slider, 'SIDE_PX', 64)
  monkeypatch.setattr(render, 'CELLS', 40)
  cuts.cuts_figure(volume, None)
  assert max(sizes) <= 560 ** 2 * 1.2
  cuts.view_figure(volume)
  slices = slider.make_slider(Film('a', volume, volume, volume), 10 ** 8)
  assert max(sizes) < 1e6 and len(slices.frames) == 32
  assert 'the middle is shown, 1536 × 1536 pixels' in slices.note
  assert 'the middle of the volume' in cuts.view_box(volume).describe()


def test_the_box_has_equal_lengths_and_is_whole_where_it_fits():
  volume = array_volume(np.zeros((30, 900, 500), np.uint8), (50., 10., 10.))
  box = cuts.view_box(volume)
  assert (box.start_zyx, box.stop_zyx) == ((0, 250, 50), (30, 650, 450))
  assert box.lengths_zyx == pytest.approx((1.5, 4, 4)) and not box.is_whole
  whole = cuts.cuts_box(volume)
  assert whole.is_whole and whole.stop_zyx == volume.shape
  assert whole.describe() == 'the whole volume, 1.5 × 9 × 5 µm (z, y, x)'


def test_cuts_show_the_planes_through_the_middle_to_scale():
  image, truth, _ = film(0, (9, 60, 70))
  pictures = [ax for ax in cuts.cuts_figure(
      array_volume(image, SIZE_NM), array_volume(truth, SIZE_NM)).axes if ax.images]
  xy, zy, xz = (ax.images[0] for ax in pictures)
  np.testing.assert_array_equal(xy.get_array(), image[4])
  np.testing.assert_array_equal(zy.get_array(), image[:, :, 35].T)
  np.testing.assert_array_equal(xz.get_array(), image[:, 30])
  assert xy.get_extent() == pytest.approx([0, 0.7, 0.6, 0])
  assert zy.get_extent() == pytest.approx([0, 0.45, 0.6, 0])
  assert xz.get_extent() == pytest.approx([0, 0.7, 0.45, 0])


def test_the_outline_lies_between_pore_and_solid():
  truth = np.zeros((3, 20, 30), np.uint8)
  truth[:, :, 12:] = 1
  ax = cuts.cuts_figure(array_volume(truth.astype(np.float32), SIZE_NM),
                        array_volume(truth, SIZE_NM)).axes[0]
  vertices = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
  np.testing.assert_allclose(vertices[:, 0], 0.12)  # µm, the edge of voxel 12


# --- Slices -------------------------------------------------------------------------

def decoded(picture):
  return imagecodecs.jpeg_decode(base64.b64decode(picture))


def test_slices_are_the_arrays_they_show():
  image, truth, score = film(0, (40, 60, 70))
  slices = slider.make_slider(Film('a', *(array_volume(a, SIZE_NM)
                                          for a in (image, score, truth))))
  assert slices.titles == ('Image', 'Score', 'Segmentation')
  assert len(slices.frames) == 32 and slices.middle == 16
  numbers = [int(re.search(r'slice (\d+) of 0 to 39', frame.text)[1])
             for frame in slices.frames]
  assert numbers[0] == 0 and numbers[-1] == 39 and numbers == sorted(set(numbers))
  assert f'{numbers[5] * 0.05:.2f} µm deep' in slices.frames[5].text
  low, high = np.percentile(image[numbers], (0.5, 99.5))
  for f in (0, 5, 31):
    grey, colours, labels = map(decoded, slices.frames[f].pictures)
    expected = np.clip((image[numbers[f]] - low) / (high - low), 0, 1)
    assert np.abs(grey[..., 0] / 255 - expected).mean() < 0.03
    assert ((labels[..., 0] > 128) == truth[numbers[f]]).mean() > 0.999
    true_colours = figures.SCORE_COLOURS(score[numbers[f]])[..., :3]
    assert np.abs(colours / 255 - true_colours).mean() < 0.15  # chroma is halved
  undecided = np.abs(score[numbers[31]] - 0.5) < 0.1
  assert np.diff(colours[undecided][:, :2].astype(int)).mean() > 60  # green
  assert slices.aspect == pytest.approx(70 / 60)
  assert slices.bar_text == '200 nm'
  assert slices.bar_percent == pytest.approx(100 * 0.2 / 0.7)


def test_the_bytes_of_a_slider_are_bounded():
  rng = np.random.default_rng(0)
  noise = array_volume(rng.random((6, 300, 300)).astype(np.float32), SIZE_NM)
  film_ = Film('a', noise, noise, array_volume(np.ones((6, 300, 300), np.uint8)))

  def size(slices):
    return sum(len(p) for frame in slices.frames for p in frame.pictures)

  for limit in (10 ** 7, 400_000, 60_000):
    assert size(slider.make_slider(film_, limit)) <= limit
  assert size(slider.make_slider(film_, 10 ** 7)) > 400_000


def test_a_volume_without_scores_has_two_pictures_and_without_labels_none():
  image, truth, _ = film(0)
  image, truth = array_volume(image), array_volume(truth)
  assert slider.make_slider(Film('a', image, None, truth)).titles == (
      'Image', 'Segmentation')
  assert slider.make_slider(Film('a', image, None, None)) is None


# --- Key quantities -----------------------------------------------------------------

def test_the_sentence_states_the_corrected_values_and_their_intervals():
  content = example_analysis()['HPC30']
  text = intervals.key_sentence('HPC30', content)
  assert text.startswith(
      'The porosity of HPC30 is 27.3 % (90 % interval 26.5 to 28.1 %), the mean pore '
      'size 143 nm (139 to 147 nm) and the specific surface 12.30 µm⁻¹ (12.05 to 12.55 '
      'µm⁻¹). The effective diffusivity, relative to that of the free medium, is 0.35 '
      '(0.31 to 0.39) along z, 0.360 along y and 0.400 along x.')
  assert text.endswith('the 90 % intervals are 25.0 to 30.0 % (porosity).')
  del content['intervals']
  bare = intervals.key_sentence('HPC30', content)
  assert bare.startswith('The porosity of HPC30 is 28.0 %, the mean pore size 150 nm')
  assert 'interval' not in bare


def test_intervals_of_the_material_alone_are_stated():
  """Labels without scores: the sampling error is known, the other errors are not."""
  content = example_analysis()['HPC30']
  content['intervals']['draws'] = 0
  for row in content['intervals']['quantities'].values():
    row |= dict.fromkeys(('estimate', 'bias', 'low', 'high'))
  text = intervals.key_sentence('a', content)
  assert text.startswith('The porosity of a is 28.0 %, the mean pore size 150 nm and')
  assert text.endswith('the 90 % intervals are 25.0 to 30.0 % (porosity).')
  table = intervals.interval_table('a', content)
  assert table.rows[0] == ('porosity', '0.280', '–', '–', '0.250 to 0.300')
  assert table.note.startswith('90 % intervals. Corrected')


@pytest.mark.parametrize(('half', 'digits'), [
    (0.8, 1), (0.3, 1), (0.25, 2), (0.012, 3), (4, 0), (15, 0), (2, 1), (1.5, 1)])
def test_digits_follow_the_interval(half, digits):
  estimate = intervals.Estimate(50, 50, 50 - half, 50 + half, None, None, None)
  assert intervals.decimals(estimate, 9) == digits
  assert intervals.decimals(estimate._replace(low=None), 9) == 9
  assert intervals.decimals(estimate._replace(low=50., high=50.), 9) == 9


def test_undefined_quantities_are_left_out():
  content = example_analysis()['HPC45']
  content['found']['transport'] = {}
  content['found']['pore_size']['mean_nm'] = None
  text = intervals.key_sentence('a', content)
  assert 'pore size' not in text and 'diffusivity' not in text
  assert text == 'The porosity of a is 28.0 % and the specific surface 12.00 µm⁻¹.'


def test_the_figure_has_a_row_per_volume_and_marks_at_the_numbers():
  analysis = example_analysis()
  figure = intervals.intervals_figure(analysis)
  ax = figure.axes[0]
  assert ax.get_title() == 'Porosity (%)'
  assert [label.get_text() for label in ax.get_yticklabels()] == ['HPC30', 'HPC45']
  drawn = [(line.get_xdata(), line.get_ydata()[0]) for line in ax.lines]
  spans = [(x, y) for x, y in drawn if len(x) == 2]
  assert len(spans) == 2 and all(y == 0 for _, y in spans)
  np.testing.assert_allclose(spans[0][0], [25, 30])      # thin: the material
  np.testing.assert_allclose(spans[1][0], [26.5, 28.1])  # thick: the volume
  points = sorted((float(np.ravel(x)[0]), y) for x, y in drawn if np.size(x) == 1)
  assert points == [(pytest.approx(x), y) for x, y in (
      (27.0, 0), (27.3, 0), (28.0, 0), (28.0, 1))]  # truth, estimate, two values
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert labels == ['segmentation', 'corrected', 'truth', 'this volume', 'material']
  assert intervals.intervals_figure({'a': {'undefined': 'why'}}) is None


def test_remarks_say_why_intervals_are_missing_and_each_caveat_once():
  analysis = example_analysis()
  first, second = intervals.remarks(analysis)
  assert first.startswith('The values of HPC45 have no intervals')
  assert second == 'HPC30: Labels are taken as the truth.'
  analysis['HPC45'] = copy.deepcopy(analysis['HPC30'])
  assert intervals.remarks(analysis) == ['Labels are taken as the truth.']
  for content in analysis.values():
    del content['intervals']
  (line,) = intervals.remarks(analysis)
  assert line.startswith('The values have no intervals')


def test_the_table_of_intervals_takes_quantities_it_does_not_know():
  analysis = example_analysis()
  rows = {row[0]: row[1:] for row in intervals.interval_table(
      'HPC30', analysis['HPC30']).rows}
  assert rows['porosity'] == ('0.280', '0.273', '0.265 to 0.281', '0.250 to 0.300')
  assert rows['throats, mean nm'] == ('44.0', '–', '42.0 to 45.0', '–')
  assert intervals.interval_table('HPC45', analysis['HPC45']) is None


# --- The page -----------------------------------------------------------------------

@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = make_run(tmp_path_factory.mktemp('runs') / 'run', ('HPC30', 'HPC45'))
  write_json(folder / 'analysis.json', example_analysis())
  return folder, page.write_report(folder, NETWORK_FACTS).read_text(encoding='utf-8')


def test_the_page_opens_with_the_volumes(run):
  text = visible_text(run[1])
  places = [text.index(word) for word in (
      'Workdir: run', '5 × 60 × 70 voxels of 50 × 10 × 10 nm',
      'Three cuts through HPC30', 'Solid of HPC30', 'The porosity of HPC30 is 27.3 %',
      'Three cuts through HPC45', 'Key quantities', 'Thick bar', 'have no intervals',
      'Slices',
      'Post-processing', 'Results', 'Figures')]
  assert places == sorted(places)


def test_the_only_script_is_allowed_by_its_hash(run):
  html = run[1]
  (script,) = re.findall(r'<script[^>]*>(.*?)</script>', html, re.S)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]*)"', html)
  assert policy == ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
                    f"script-src 'sha256-{digest}'")
  assert not re.search(r'\son\w+\s*=', re.sub(r'<script.*?</script>', '', html,
                                              flags=re.S))


def test_a_page_without_slices_and_long_tables_needs_no_script(tmp_path):
  html = page.write_report(tmp_path, None).read_text(encoding='utf-8')
  assert '<script' not in html and 'script-src' not in html


def test_long_tables_are_folded(run):
  html = run[1]
  for table in re.findall(r'<div class="table">.*?\n</div>', html, re.S):
    rows = table.partition('<tbody>')[2].count('<tr')
    assert ('<details>' in table) == (rows > 12), rows
  assert html.count('<details>') == 2  # physical quantities of two volumes


def test_sliders_have_their_frames_and_names(run):
  html = run[1]
  sliders = re.findall(r'<div class="slider.*?</template>', html, re.S)
  assert len(sliders) == 2
  for one in sliders:
    assert one.count('<div title="slice ') == 5
    assert one.count('data:image/jpeg') == 3 + 5 * 3
    assert re.search(r'<label for="(range\d)">.*<input type="range" id="\1" min="0" '
                     r'max="4"', one, re.S)
    shown = re.findall(r'<img src="([^"]*)"', one)
    assert shown[:3] == shown[3 + 2 * 3:3 + 3 * 3]  # the middle frame


def test_the_page_with_intervals_is_the_same_a_second_time(run):
  folder, html = run
  assert page.write_report(folder, NETWORK_FACTS).read_text(encoding='utf-8') == html


def test_hostile_names_are_inert_everywhere(tmp_path):
  name = '"><img src=x onerror=alert(1)>$b_^'
  folder = make_run(tmp_path / 'run', (name,))
  hostile = example_analysis()['HPC30']
  hostile['intervals']['caveats'] = ['<script>alert(2)</script>']
  hostile['intervals']['quantities']['<b onclick=alert(3)>'] = hostile['intervals'][
      'quantities']['porosity']
  write_json(folder / 'analysis.json', {name: hostile})
  html = page.write_report(folder, NETWORK_FACTS).read_text(encoding='utf-8')
  assert '<img src=x' not in html and '<b onclick' not in html
  assert html.count('<script') == 1 and '&lt;script&gt;alert(2)' in html
  sources = re.findall(r'<img src="([^"]*)"', html)
  assert sources and all(s.startswith('data:image/') for s in sources)


def test_the_limit_per_volume_shrinks_with_many_volumes(monkeypatch):
  limits = []
  monkeypatch.setattr(slider, 'make_slider', lambda film, limit: limits.append(limit))
  monkeypatch.setattr(opening, '_pictures', lambda number, film: ())
  image = array_volume(film(0)[0])
  opening.make_opening([Film('a', image, None, None)] * 2, {})
  opening.make_opening([Film('a', image, None, None)] * 40, {})
  assert limits[0] == slider.VOLUME_BYTES and limits[-1] * 40 <= slider.PAGE_BYTES

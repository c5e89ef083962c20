"""The page of a run as Chromium shows it, on a phone, on a desk and in print."""
import re

import pytest

from fibjax.report import page
from fibjax.system.files import write_json
from tests import browser
from tests.helpers import NETWORK_FACTS, example_analysis, make_run

pytestmark = pytest.mark.skipif(
    browser.find_browser() is None,
    reason=f'needs a browser on PATH: {", ".join(browser.NAMES)}')
SIZES = ((390, 844), (1366, 768))


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  folder = make_run(tmp_path_factory.mktemp('runs') / 'run', ('HPC30', 'HPC45'))
  write_json(folder / 'analysis.json', example_analysis())
  return page.write_report(folder, NETWORK_FACTS)


@pytest.fixture(scope='module')
def tab(tmp_path_factory):
  with browser.open_page(tmp_path_factory.mktemp('browser')) as opened:
    yield opened


@pytest.fixture
def loaded(tab, report, request):
  tab.messages.clear()
  tab.open(report, *getattr(request, 'param', SIZES[1]))
  return tab


@pytest.mark.parametrize('loaded', SIZES, indirect=True)
def test_nothing_scrolls_sideways_and_nothing_is_reported(loaded):
  loaded.evaluate('document.querySelectorAll("details").forEach(d => d.open = true)')
  width = loaded.evaluate('document.documentElement.clientWidth')
  assert loaded.evaluate('document.documentElement.scrollWidth') == width
  broken = ('[...document.images].filter(i => !i.complete || !i.naturalWidth).length')
  assert loaded.evaluate(broken) == 0 and loaded.evaluate('document.images.length') > 12
  assert loaded.messages == []


def state(tab):
  return tab.evaluate('''(() => {
    const slider = document.querySelector('.slider');
    const range = slider.querySelector('input[type=range]');
    return [range.value, slider.querySelector('output').textContent.trim(),
            range.getAttribute('aria-valuetext'),
            [...slider.querySelectorAll('img')].map(i => i.src),
            slider.querySelector('img').alt]; })()''')


@pytest.mark.parametrize('loaded', SIZES, indirect=True)
def test_arrow_keys_move_the_slider(loaded):
  loaded.evaluate('document.querySelector("input[type=range]").focus()')
  value, text, _, pictures, _ = state(loaded)
  assert (value, text) == ('2', 'slice 2 of 0 to 4, 0.10 µm deep')
  loaded.press('ArrowRight')
  value, text, spoken, moved, alt = state(loaded)
  assert value == '3' and text == spoken == 'slice 3 of 0 to 4, 0.15 µm deep'
  assert alt == 'Image of HPC30, slice 3 of 0 to 4, 0.15 µm deep'
  assert len(set(pictures) & set(moved)) == 0 and len(moved) == 3
  loaded.press('ArrowLeft')
  assert state(loaded)[3] == pictures
  loaded.press('End')
  assert state(loaded)[0] == '4'
  loaded.press('Home')
  assert state(loaded)[0] == '0' and loaded.messages == []


def shown_views(tab):
  return tab.evaluate('''[...document.querySelector('.slider')
                      .querySelectorAll('.view')].map(v => v.offsetHeight > 50)''')


def test_a_phone_shows_one_picture_at_a_time_and_a_desk_all(tab, report):
  tab.open(report, *SIZES[1])
  assert shown_views(tab) == [True, True, True]
  tab.open(report, *SIZES[0])
  assert shown_views(tab) == [True, False, False]
  tab.evaluate('document.querySelectorAll(".choice input")[2].click()')
  assert shown_views(tab) == [False, False, True]


def test_without_scripts_the_middle_slices_are_shown(tab, report):
  tab.open(report, *SIZES[1], scripts=False)
  assert shown_views(tab) == [True, True, True]
  assert not tab.evaluate('document.querySelector(".control").checkVisibility()')
  assert '2 of 0 to 4' in tab.evaluate('document.querySelector(".view img").alt')


def test_a_script_of_another_hash_is_refused(tab, report, tmp_path):
  html = report.read_text(encoding='utf-8').replace(
      '</body>', '<script>document.title = "other"</script></body>')
  changed = tmp_path / 'report.html'
  changed.write_text(html, encoding='utf-8')
  tab.messages.clear()
  tab.open(changed, *SIZES[1])
  assert tab.evaluate('document.title') != 'other'
  assert re.search('Content Security Policy', str(tab.messages))


def printed_pages(tab):
  return len(re.findall(rb'/Type\s*/Page\b', tab.print()))


@pytest.mark.parametrize('scripts', [True, False])
def test_folded_tables_are_printed(tab, report, scripts):
  tab.open(report, *SIZES[1], scripts=scripts)
  folded = printed_pages(tab)
  tab.evaluate('document.querySelectorAll("details").forEach(d => d.open = true)')
  assert folded == printed_pages(tab)
  tab.evaluate('document.querySelectorAll("details").forEach(d => d.remove())')
  assert folded > printed_pages(tab) > 1


def test_print_opens_and_closes_what_was_folded(loaded):
  loaded.evaluate('dispatchEvent(new Event("beforeprint"))')
  assert loaded.evaluate('document.querySelectorAll("details:not([open])").length') == 0
  loaded.evaluate('dispatchEvent(new Event("afterprint"))')
  assert loaded.evaluate('document.querySelectorAll("details[open]").length') == 0
  assert loaded.print().startswith(b'%PDF') and loaded.messages == []

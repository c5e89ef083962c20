"""The documents hold: sections, commands, settings, links and names that they cite."""
import ast
import functools
import importlib
import io
import itertools
import re
import shlex
import tokenize

import pytest

from fibjax.cli import main
from fibjax.config import load
from tests.helpers import ROOT, commands_of, document_text

README = ROOT / 'README.md'
METHODS = ROOT / 'fibjax' / 'METHODS.md'
RESULTS = [ROOT / 'configs' / 'RESULTS.md', ROOT / 'fibjax' / 'bench' / 'RESULTS.md']
GUIDES = [README, *sorted((ROOT / 'fibjax').rglob('README.md'))]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
DOCUMENTS = [*GUIDES, *RESULTS, METHODS]
SOURCES = sorted(path for folder in ('fibjax', 'configs', 'tests')
                 for path in (ROOT / folder).rglob('*.py'))
PAGES = sorted((ROOT / 'fibjax').rglob('*.html'))
# Citations of METHODS.md in another form than §N.M; 'section' alone is that of a paper
OLD_FORMS = re.compile(
    r'\bspec(?:ification)?,? (?:§ ?)?(?:\d|[A-Z]+\d)|\bmethods,? (?:sections? )?\d'
    r'|\bsections? \d[\d.]*(?: (?:to|and) \d[\d.]*)? of the methods'
    r'|\(sections? \d', re.I)
TAG = re.compile(r'(?<![\w.])(?:PP|[ABGILPRS])\d(?!\w)')


def name(path):
  return str(path.relative_to(ROOT))


@functools.cache
def prose(path):
  """(line, text) of the docstrings and comments of a Python file."""
  text = path.read_text(encoding='utf-8')
  comments = [(token.start[0], token.string)
              for token in tokenize.generate_tokens(io.StringIO(text).readline)
              if token.type == tokenize.COMMENT]
  docstrings = [(node.body[0].lineno, re.sub(r'\s+', ' ', ast.get_docstring(node)))
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
                and ast.get_docstring(node)]
  return comments + docstrings


def texts(paths):
  """Yields (place, text) of prose, whole where a file is no Python."""
  for path in paths:
    if path.suffix == '.py':
      for line, text in prose(path):
        yield f'{name(path)}:{line}', text
    else:
      yield name(path), path.read_text(encoding='utf-8')


def sections():
  """Numbers of the headings of METHODS.md, in their order."""
  return re.findall(r'^##+ (\d+(?:\.\d+)*) \S', METHODS.read_text(encoding='utf-8'),
                    re.M)


def tags():
  """The choices of METHODS.md: the first column of §10, and the geometries of §7.2."""
  text = METHODS.read_text(encoding='utf-8')
  choices = re.search(r'^## 10 .*?(?=^## 11 )', text, re.M | re.S)[0]
  geometry = re.search(r'^### 7\.2 .*?(?=^### 7\.3 )', text, re.M | re.S)[0]
  defined = set(re.findall(r'\bG\d\b', geometry))
  for cell in re.findall(r'^\| ([A-Z][\w–-]*) \|', choices, re.M):
    first, _, last = cell.partition('–')
    defined |= {first} if not last else {
        f'{first[:-1]}{k}' for k in range(int(first[-1]), int(last[-1]) + 1)}
  return defined


def test_sections_of_the_methods_are_numbered_once_and_in_order():
  numbers = [tuple(map(int, number.split('.'))) for number in sections()]
  assert len(numbers) > 50
  chapters = [list(group) for _, group in itertools.groupby(numbers, lambda n: n[0])]
  for k, chapter in enumerate(chapters):
    assert chapter == [(k,), *((k, part) for part in range(1, len(chapter)))]


def test_every_section_cited_is_in_the_methods():
  known = set(sections())
  cited = [(place, number) for place, text in texts([*SOURCES, *PAGES, *DOCUMENTS])
           for number in re.findall(r'§ ?(\d+(?:\.\d+)*)', text)]
  assert len(cited) > 100
  assert not [c for c in cited if c[1] not in known]


def test_sections_are_cited_by_the_sign():
  wrong = [(place, found[0]) for place, text in texts([*SOURCES, *PAGES])
           for found in OLD_FORMS.finditer(text) if not place.startswith(
               'tests/test_documents.py')]
  assert not wrong


def test_every_choice_cited_is_in_the_methods():
  known = tags()
  assert {'P1', 'A4', 'PP4', 'S2', 'B2', 'G6', 'RFfeat', 'Aug-order'} <= known
  cited = [(place, tag) for place, text in texts(SOURCES)
           for inside in re.findall(r'\([^()]*\)', text) for tag in TAG.findall(inside)]
  assert {'I1', 'PP1', 'S2', 'B1'} <= {tag for _, tag in cited}
  assert not [c for c in cited if c[1] not in known]


def test_the_readme_is_short():
  assert len(README.read_text(encoding='utf-8').splitlines()) <= 150


def test_the_methods_are_installed_with_the_package():
  assert "'fibjax': ['METHODS.md', 'weights/*/*']" in (ROOT / 'setup.py').read_text(
      encoding='utf-8')


def slug(heading):
  """GitHub's anchor of a heading."""
  return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


@pytest.mark.parametrize('path', DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
  text = path.read_text(encoding='utf-8')
  for link in re.findall(r'\]\(([^)\s]+)\)', text):
    if re.match(r'https?:', link):
      continue
    target, _, anchor = link.partition('#')
    file = (path.parent / target).resolve() if target else path
    assert file.is_file(), link
    headings = re.findall(r'^#+ (.*)$', file.read_text(encoding='utf-8'),
                          re.M) if anchor else ()
    assert not anchor or anchor in map(slug, headings), link
  for place in re.findall(r'`((?:fibjax|configs|launch|tests|third_party)/[\w/.]*)`',
                          text):
    assert (ROOT / place).exists(), place


def test_registries_of_the_readme_exist():
  text = README.read_text(encoding='utf-8')
  rows = re.findall(r'\| `([\w.]+)\.([A-Z]+)` \|$', text, re.M)
  assert len(rows) == 6
  for module, registry in rows:
    assert getattr(importlib.import_module(f'fibjax.{module}'), registry), registry


def commands():
  """Commands that the documents and the headers of configs give."""
  for path in [*GUIDES, *RESULTS]:
    yield from ((path, words) for words in commands_of(path))
  for path in CONFIGS:
    header = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    for command in re.findall(r'COMMAND +fibjax (.*)', header.replace('\\\n', ' ')):
      yield path, [word for word in shlex.split(command) if word != '...']


COMMANDS = list(commands())


@pytest.mark.parametrize('path, words', COMMANDS,
                         ids=[f'{name(path)}: {words[0]}' for path, words in COMMANDS])
def test_commands_have_known_verbs_flags_and_settings(path, words, monkeypatch):
  args, rest = main.parser().parse_known_args(words)
  assert callable(args.function)
  assert all(word.startswith('--config.') for word in rest), rest
  if getattr(args, 'config', 'FILE').startswith('FILE'):
    return
  monkeypatch.chdir(ROOT)
  settings = load(args.config, tuple(word.removeprefix('--config.') for word in rest))
  assert bool(settings.compare.methods) == (args.verb == 'compare')
  assert bool(settings.study.counts or settings.study.ways) == (args.verb == 'study')


def test_there_are_commands_to_check():
  assert len(COMMANDS) > 50 and {path for path, _ in COMMANDS} >= {*GUIDES, *CONFIGS}


def test_commands_within_sentences_have_known_verbs_and_flags(capsys):
  inline = {text for path in GUIDES for text in re.findall(
      r'`fibjax ([^`]+)`', path.read_text(encoding='utf-8'))}
  assert len(inline) > 5
  for text in sorted(inline):
    words = shlex.split(text)
    if len(words) == 1:  # the verb alone
      with pytest.raises(SystemExit) as done:
        main.parser().parse_args([*words, '--help'])
      assert done.value.code == 0, text
    else:
      main.parser().parse_known_args(words)
  capsys.readouterr()


def test_settings_within_sentences_exist():
  known = load(f'{ROOT}/configs/demo.py')
  for path in GUIDES:
    for key in re.findall(r'`--config\.([a-z_.]+)', path.read_text(encoding='utf-8')):
      section, _, leaf = key.partition('.')
      assert (leaf in known[section]) if leaf else section in known, (path, key)


def test_every_experiment_named_loads():
  named = set()
  for _, text in itertools.chain(texts([*GUIDES, *RESULTS]), texts(CONFIGS)):
    named |= set(re.findall(r'(?<![\w/])(?:configs/)?(\w+)\.py((?::\w+)?)', text))
  files = {path.stem for path in CONFIGS}
  named = {(stem, variant) for stem, variant in named if stem in files}
  assert {('membrane', ':flat'), ('own', ':large'), ('demo', ':ensemble')} <= named
  for stem, variant in sorted(named):
    assert load(f'{ROOT}/configs/{stem}.py{variant}')


def test_every_experiment_has_its_results_and_says_how_it_is_run():
  results = document_text(RESULTS[0])
  for path in CONFIGS:
    header = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    assert 'COMMAND   fibjax' in header and 'HARDWARE  ' in header
    assert f'--config=configs/{path.name}' in results, path.name


def test_documents_name_no_folder_of_one_machine():
  for path in [*DOCUMENTS, *CONFIGS]:
    assert not re.search(r'(?<![\w.])/(?:tmp|home|work|root)\b',
                         path.read_text(encoding='utf-8')), path

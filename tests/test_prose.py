"""The methods paragraph holds the run's numbers, and nothing that was not done."""
import pytest

from fibjax.config import base, to_dict
from fibjax.models import facts
from fibjax.preparation import steps
from fibjax.report import prose
from tests.helpers import NETWORK_FACTS

VERSIONS = {'fibjax': '9.9', 'jax': '1.2.3'}
METRICS = {'test': {'after': {'n_voxels': 1234, 'miou': 0.8765, 'accuracy': 0.95,
                              'porosity_automatic': 0.301, 'porosity_manual': 0.298}},
           'test_intervals': {'miou': [0.85, 0.9]}}


CLASSICAL_FACTS = facts.MethodFacts(
    title='method', describe=lambda settings: 'Volumes were segmented as they are.',
    summary=lambda settings: ('Method', 'method'))


def settings(**changes):
  config = base()
  for path, value in changes.items():
    section, key = path.split('__')
    config[section][key] = value
  return to_dict(config)


def paragraph(metrics=METRICS, post=None, records=None, method=NETWORK_FACTS,
              **changes):
  return prose.methods_paragraph(settings(**changes), VERSIONS, metrics, post or {},
                                 records or {}, method)


def test_the_paragraph_holds_the_numbers_of_the_run():
  text = paragraph(post={'sigma_px': 2.345, 'threshold': 0.4321, 'tuned': True,
                         'taken': True, 'objective': 'miou'}, model__n_z=5)
  for expected in ('classified on 5 slices.', 'σ = 2.35 px',
                   'threshold 0.432, chosen', '1234 labelled voxels', '0.876',
                   '0.850 to 0.900', '30.1 %', '29.8 % in the labels', 'fibjax 9.9',
                   'JAX 1.2.3', '20 epochs', 'loss bce', 'transposed'):
    assert expected in text, expected
  tilted = paragraph(train__augment='physical')
  assert 'flipped along x, rotated by up to 5°' in tilted and 'transp' not in tilted


def test_it_claims_nothing_that_was_not_done():
  text = paragraph({}, method=CLASSICAL_FACTS, prepare__gradient=False)
  assert 'segmented as they are.' in text
  assert not text.startswith('Slices were')
  for absent in ('trained', 'gradient', 'smoothed', 'test regions', 'Skärberg'):
    assert absent not in text, absent
  fixed = paragraph({}, {'sigma_px': 2., 'threshold': 0.5}, postprocess__tune='none')
  assert 'smoothed' in fixed and 'chosen' not in fixed
  for weights, origin in (('archive', 'published archive'), ('/a/b.h5', 'from b.h5')):
    text = paragraph({}, train__weights=weights)
    assert f'{origin}.' in text and 'epochs' not in text
  assert prose.methods_paragraph({}, VERSIONS, {}, {}, {}, NETWORK_FACTS) == ''
  assert paragraph(method=None) == ''


@pytest.mark.parametrize('role', [facts.FOREST, facts.THRESHOLD, facts.CLASSICAL])
def test_only_networks_are_trained_in_epochs(role):
  method = CLASSICAL_FACTS._replace(role=role)
  assert 'epochs' not in paragraph(method=method)
  assert 'epochs' in paragraph(method=method._replace(role=facts.NETWORK))


def test_what_is_cited_depends_on_the_method():
  general = prose.citations(None, VERSIONS)
  assert len(general) == 2
  assert 'fibjax 9.9' in general[0] and '10.1111/jmi.13007' in general[1]
  assert prose.citations(NETWORK_FACTS, VERSIONS, {}) == [
      *general, 'A. Author. A paper.']


def test_inputs_are_volumes_and_their_hashes():
  pairs = dict(prose.inputs({'/a/film.ome.zarr': 'abc'}, {'film': {
      'shape': [2, 3, 4], 'dtype': 'uint8', 'minimum': 1, 'maximum': 250.}}))
  assert pairs['volume film'] == '2 × 3 × 4 voxels, uint8, grey values 1 to 250'
  assert pairs['fingerprint of /a/film.ome.zarr'] == 'abc'


def test_earlier_steps_are_reported_once_and_in_order():
  records = {name: {'earlier_steps': list(steps.KINDS)} for name in 'ab'}
  text = paragraph(records=records)
  assert text.startswith(
      'Slices were aligned rigidly to each other, freed of a linear gradient, matched '
      'in brightness, freed of curtains by a wavelet-FFT filter and normalised '
      'locally.')
  assert '83.650848' in ' '.join(prose.citations(None, VERSIONS, records))
  records = {'a': {'earlier_steps': ['destripe']}}
  cited = prose.citations(None, VERSIONS, records)
  assert len(cited) == 3 and 'OE.17.008567' in cited[2]
  assert paragraph(records=records).startswith(
      'Slices were freed of curtains by a wavelet-FFT filter. Grey values')

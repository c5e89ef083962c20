"""The methods paragraph holds the run's numbers, and nothing that was not done."""
import pytest

from fibjax.config import base, to_dict
from fibjax.methods import registry
from fibjax.preparation import steps
from fibjax.report import prose

VERSIONS = {'fibjax': '9.9', 'jax': '1.2.3'}
METRICS = {'test': {'after': {'n_voxels': 1234, 'miou': 0.8765, 'accuracy': 0.95,
                              'porosity_automatic': 0.301, 'porosity_manual': 0.298}},
           'test_intervals': {'miou': [0.85, 0.9]}}


def settings(name='patch_cnn', **changes):
  made = base()
  made.model.name = name
  for key, value in changes.items():
    section, key = key.split('__')
    made[section][key] = value
  return to_dict(made)


def test_the_paragraph_holds_the_numbers_of_the_run():
  text = prose.methods_paragraph(settings(model__n_xy=65, model__n_z=5), VERSIONS,
                                 METRICS, {'sigma_px': 2.345, 'threshold': 0.4321}, {})
  for expected in ('65 × 65 × 5', 'Skärberg et al. 2021', 'σ = 2.35 px',
                   'threshold 0.432, chosen', '1234 labelled voxels', '0.876',
                   '0.850 to 0.900', '30.1 %', '29.8 % in the labels', 'fibjax 9.9',
                   'JAX 1.2.3', '20 epochs', 'loss bce', 'transposed'):
    assert expected in text, expected
  tilted = prose.methods_paragraph(settings(train__augment='physical'), VERSIONS,
                                   METRICS, {}, {})
  assert 'flipped along x, rotated by up to 5°' in tilted and 'transp' not in tilted


def test_it_claims_nothing_that_was_not_done():
  text = prose.methods_paragraph(
      settings('otsu', prepare__gradient=False), VERSIONS, {}, {}, {})
  assert 'method otsu' in text
  assert not text.startswith('Slices were')
  for absent in ('trained', 'gradient', 'smoothed', 'test regions', 'Skärberg'):
    assert absent not in text.replace('without training', ''), absent
  zeros = prose.methods_paragraph(settings(model__padding='same'), VERSIONS, {}, {}, {})
  assert 'with zero padding, as published' in zeros
  fixed = prose.methods_paragraph(settings(postprocess__tune=False), VERSIONS, {},
                                  {'sigma_px': 2., 'threshold': 0.5}, {})
  assert 'chosen' not in fixed
  for weights, origin in (('archive', 'published archive'), ('/a/b.h5', 'from b.h5')):
    text = prose.methods_paragraph(settings(train__weights=weights), VERSIONS, {}, {},
                                   {})
    assert f'{origin}.' in text and 'epochs' not in text
  assert prose.methods_paragraph({}, VERSIONS, {}, {}, {}) == ''


@pytest.mark.parametrize('name', ['patch_cnn', 'resunet', 'unet', 'forest', 'otsu'])
def test_every_method_has_its_sentence_and_its_paper(name):
  made = settings(name)
  assert registry.check_name(name) is None
  text = prose.methods_paragraph(made, VERSIONS, METRICS, {}, {})
  assert {'patch_cnn': 'convolutional network', 'resunet': 'residual U-Net',
          'unet': 'U-Net of depth', 'forest': 'random forest of 100 trees',
          'otsu': 'without training'}[name] in text
  cited = ' '.join(prose.citations(made, VERSIONS, {}))
  assert '83.650848' not in cited
  assert '10.1111/jmi.13007' in cited and 'fibjax 9.9' in cited
  assert ('LGRS.2018.2802944' in cited) == (name == 'resunet')


def test_what_went_in_names_volumes_and_their_hashes():
  found = dict(prose.inputs(settings(), {'/a/film.ome.zarr': 'abc'}, {'film': {
      'shape': [2, 3, 4], 'dtype': 'uint8', 'minimum': 1, 'maximum': 250.}}))
  assert found['volume film'] == '2 × 3 × 4 voxels, uint8, grey values 1 to 250'
  assert found['fingerprint of /a/film.ome.zarr'] == 'abc'


def test_steps_done_before_are_told_once_and_in_order():
  records = {name: {'earlier_steps': list(steps.KINDS)} for name in 'ab'}
  text = prose.methods_paragraph(settings(), VERSIONS, METRICS, {}, records)
  assert text.startswith(
      'Slices were aligned rigidly to each other, freed of a linear gradient, matched '
      'in brightness, freed of curtains by a wavelet-FFT filter and normalised '
      'locally.')
  assert '83.650848' in ' '.join(prose.citations(settings(), VERSIONS, records))
  records = {'a': {'earlier_steps': ['destripe']}}
  cited = prose.citations(settings(), VERSIONS, records)
  assert len(cited) == 3 and 'OE.17.008567' in cited[2]
  assert prose.methods_paragraph(settings(), VERSIONS, METRICS, {}, records).startswith(
      'Slices were freed of curtains by a wavelet-FFT filter. Grey values')

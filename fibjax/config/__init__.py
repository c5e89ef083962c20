"""Experiment settings: all defaults, and the rules that values must obey."""
from fibjax.config.settings import (
  base,
  change,
  check_section,
  from_dict,
  load,
  to_dict,
  unknown_variant,
  validate,
)

__all__ = ['base', 'change', 'check_section', 'from_dict', 'load', 'to_dict',
           'unknown_variant', 'validate']

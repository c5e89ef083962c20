"""Experiment settings: all defaults, and the rules that values must obey."""
from fibjax.config.settings import (
  base,
  check_section,
  from_dict,
  load,
  to_dict,
  unknown_variant,
  validate,
)

__all__ = ['base', 'check_section', 'from_dict', 'load', 'to_dict', 'unknown_variant',
           'validate']

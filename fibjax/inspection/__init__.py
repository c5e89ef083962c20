"""Problems of a stack, found before any computing."""

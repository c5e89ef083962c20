"""Physical quantities of a segmentation: porosity, pore sizes, transport and more."""

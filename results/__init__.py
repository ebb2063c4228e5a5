"""Records of the measured runs, one JSON each; `epsbook.record` reads them."""

"""Flows and the command line. They drive the library; the library never imports them."""

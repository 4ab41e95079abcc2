"""Tools for the documentation: generate reference pages from the code, check pages, build the site."""

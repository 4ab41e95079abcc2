"""Lenient reading of refused messages: which patients they name, and what they may have measured."""

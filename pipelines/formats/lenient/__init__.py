"""Lenient reading of messages that were refused: whom they name, and what they may have measured."""

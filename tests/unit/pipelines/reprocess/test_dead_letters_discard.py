"""The words with which dead letters are given up: there must be some, in one line, and of no patient."""

from __future__ import annotations

import pytest

from pipelines.reprocess.discarding import checked_words
from vitalake.errors import InputError


@pytest.mark.parametrize(
    "words",
    ["", "   ", "123 !", "two\nlines", "an escape \x1b[31m", "x" * 501, f"of v1.{'a' * 32}"],
)
def test_they_are_refused_and_not_echoed(words: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_words(words)
    assert len(words) < 3 or words not in str(caught.value)


@pytest.mark.parametrize("words", ["Test device, ticket 88", " Störung – 3. Mai ", "x" * 500])
def test_a_line_in_any_language_is_taken(words: str) -> None:
    assert checked_words(words) == words.strip()

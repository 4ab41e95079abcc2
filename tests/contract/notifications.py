"""The contract of a notification rule: derive a class from ``RuleContract`` for each, as of MaskContract."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitalake.notifications import Notification, Rule, RuleKind, Seen, Tally

_SHARED = settings(
    deadline=None, suppress_health_check=[*settings().suppress_health_check, HealthCheck.differing_executors]
)
"""Classes derive from the contract: their tests are the same functions."""

LOOKS = st.lists(
    st.tuples(
        st.booleans(), st.integers(0, 5_000), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.25, 30.0, 4_000.0])
    ),
    max_size=30,
)


class RuleContract:
    """What every notification rule must hold to.

    Attributes:
        kind: the rule.
        options: as the configuration would give them.
    """

    kind: ClassVar[RuleKind]
    options: ClassVar[dict[str, Any]]

    def _made(self) -> Rule:
        return self.kind.make("vitals", msgspec.convert(self.options, self.kind.options))

    def test_it_says_what_it_is_and_refuses_an_unknown_option(self) -> None:
        assert self.kind.name and self.kind.description
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(self.options | {"no_such_option": 1}, self.kind.options)

    def test_of_a_lane_that_runs_and_takes_all_nothing_is_told(self) -> None:
        rule = self._made()
        for second in range(0, 7_200, 20):
            assert rule.observe(Seen(False, (), Tally(second * 10, second * 10), float(second))) is None

    @_SHARED
    @given(looks=LOOKS)
    def test_it_never_fails_and_names_the_lane(self, looks: list[tuple[bool, int, float, float, float]]) -> None:
        for told in self._told(looks):
            assert "vitals" in told.title and told.text
            assert len(told.title) <= 200 and "\n" not in told.title

    @_SHARED
    @given(looks=LOOKS)
    def test_the_same_lane_is_told_the_same(self, looks: list[tuple[bool, int, float, float, float]]) -> None:
        assert self._told(looks) == self._told(looks)

    @_SHARED
    @given(looks=LOOKS)
    def test_it_says_nothing_twice_of_one_moment(self, looks: list[tuple[bool, int, float, float, float]]) -> None:
        rule, now = self._made(), 0.0
        for paused, messages, *_, seconds in looks:
            now += seconds
            seen = Seen(paused, ["Disk is full"] if paused else (), Tally(messages, messages), now)
            rule.observe(seen)
            assert rule.observe(seen) is None

    def _told(self, looks: list[tuple[bool, int, float, float, float]]) -> list[Notification]:
        rule, now, total, found = self._made(), 0.0, Tally(), list[Notification | None]()
        for paused, messages, rejected, held, seconds in looks:
            now += seconds
            gone = int(messages * rejected)
            total = Tally(
                total.messages + messages,
                total.rows + messages,
                total.rejected + gone,
                total.held + int((messages - gone) * held),
                {"unknown-code": total.rejected + gone},
            )
            found.append(rule.observe(Seen(paused, ["Disk is full"] if paused else (), total, now)))
        found.append(rule.observe(Seen(True, ["Disk is broken"], total, now + 1.0, ended=True)))
        return [one for one in found if one is not None]

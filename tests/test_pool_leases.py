"""The cache's decisions, one by one, without a socket."""

from __future__ import annotations

import pytest

from crawler.pool.leases import Grant, LeaseTable


def use(table: LeaseTable[str], key: str, *, is_needed: bool = True) -> Grant[str]:
    grant = table.lease(key)
    table.release(key, grant.generation, is_needed=is_needed)
    return grant


def test_a_table_for_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="serves nobody"):
        LeaseTable(0)


def test_the_least_recently_used_goes_first() -> None:
    table: LeaseTable[str] = LeaseTable(2)
    use(table, "a")
    use(table, "b")
    use(table, "a")
    assert table.idle() == ("b", "a")
    assert use(table, "c").evicted == "b"
    assert use(table, "d").evicted == "a"


def test_what_nobody_needs_goes_before_what_somebody_does() -> None:
    table: LeaseTable[str] = LeaseTable(4)
    use(table, "old")
    use(table, "older and unneeded", is_needed=False)
    use(table, "unneeded", is_needed=False)
    use(table, "new")
    assert table.idle() == ("older and unneeded", "unneeded", "old", "new")
    use(table, "unneeded")
    assert table.idle() == ("older and unneeded", "old", "new", "unneeded")
    assert [use(table, key).evicted for key in "xyz"] == ["older and unneeded", "old", "new"]


def test_only_the_last_release_says_whether_a_key_is_needed() -> None:
    table: LeaseTable[str] = LeaseTable(2)
    grant = table.lease("a")
    table.lease("a")
    assert not table.release("a", grant.generation, is_needed=False)
    assert table.release("a", grant.generation)
    use(table, "b", is_needed=False)
    assert table.idle() == ("b", "a")


def test_a_table_full_of_leases_says_no_and_changes_nothing() -> None:
    table: LeaseTable[str] = LeaseTable(1)
    table.lease("a")
    assert table.may_lease("a")
    assert not table.may_lease("b")
    with pytest.raises(RuntimeError, match="ask may_lease first"):
        table.lease("b")
    assert (len(table), table.total, "b" in table) == (1, 1, False)


def test_a_retired_key_in_use_keeps_its_place_until_its_last_release() -> None:
    table: LeaseTable[str] = LeaseTable(2)
    old = table.lease("a")
    table.lease("a")
    assert not table.retire("a")
    assert "a" not in table
    new = table.lease("a")
    assert new.is_new
    assert new.generation != old.generation
    assert repr(table) == "<LeaseTable 2/2 open (1 draining), 3 leases>"
    assert not table.may_lease("b")
    assert not table.release("a", old.generation)
    assert table.release("a", old.generation)
    assert not table.is_open("a", old.generation)
    assert table.is_open("a", new.generation)
    assert table.may_lease("b")
    with pytest.raises(RuntimeError, match="no lease"):
        table.release("a", old.generation)
    assert table.leases("a") == 1


def test_a_retired_key_without_leases_is_gone_at_once() -> None:
    table: LeaseTable[str] = LeaseTable(1)
    first = use(table, "a")
    assert table.retire("a")
    assert len(table) == 0
    again = use(table, "a")
    assert again.is_new
    assert again.generation != first.generation
    assert table.stats().misses_after_evict == 0


def test_a_key_that_returns_soon_after_its_eviction_is_counted() -> None:
    table: LeaseTable[str] = LeaseTable(2)
    for key in "abc":
        use(table, key)
    use(table, "a")
    assert table.stats().evictions == 2
    assert table.stats().misses_after_evict == 1
    for key in "defghi":
        use(table, key)
    use(table, "b")
    assert table.stats().misses_after_evict == 1


def test_a_table_that_is_large_enough_misses_nothing() -> None:
    table: LeaseTable[str] = LeaseTable(3)
    for key in "abcabcabc":
        use(table, key)
    assert (table.stats().evictions, table.stats().misses_after_evict) == (0, 0)

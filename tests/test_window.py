"""The window: the beginning of one queue, held against the queue itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.window import SIZE, Window
from storage import QueuedRequest


def row(row_id: int, priority: int = 0) -> QueuedRequest:
    url = f"http://a.test/{row_id}"
    return QueuedRequest(id=row_id, run=1, domain="a.test", url=url, priority=priority)


def in_order(rows: list[QueuedRequest]) -> list[QueuedRequest]:
    return sorted(rows, key=lambda r: (-r.priority, r.id))


def a_window(rows: list[QueuedRequest]) -> Window:
    """A window that has read the beginning of a queue."""
    window = Window(1, "a.test")
    asked = window.begin_read()
    window.end_read(in_order(rows)[:asked], asked, 0.0)
    return window


def popped(window: Window) -> list[int]:
    return [window.pop().id for _ in range(len(window))]


def test_a_window_that_has_read_nothing_wants_to_read() -> None:
    window = Window(1, "a.test")
    assert window.wants_read
    assert not window.is_drained
    assert len(window) == 0


def test_a_read_that_saw_fewer_rows_than_it_asked_for_saw_all() -> None:
    window = a_window([row(n) for n in range(SIZE - 1)])
    assert window.complete
    assert not a_window([row(n) for n in range(SIZE)]).complete


def test_a_window_never_holds_more_than_its_size() -> None:
    window = a_window([row(n) for n in range(SIZE - 1)])
    for n in range(50):
        window.offer(row(1000 + n, priority=n), 0.0)
    assert len(window) == SIZE
    assert not window.complete
    assert window.first().row.priority == 49


def test_a_better_row_enters_and_pushes_the_last_one_out() -> None:
    window = a_window([row(n) for n in range(2 * SIZE)])
    window.offer(row(9999, priority=1), 0.0)
    ids = popped(window)
    assert ids == [9999, *range(SIZE - 1)]


def test_a_worse_row_stays_in_the_store_while_the_store_has_more() -> None:
    window = a_window([row(n) for n in range(2 * SIZE)])
    window.pop()
    window.offer(row(9999, priority=-1), 0.0)
    assert 9999 not in popped(window)


def test_a_row_handed_out_is_not_taken_in_again_by_read_or_offer() -> None:
    window = a_window([row(1), row(2)])
    assert window.pop().id == 1
    window.offer(row(1), 0.0)
    window.offer(row(2), 0.0)
    window.more_in_store()
    asked = window.begin_read()
    window.end_read([row(1), row(2)], asked, 0.0)
    assert popped(window) == [2]


def test_a_row_settled_while_a_read_was_under_way_is_not_brought_back_by_it() -> None:
    window = a_window([row(1)])
    window.pop()
    window.more_in_store()
    asked = window.begin_read()
    window.settle(1)
    window.end_read([row(1)], asked, 0.0)
    assert window.is_drained


def test_a_row_put_back_while_a_read_was_under_way_is_found_by_the_next_one() -> None:
    window = a_window([row(1)])
    window.pop()
    window.more_in_store()
    asked = window.begin_read()
    window.settle(1)
    window.more_in_store()
    window.end_read([row(1)], asked, 0.0)
    assert window.wants_read
    asked = window.begin_read()
    window.end_read([row(1)], asked, 0.0)
    assert popped(window) == [1]


def test_a_row_offered_while_a_read_was_under_way_is_found_by_the_next_one() -> None:
    window = Window(1, "a.test")
    asked = window.begin_read()
    window.offer(row(1), 0.0)
    window.end_read([], asked, 0.0)
    assert not window.complete
    asked = window.begin_read()
    window.end_read([row(1)], asked, 0.0)
    assert popped(window) == [1]


def test_what_a_read_saw_before_the_queue_was_failed_is_void() -> None:
    window = a_window([row(1)])
    window.more_in_store()
    asked = window.begin_read()
    window.clear()
    window.end_read([row(1)], asked, 0.0)
    assert len(window) == 0
    assert window.wants_read


def test_a_read_asks_for_what_is_out_and_ready_besides_a_window() -> None:
    window = a_window([row(n) for n in range(10)])
    for _ in range(4):
        window.pop()
    window.more_in_store()
    assert window.begin_read() == SIZE + 10


def test_the_waiting_time_of_a_row_counts_from_its_arrival_in_the_window() -> None:
    window = Window(1, "a.test")
    asked = window.begin_read()
    window.end_read([row(1)], asked, 5.0)
    window.offer(row(2), 7.0)
    assert [window.pop().at, window.pop().at] == [5.0, 7.0]


def test_its_repr_tells_what_it_holds() -> None:
    assert repr(a_window([row(1)])) == "<Window 1/a.test 1 ready 0 out, complete>"


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE])
@settings(max_examples=20)
@given(priorities=st.randoms(use_true_random=False))
def test_reading_and_popping_gives_the_queue_in_its_order(size: int, priorities: object) -> None:
    choose = priorities.randint  # type: ignore[attr-defined]
    queue = in_order([row(n, priority=choose(-2, 2)) for n in range(size)])
    left = list(queue)
    window = Window(1, "a.test")
    given_out: list[int] = []
    while not window.is_drained:
        if window.wants_read:
            asked = window.begin_read()
            window.end_read(left[:asked], asked, 0.0)
        for _ in range(min(len(window), choose(1, 120))):
            ready = window.pop()
            given_out.append(ready.id)
            if choose(0, 1):
                left.remove(ready.row)
                window.settle(ready.id)
        if not len(window):
            for each in [r for r in left if r.id in given_out]:
                left.remove(each)
                window.settle(each.id)
    assert given_out == [each.id for each in queue]

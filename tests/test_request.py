"""Requests: what can be made can be stored, and comes back the same."""

from __future__ import annotations

from traceback import format_exception
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import SpiderError
from crawler.pool import ProxyRoute
from crawler.request import (
    Callback,
    Request,
    Requests,
    body_bytes,
    decode,
    encode,
    encode_body,
    via_of,
)
from crawler.retry import Retry

URL = "http://127.0.0.1/a"


class Shop:
    """As much of a spider as a request needs."""

    def parse(self, page: Any) -> None: ...

    def book(self, page: Any, shelf: str = "") -> None: ...

    def callback(self, name: str) -> Callback:
        found: Callback = getattr(self, name)
        return found

    def restored_retry(self, changed: dict[str, Any]) -> Retry:
        return Retry(**changed)


SHOP = Shop()
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "inf" not in repr(value))
bodies = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"json": json_values}),
    st.fixed_dictionaries({"body": st.binary(max_size=40)}),
    st.fixed_dictionaries(
        {"data": st.dictionaries(text, text | st.lists(text, max_size=2), max_size=3)},
        optional={"files": st.dictionaries(text, st.binary(max_size=20), max_size=2)},
    ),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["GET", "POST", "PATCH"]),
        "headers": st.dictionaries(st.sampled_from(["Accept", "X-A"]), st.just("v"), max_size=2),
        "priority": st.integers(-9, 9),
        "key": text,
        "revisit": st.booleans(),
        "session": text,
        "proxy": st.just("http://127.0.0.1:3128"),
        "timeout": st.floats(0.1, 100),
        "retry": st.builds(Retry, attempts=st.integers(1, 9), wait=st.floats(0, 9)),
        "statuses": st.just((404, 410)),
        "not_before": st.floats(0, 2e9),
        "args": st.dictionaries(text, json_values, max_size=3),
    },
)


@given(bodies, options, st.sampled_from([SHOP.parse, SHOP.book]), st.sampled_from([URL, URL + "#"]))
def test_a_stored_request_comes_back_the_same(
    body: dict[str, Any], chosen: dict[str, Any], callback: Callback, url: str
) -> None:
    request = Request(url, callback, **body, **chosen)
    payload = encode(request, URL)
    again = decode(URL, request.method, request.priority, payload, SHOP)
    assert again == request
    assert body_bytes(again) == body_bytes(request)


def test_a_plain_request_has_no_payload_and_gets_parse() -> None:
    request = Request(URL)
    assert encode(request, URL) is None
    assert decode(URL, "GET", 0, None, SHOP) == Request(URL, SHOP.parse)


def test_the_payload_of_a_common_link_is_its_callback_alone() -> None:
    assert encode(Request(URL, SHOP.book), URL) == '{"callback":"book"}'


def test_credentials_in_a_url_are_in_no_row() -> None:
    payload = encode(Request("http://me:secret@127.0.0.1/a", SHOP.book), URL)
    assert payload == '{"callback":"book"}'
    assert decode(URL, "GET", 0, payload, SHOP).url == URL


def test_the_redirect_chain_travels_in_the_payload() -> None:
    payload = encode(Request(URL, SHOP.book), URL, via=("http://a/", "http://b/"))
    assert via_of(payload) == ("http://a/", "http://b/")
    assert decode(URL, "GET", 0, payload, SHOP) == Request(URL, SHOP.book)
    assert via_of(None) == ()


def test_an_unreadable_payload_is_named() -> None:
    with pytest.raises(SpiderError, match="stored request for http"):
        decode(URL, "GET", 0, '{"args": 3}', SHOP)


def _function(page: Any) -> None: ...


@pytest.mark.parametrize("callback", [lambda page: None, _function, print, Shop.parse, "parse"])
def test_a_callback_that_is_no_method_of_the_spider_is_refused(callback: Any) -> None:
    with pytest.raises(SpiderError, match="callback"):
        Request(URL, callback)


@pytest.mark.parametrize(
    "value", [{1}, (1,), b"x", object(), float("nan"), {1: 2}, [{"a": {2}}], "\ud800"]
)
def test_an_argument_that_json_would_change_is_refused_by_name(value: Any) -> None:
    with pytest.raises(SpiderError, match="argument"):
        Request(URL, SHOP.book, args={"shelf": value})


@pytest.mark.parametrize(
    "wrong",
    [
        {"json": {}, "body": b""},
        {"data": {}, "json": []},
        {"body": "text"},
        {"json": object()},
        {"data": {"a": 1}},
        {"files": {"a": "text"}},
        {"headers": {"A": "b\r\nC: d"}},
        {"headers": {"A B": "c"}},
        {"headers": {"A": "\ud800"}},
        {"data": {"\ud800": "1"}},
        {"files": {"\ud800": b""}},
        {"key": "\ud800"},
        {"method": "GET /"},
        {"retry": 3},
    ],
)
def test_what_cannot_be_sent_or_stored_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpiderError):
        Request(URL, **wrong)


WRONG: list[tuple[str, Any]] = [
    *(("url", value) for value in (1, None, b"http://127.0.0.1/")),
    *(("method", value) for value in (5, None, "", "GET /")),
    *(("priority", value) for value in ("high", 1.5, None, True, 2**63, -(2**64))),
    *(("revisit", value) for value in ("x", 1, None)),
    *(("timeout", value) for value in ("5", 0, -1, float("nan"), float("inf"), True)),
    *(("not_before", value) for value in ("x", -1, float("nan"), float("inf"), 1e12, True)),
    *(("statuses", value) for value in (404, "404", None, ("404",), (4040,), (True,), {404: 1})),
    *(("key", value) for value in (5, b"k")),
    *(("session", value) for value in (5, ["a"])),
    *(("proxy", value) for value in (5, "", "foo", "proxy:3128", "ftp://proxy", "http://")),
    *(("proxy", f"http://proxy{tail}") for tail in (":0", ":70000", "/path", " x", "..a")),
    *(("proxy", value) for value in ("socks4://proxy:1080", "http://a\u2100b/", "http://[x]/")),
    *(("headers", value) for value in ("A: b", [("A", "b")], 5)),
    *(("data", value) for value in ("a=b", b"a=b", 5, ["ab"], [("a", "b", "c")])),
    *(("files", value) for value in ([b""], "a")),
    *(("args", value) for value in (None, [1], {1: 2})),
    *(("body", value) for value in ("text", 5)),
    *(("retry", value) for value in (3, Retry, "never")),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=repr)
def test_an_option_of_the_wrong_kind_is_refused_by_name_and_value(option: str, value: Any) -> None:
    with pytest.raises(SpiderError, match=f"^{option} of a request must be") as caught:
        Request(**{"url": URL, option: value})
    shown = value if option != "data" or not isinstance(value, list) else value[0]
    assert repr(shown) in str(caught.value)


@pytest.mark.parametrize("option", ["headers", "json", "retry"])
def test_a_wrong_option_is_named_also_beside_others(option: str) -> None:
    others: dict[str, Any] = {"headers": {"A": "b"}, "json": {}, "retry": Retry()}
    for name, value in (("statuses", 404), ("url", 5), ("timeout", "5"), ("args", 3)):
        with pytest.raises(SpiderError, match=f"^{name} of a request must be"):
            Request(**{"url": URL, option: others[option], name: value})


@pytest.mark.parametrize("value", ["é☃", "\xe9", "a\tb\x7f", " a", "a ", "a\n", 5, None])
def test_a_header_that_no_client_sends_is_refused_by_name_without_its_value(value: Any) -> None:
    with pytest.raises(SpiderError, match="header 'X-Token'") as caught:
        Request(URL, headers={"A": "b", "X-Token": value})
    assert "\n" not in str(caught.value)
    with pytest.raises(SpiderError, match="header 'Authorization'") as caught:
        Request(URL, headers={"Authorization": "Bearer s3cret\n"})
    assert "s3cret" not in str(caught.value)


@given(st.text(st.characters(max_codepoint=260), max_size=5))
def test_no_accepted_header_surprises_those_who_send_it(value: str) -> None:
    try:
        Request(URL, headers={"X": value})
    except SpiderError:
        return
    sent = value.encode("ascii")
    assert h11.Request(method="GET", target="/", headers=[(b"Host", b"a"), (b"X", sent)])


@pytest.mark.parametrize(
    "proxy", ["http://me:s3cret@", "socks4://me:s3cret@proxy:1080", "me:s3cret@proxy:3128"]
)
def test_the_password_of_a_refused_proxy_is_not_shown(proxy: str) -> None:
    with pytest.raises(SpiderError, match=r"\[user:password@\]host") as caught:
        Request(URL, proxy=proxy)
    assert "s3cret" not in "".join(format_exception(caught.value))


@pytest.mark.parametrize(
    "proxy",
    ["http://proxy", "HTTPS://me:pass@proxy:3128/", "http://[::1]:3128", "http://bücher.example:1"],
)
def test_what_is_accepted_as_a_proxy_can_be_used_as_one(proxy: str) -> None:
    assert Request(URL, proxy=proxy).proxy == proxy
    assert ProxyRoute.parse(proxy).host


@given(st.text(st.sampled_from("http://:@[].a1é%?#\t \\"), max_size=14))
def test_no_accepted_proxy_surprises_the_pool(tail: str) -> None:
    try:
        Request(URL, proxy=f"http://{tail}")
    except SpiderError:
        return
    assert ProxyRoute.parse(f"http://{tail}").host


def test_statuses_may_be_any_collection_and_come_back_the_same() -> None:
    for statuses in ([404, 410], {404, 410}, range(404, 411, 6)):
        request = Request(URL, statuses=statuses)  # type: ignore[arg-type]
        assert sorted(request.statuses) == [404, 410]
        assert isinstance(request.statuses, tuple)


def test_a_long_wrong_value_is_cut_in_the_message() -> None:
    with pytest.raises(SpiderError) as caught:
        Request(URL, key=["k" * 5_000])  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_a_url_that_is_no_text_is_refused() -> None:
    with pytest.raises(SpiderError, match="URL"):
        Request("http://127.0.0.1/\ud800")


def test_a_method_is_upper_case() -> None:
    assert Request(URL, method="post").method == "POST"


def test_replace_checks_again_and_names_an_unknown_option() -> None:
    request = Request(URL).replace(priority=5)
    assert request.priority == 5
    with pytest.raises(SpiderError, match="argument"):
        request.replace(args={"a": {1}})
    with pytest.raises(SpiderError, match="colour"):
        request.replace(colour=1)  # type: ignore[call-arg]


def test_a_list_of_requests_is_changed_as_one() -> None:
    changed = Requests([Request(URL), Request(URL)]).replace(priority=2, key="k")
    assert [request.priority for request in changed] == [2, 2]
    assert isinstance(changed, Requests)


def test_plain_means_that_the_url_alone_identifies_it() -> None:
    assert Request(URL, SHOP.book, priority=3, headers={"A": "b"}).is_plain
    unlike: list[dict[str, Any]] = [{"key": "k"}, {"method": "POST"}, {"body": b""}, {"json": 1}]
    assert not any(Request(URL, **each).is_plain for each in unlike)


def test_each_kind_of_body_announces_its_type() -> None:
    assert encode_body(Request(URL)) == (None, b"")
    assert encode_body(Request(URL, json={"a": [1]})) == ("application/json", b'{"a":[1]}')
    form = encode_body(Request(URL, data={"a": "1 2", "b": ["x", "y"]}))
    assert form == ("application/x-www-form-urlencoded", b"a=1+2&b=x&b=y")
    kind, content = encode_body(Request(URL, data={"a": "1"}, files={"f": ("n.txt", b"hey")}))
    assert kind is not None
    assert kind.startswith("multipart/form-data; boundary=")
    assert b'name="a"\r\n\r\n1\r\n' in content
    assert b'filename="n.txt"\r\nContent-Type: application/octet-stream\r\n\r\nhey' in content
    assert content.endswith(f"--{kind.partition('=')[2]}--\r\n".encode())


def test_what_is_shown_of_a_request_holds_no_credentials_of_its_proxy() -> None:
    request = Request("http://a.test/", proxy="http://me:s3cret@proxy:3128", priority=3)
    assert request.proxy == "http://me:s3cret@proxy:3128"
    told = repr(request)
    assert told.startswith("Request(url='http://a.test/', callback=None, method='GET'")
    assert "proxy='http://***@proxy:3128'" in told
    assert "priority=3" in told
    assert ("proxy", "http://***@proxy:3128") in request.__rich_repr__()
    assert "s3cret" not in f"{request} {[request]!r} {request.__rich_repr__()}"
    wrong: list[Any] = [["http://me:s3cret@proxy"], b"http://me:s3cret@proxy", "me:s3cret@proxy"]
    for proxy in wrong:
        with pytest.raises(SpiderError, match="proxy of a request") as caught:
            Request("http://a.test/", proxy=proxy)
        assert "s3cret" not in str(caught.value)

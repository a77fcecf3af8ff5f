"""Settings of the network: hosts with their addresses, proxies and their passwords."""

from __future__ import annotations

import asyncio
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import SettingsError
from crawler.layers import Layer, file_layers, flag_layer, resolve
from crawler.pool.resolver import Resolver
from crawler.settings import DomainSettings, Settings
from crawler.units import is_proxy, masked, parse_proxies

if TYPE_CHECKING:
    from pathlib import Path


def refusal(*layers: Layer) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        resolve(layers)
    return caught.value


def test_hosts_are_kept_as_urls_have_them_and_addresses_as_they_are_shortest() -> None:
    flags = [
        "resolve.Shop.Test=127.0.0.2 , 0:0::1",
        'resolve."bücher.example"=192.0.2.1',
        "resolve.shop.test:=1",
    ]
    settings = resolve([flag_layer(flags[:2])])
    assert settings.resolve == {
        "shop.test": "127.0.0.2,::1",
        "xn--bcher-kva.example": "192.0.2.1",
    }
    assert settings.effective()['resolve."shop.test"'] == "127.0.0.2,::1"
    assert Settings(resolve={"SHOP.test": "127.0.0.2, ::1"}).resolve == {
        "shop.test": "127.0.0.2,::1"
    }
    assert "`resolve` (from -s) has 'shop.test:'" in str(refusal(flag_layer(flags[2:])))


def test_of_two_layers_that_name_a_host_the_later_wins_however_it_is_written() -> None:
    layers = [
        flag_layer(["resolve.shop.test=127.0.0.2"], "file"),
        flag_layer(["resolve.'SHOP.test'=::1"]),
    ]
    settings = resolve(layers)
    assert settings.resolve == {"shop.test": "::1"}
    assert dict(settings.origins) == {'resolve."shop.test"': "-s"}


@pytest.mark.parametrize(
    "host",
    ["http://shop.test", "shop.test:80", "shop.test/x", "*.test", "a..b", "127.0.0.1", "0x7f.1"],
)
def test_what_is_no_name_of_a_host_is_refused(host: str) -> None:
    error = refusal(flag_layer([f"resolve.{host}=127.0.0.2"]))
    assert str(error).endswith("expected the name of a host, without scheme and port")
    with pytest.raises(SettingsError, match="expected the name of a host"):
        Settings(resolve={host: "127.0.0.2"})


def test_what_is_no_address_is_refused_for_a_host() -> None:
    error = refusal(flag_layer(["resolve.shop.test=127.0.0.2,localhost"]))
    assert "setting `resolve.\"shop.test\"` = '127.0.0.2,localhost' (from -s)" in str(error)
    with pytest.raises(SettingsError, match="expected hosts with their addresses"):
        Settings(resolve="127.0.0.2")  # type: ignore[arg-type]


def test_the_addresses_of_a_host_may_be_a_list(tmp_path: Path) -> None:
    (tmp_path / "crawler.toml").write_text('resolve."h.test" = ["127.0.0.1", "0::1"]\n')
    settings = resolve(file_layers(tmp_path))
    assert settings.resolve == {"h.test": "127.0.0.1,::1"}
    for several in (["127.0.0.1", "::1"], ("127.0.0.1", "::1")):
        assert resolve([Layer("spider", {"resolve.h.test": several})]) == settings
    for wrong in ([], ["127.0.0.1", "h"], [1], 5, {"a": 1}):
        error = refusal(Layer("spider", {"resolve.h.test": wrong}))
        assert "separated by commas, or a list of them" in str(error)


def test_a_resolver_takes_addresses_as_text_and_as_a_list_and_nothing_else() -> None:
    async def scene() -> None:
        for several in ("127.0.0.1,::1", ["127.0.0.1", "::1"], ("127.0.0.1", "::1")):
            found = await Resolver(overrides={"h.test": several}).resolve("h.test", 80)
            assert {address.literal for address in found} == {"127.0.0.1", "::1"}

    asyncio.run(scene())
    wrong: list[Any] = [[], ["127.0.0.1", "h"], [1], 5, None, {"127.0.0.1": 1}, b"127.0.0.1"]
    for value in wrong:
        with pytest.raises(SettingsError, match=r"'h\.test' = .* is not an IP address"):
            Resolver(overrides={"h.test": value})


def test_a_mistyped_table_and_a_table_alone_are_refused_with_the_right_form() -> None:
    assert refusal(flag_layer(["resolv.shop.test=::1"])).hint == "did you mean `resolve.shop.test`?"
    assert refusal(flag_layer(["resolve=::1"])).hint == 'name one of them: `resolve."HOST"`'


def test_proxies_are_read_from_one_text_from_a_list_and_as_none() -> None:
    text = "http://me:p%2Cw@a:3128, socks5h://[::1]:1080,https://b"
    urls = ("http://me:p%2Cw@a:3128", "socks5h://[::1]:1080", "https://b")
    for given_as in (text, list(urls), urls):
        assert resolve([Layer("x", {"domain.proxies": given_as})]).domain.proxies == urls
    assert DomainSettings(proxies=urls).proxies == urls
    settings = resolve([flag_layer([f"domain.proxies={text}", "domains.a.test.proxies=none"])])
    assert settings.for_domain("a.test").proxies == ()
    assert settings.for_domain("b.test").proxies == urls


@pytest.mark.parametrize(
    "wrong",
    [
        "ftp://me:s3cret@proxy:21",
        "me:s3cret@proxy:3128",
        "http://me:s3cret@",
        "http://me:s3cret",
        "http://me:s3:cret",
        "http://me:s3/cret@proxy:3128",
        "http://me:s3://cret@proxy:3128",
        "me:s3cret@http://proxy",
        "http://me:s3cret@proxy:99999",
        "socks5://me:s3cret@proxy:0",
        "http://me:s3cret@proxy,other:80",
        "http://me:s3cret@[::1",
        "http://me:s3cret@[::::]:80",
        "http://me:s3cret@a..b",
        "http://me:s3@cret@a",
        "http://me:12,s3cret@a",
    ],
)
def test_a_wrong_proxy_is_refused_by_name_and_its_password_is_not_shown(wrong: str) -> None:
    good = "http://you:g00d@fine:80"
    for raw in (wrong, [good, wrong], f"{good},{wrong}", [good, wrong, 3], {good: wrong}):
        error = refusal(Layer("crawler.toml", {"domains.x.test.proxies": raw}))
        told = "".join(format_exception(error))
        assert 'setting `domains."x.test".proxies` = ' in str(error)
        assert not any(secret in told for secret in ("s3", "cret", "g00d"))
    with pytest.raises(SettingsError, match=r"not a proxy|expected proxies"):
        DomainSettings(proxies=(wrong,))


def test_the_password_of_a_proxy_stands_in_nothing_that_is_shown() -> None:
    domain = DomainSettings(proxies=("http://me:s3cret@proxy:3128",))
    settings = Settings(domain=domain, domains={"x.test": domain})
    assert settings.shown() == {
        "domain.proxies": ("http://***@proxy:3128",),
        'domains."x.test".proxies': ("http://***@proxy:3128",),
    }
    assert "s3cret" not in f"{settings!r} {domain!r} {domain}"
    assert settings.given()["domain.proxies"] == domain.proxies
    assert hash(settings) == hash(resolve([Layer("again", settings.given())]))


PROXY = "http://me:s3cret@proxy:3128"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"domain": {"proxies": PROXY}}, "`domain` (from Settings) is of type dict"),
        ({"domains": {"x": {"proxies": PROXY}}}, '`domains."x"` (from Settings) is of type dict'),
        ({"domain": PROXY}, "`domain` (from Settings) is of type str"),
        ({"domains": [PROXY]}, "`domains` (from Settings) is of type list"),
    ],
)
def test_of_what_is_given_for_a_group_only_the_type_is_told(
    wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**wrong)
    assert told in str(caught.value)
    assert (caught.value.hint or "").startswith("write ")
    assert "DomainSettings(...)" in (caught.value.hint or "")
    assert "s3cret" not in "".join(format_exception(caught.value))


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        (f"domain.proxies {PROXY}", "`domain.proxies http://***@proxy:3128` (from -s)"),
        (f"{PROXY}=5", "unknown setting `http://***@proxy:3128` (from -s)"),
        ("http://me:s3cret=x@proxy", "unknown setting `http://me:***` (from -s)"),
        (f"domains.{PROXY}=5", "unknown setting `domains.http://***@proxy:3128`"),
        (f"domains.{PROXY}.delay=x", 'setting `domains."http://***@'),
        (f"resolv.{PROXY}=::1", "unknown setting `resolv.http://***@proxy:3128`"),
        (f"resolve.{PROXY}=::1", "has 'http://***@proxy:3128'"),
    ],
)
def test_the_password_of_a_proxy_in_the_wrong_place_is_not_told_back(flag: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve([flag_layer([flag])])
    assert told in str(caught.value)
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


@given(st.text(st.sampled_from("htps5:/@[].a1é%?# ,"), max_size=16))
def test_a_proxy_that_is_accepted_stays_one_and_a_mask_leaves_none_of_its_credentials(
    text: str,
) -> None:
    assert masked(f"http://{text}").count("@") <= 1
    for url in parse_proxies(f"socks5://{text}"):
        assert not is_proxy(url) or is_proxy(masked(url))
    if is_proxy(f"http://me:s3cret@{text}"):
        assert "s3cret" not in masked(f"http://me:s3cret@{text}")

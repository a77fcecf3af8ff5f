"""Settings: what is given, what is merged, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import SettingsError
from crawler.layers import Layer, environment_layer, file_layers, flag_layer, resolve
from crawler.settings import (
    BodySettings,
    DomainSettings,
    PoolSettings,
    Settings,
    TlsSettings,
    setting_types,
    vocabulary,
)
from crawler.units import parse_duration, parse_size, shown


def refusal(*layers: Layer) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        resolve(layers)
    return caught.value


# ── layers ───────────────────────────────────────────────────────────────────────────────


def test_a_later_layer_overrides_only_what_it_gives() -> None:
    settings = resolve(
        [
            Layer("pyproject.toml", {"domain.delay": 2, "domain.concurrency": 3, "limit": 7}),
            Layer("spider", Settings(domain=DomainSettings(delay=0.5)).given()),
            Layer("environment", {"limit": "9"}),
        ]
    )
    assert settings.domain.delay == 0.5
    assert settings.domain.concurrency == 3
    assert settings.limit == 9
    assert settings.pool.clients == Settings().pool.clients
    assert dict(settings.origins) == {
        "domain.delay": "spider",
        "domain.concurrency": "pyproject.toml",
        "limit": "environment",
    }


def test_a_spider_that_gives_the_default_value_still_overrides_the_file() -> None:
    spider = Settings(domain=DomainSettings(delay="auto"), limit=None)
    settings = resolve(
        [
            Layer("pyproject.toml", {"domain.delay": 2, "limit": 5}),
            Layer("spider", spider.given()),
        ]
    )
    assert settings.domain.delay == "auto"
    assert settings.limit is None


@dataclass(frozen=True)
class Choice:
    key: str
    value: Any


CHOICES = st.one_of(
    st.builds(Choice, st.just("concurrency"), st.integers(1, 10**6)),
    st.builds(Choice, st.just("domain.delay"), st.just("auto") | st.floats(0, 10**6)),
    st.builds(Choice, st.just("pool.sockets"), st.none() | st.integers(1, 10**4)),
    st.builds(Choice, st.just("robots.obey"), st.booleans()),
    st.builds(Choice, st.just("on_error"), st.sampled_from(["keep", "drop"])),
    st.builds(Choice, st.just('domains."*.x.org".delay'), st.floats(0, 100)),
    st.builds(Choice, st.just('domains."*.x.org".verify'), st.booleans()),
    st.builds(Choice, st.just("domain.proxies"), st.just(()) | st.just(("http://a:1",))),
    st.builds(Choice, st.just('resolve."a.test"'), st.sampled_from(["::1", "127.0.0.2,::1"])),
    st.builds(Choice, st.just('resolve."b.a.test"'), st.just("127.0.0.3")),
)
LAYERS = st.lists(
    st.lists(CHOICES, max_size=5).map(lambda given: {one.key: one.value for one in given}),
    max_size=4,
)


@given(LAYERS)
def test_every_value_is_that_of_the_last_layer_that_gave_it(layers: list[dict[str, Any]]) -> None:
    settings = resolve([Layer(str(n), values) for n, values in enumerate(layers)])
    effective = settings.effective()
    given_by = {key: str(n) for n, values in enumerate(layers) for key in values}
    expected = {key: layers[int(n)][key] for key, n in given_by.items()}
    assert dict(settings.origins) == given_by
    assert settings.given() == expected
    assert effective == {**Settings().effective(), **expected}


@given(LAYERS)
def test_what_was_given_resolves_to_the_same_settings_again(layers: list[dict[str, Any]]) -> None:
    settings = resolve([Layer(str(n), values) for n, values in enumerate(layers)])
    again = resolve([Layer("again", settings.given())])
    assert again == settings
    assert hash(again) == hash(settings)
    stored = json.loads(json.dumps(settings.shown()))
    assert resolve([Layer("row", stored)]) == settings


def test_a_project_file_sets_by_tables_and_a_file_of_its_own_goes_over_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.crawler]\nlimit = 5\ndomain = {delay = "500ms"}\nmax_time = "2h"\n'
        '[tool.crawler.domains."*.example.com"]\ndelay = 3\n'
        "[tool.crawler.domains.plain.example.com]\nconcurrency = 2\n"
        '[tool.crawler.resolve]\n"Shop.Test" = "127.0.0.2"\nother.test = "::1"\n'
    )
    (tmp_path / "crawler.toml").write_text("limit = 6\n[body]\nwire = '1MiB'\n")
    settings = resolve(file_layers(tmp_path))
    assert (settings.limit, settings.max_time, settings.domain.delay) == (6, 7200.0, 0.5)
    assert settings.body.wire == 1024 * 1024
    assert settings.for_domain("plain.example.com").delay == 3
    assert settings.for_domain("plain.example.com").concurrency == 2
    assert settings.resolve == {"shop.test": "127.0.0.2", "other.test": "::1"}
    assert settings.origins["limit"] == "crawler.toml"
    assert settings.origins['resolve."shop.test"'] == "pyproject.toml"


def test_a_folder_without_files_sets_nothing(tmp_path: Path) -> None:
    assert file_layers(tmp_path) == []


def test_a_project_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "crawler.toml").write_text("limit = \n")
    with pytest.raises(SettingsError, match=r"crawler\.toml could not be read"):
        file_layers(tmp_path)


def test_variables_and_flags_are_read_as_text() -> None:
    environ = {"CRAWLER_DOMAIN_DELAY": "90s", "CRAWLER_ROBOTS_OBEY": "false", "HOME": "/root"}
    settings = resolve(
        [environment_layer(environ), flag_layer(["pool.sockets=none", "contact=a=b"])]
    )
    assert settings.domain.delay == 90.0
    assert settings.robots.obey is False
    assert settings.pool.sockets is None
    assert settings.contact == "a=b"


def test_a_project_file_whose_section_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\ncrawler = 3\n")
    with pytest.raises(SettingsError, match=r"`crawler` in pyproject\.toml is not a table"):
        file_layers(tmp_path)


# ── refusals ─────────────────────────────────────────────────────────────────────────────


def test_an_unknown_name_is_refused_with_its_origin_and_the_nearest_name() -> None:
    error = refusal(flag_layer(["domain.dealy=2"]))
    assert str(error) == "unknown setting `domain.dealy` (from -s)"
    assert error.hint == "did you mean `domain.delay`?"


def test_an_unknown_name_in_a_known_group_is_refused_with_what_the_group_has() -> None:
    error = refusal(flag_layer(["pool.max_conections=3"]))
    assert str(error) == "unknown setting `pool.max_conections` (from -s)"
    assert "`pool.clients`" in str(error.hint)


def test_a_group_is_no_setting() -> None:
    error = refusal(Layer("spider", {"timeout": 3}))
    assert "is a group of settings" in str(error)
    assert "`timeout.total`" in str(error.hint)


def test_an_unknown_variable_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingsError) as caught:
        environment_layer({"CRAWLER_DOMAIN_DELAI": "2"})
    assert caught.value.hint == "did you mean `CRAWLER_DOMAIN_DELAY`?"


def test_a_mistyped_field_of_a_pattern_is_refused() -> None:
    error = refusal(flag_layer(["domains.*.example.com.dely=2"]))
    assert error.hint == 'did you mean `domains."*.example.com".delay`?'


@pytest.mark.parametrize("written", ["domains.x.test", 'domains."x.test"'])
def test_a_pattern_without_a_field_is_told_how_to_name_one(written: str) -> None:
    error = refusal(Layer("crawler.toml", {written: 5}))
    assert str(error) == f"unknown setting `{written}` (from crawler.toml)"
    assert error.hint == 'write `domains."x.test".concurrency = …`'


@pytest.mark.parametrize("name", ["CRAWLER_RESOLVE_SHOP", "CRAWLER_DOMAINS_SHOP_DELAY"])
def test_a_variable_for_a_table_is_told_where_tables_are_set(name: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        environment_layer({name: "127.0.0.1"})
    table = name.split("_")[1].lower()
    assert caught.value.hint == (
        f"no variable sets the table `{table}`: set it in a file, in the spider or by -s"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("concurrency", "three", "a whole number, 1 or more"),
        ("concurrency", "0", "a whole number, 1 or more"),
        ("domain.delay", "fast", "seconds, 0 or more (90, '2h', '500ms'), or 'auto'"),
        ("domain.delay", "-1", "seconds, 0 or more (90, '2h', '500ms'), or 'auto'"),
        ("domain.group", "city", "'host' or 'site'"),
        ("timeout.total", "nan", "seconds above 0 (90, '2h', '500ms')"),
        ("timeout.total", "0", "seconds above 0 (90, '2h', '500ms')"),
        ("body.wire", "10 bananas", "bytes, 1 or more (65536, '32MiB')"),
        ("head.bytes", "0", "bytes, 1 or more (65536, '32MiB')"),
        ("robots.obey", "maybe", "true or false"),
        ("limit", "0", "a whole number, 1 or more, or none"),
        ("tls.ca_file", "", "a text, or none"),
        ("timeout.rate", "-1", "bytes, 0 or more (65536, '32MiB')"),
        ("head.interim", "-1", "a whole number, 0 or more"),
        ("pool.transport", "curl", "'native' or 'httpcore'"),
        ("tls.minimum", "1.1", "'1.2' or '1.3'"),
        ("domain.verify", "0", "true where no domain is named"),
        ("domain.http2", "h2", "true or false"),
        ("domain.local_address", "eth0", "an address (192.0.2.1, 2001:db8::1), or none"),
        ("domain.local_address", "10.0.0.0/8", "an address (192.0.2.1, 2001:db8::1), or none"),
        ("contact", "", "a text of printable ASCII, or none"),
        ("contact", "mailto:jürgen@example.com", "a text of printable ASCII, or none"),
        ("user_agent", "crawler ☃", "a text of printable ASCII, or none"),
        ("user_agent", "a\r\nX: b", "a text of printable ASCII, or none"),
    ],
)
def test_an_impossible_value_names_key_value_origin_and_what_is_expected(
    key: str, value: str, expected: str
) -> None:
    error = refusal(flag_layer([f"{key}={value}"]))
    assert str(error) == f"setting `{key}` = {value!r} (from -s): expected {expected}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("concurrency", True),
        ("concurrency", 1.5),
        ("max_time", float("inf")),
        ("user_agent", "a\n"),
    ],
)
def test_values_from_code_are_not_bent_into_their_type(key: str, value: object) -> None:
    assert repr(value) in str(refusal(Layer("spider", {key: value})))


def test_a_file_that_cannot_be_used_is_refused_with_its_name_and_origin(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path in (tmp_path / "missing.pem", tmp_path, empty):
        error = refusal(Layer("crawler.toml", {"tls.ca_file": str(path)}))
        assert f"setting `tls.ca_file` = {str(path)!r} (from crawler.toml)" in str(error)
        assert error.hint == "name a PEM file with at least one certificate"
    good = str(Path(__file__).parent / "pool_server.pem")
    assert resolve([Layer("spider", {"tls.ca_file": good})]).tls.ca_file == good


def test_a_client_certificate_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    good = (Path(__file__).parent / "pool_server.pem").read_text()
    keyless, pair = tmp_path / "keyless.pem", tmp_path / "pair.pem"
    keyless.write_text(good[good.index("-----BEGIN CERTIFICATE") :].partition("-----BEGIN PRIV")[0])
    pair.write_text(good)
    for path in (tmp_path / "missing.pem", keyless):
        error = refusal(Layer("crawler.toml", {"tls.client_cert": str(path)}))
        assert f"setting `tls.client_cert` = {str(path)!r} (from crawler.toml)" in str(error)
        assert error.hint == "name a PEM file with a certificate and its key, without a passphrase"
    settings = resolve([Layer("spider", {"tls.client_cert": str(pair)})])
    assert settings.tls.client_cert == str(pair)


UNVERIFIED = '`domains."HOST".verify = false`: only for domains that are named'


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tls.verify", "false"),
        ("domain.verify", "false"),
        ("domains.*.verify", "false"),
        ("domains.*.*:443.verify", "false"),
        ("domains.'*:*'.verify", "0"),
    ],
)
def test_certificates_go_unchecked_for_named_domains_only(key: str, value: str) -> None:
    assert refusal(flag_layer([f"{key}={value}"])).hint == UNVERIFIED
    settings = resolve([flag_layer(["domain.verify=true", "domains.*.shop.test.verify=false"])])
    assert settings.domain.verify
    assert settings.for_domain("other.test").verify
    assert not settings.for_domain("a.shop.test:8443").verify


def test_code_and_environment_cannot_leave_certificates_unchecked_either() -> None:
    for build in (
        lambda: Settings(domain=DomainSettings(verify=False)),
        lambda: Settings(domains={"*": DomainSettings(verify=False)}),
        lambda: TlsSettings(verify=False),  # type: ignore[call-arg]
        lambda: environment_layer({"CRAWLER_TLS_VERIFY": "false"}),
        lambda: resolve([environment_layer({"CRAWLER_DOMAIN_VERIFY": "false"})]),
    ):
        with pytest.raises(SettingsError) as caught:
            build()
        assert caught.value.hint == UNVERIFIED
    named = Settings(domains={"self-signed.test": DomainSettings(verify=False)})
    assert not named.for_domain("self-signed.test").verify


def test_a_flag_without_a_value_is_refused() -> None:
    with pytest.raises(SettingsError, match="is not KEY=VALUE"):
        flag_layer(["limit"])


def test_groups_refuse_unknown_names_and_foreign_groups_at_once() -> None:
    with pytest.raises(SettingsError, match="unknown setting `clinets` in PoolSettings") as caught:
        PoolSettings(clinets=3)  # type: ignore[call-arg]
    assert caught.value.hint == "did you mean `clients`?"
    with pytest.raises(SettingsError, match="expected DomainSettings"):
        Settings(domain=PoolSettings())  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r'domains\."x\.org"'):
        Settings(domains={"x.org": 3})  # type: ignore[dict-item]


# ── groups ───────────────────────────────────────────────────────────────────────────────


def test_settings_are_frozen_and_show_what_they_were_given() -> None:
    settings = Settings(body=BodySettings(wire=10), limit=3)
    with pytest.raises(AttributeError, match="frozen"):
        settings.limit = 4  # type: ignore[misc]
    assert repr(settings) == "Settings(body=BodySettings(wire=10), limit=3)"
    assert settings == Settings(limit=3, body=BodySettings(wire=10))
    assert settings != Settings(limit=3)


def test_groups_with_equal_values_are_equal_and_hash_alike_however_they_got_them() -> None:
    implicit, explicit = PoolSettings(), PoolSettings(clients=256)
    assert implicit == explicit
    assert hash(implicit) == hash(explicit)


def test_of_all_matching_patterns_the_longest_wins_field_by_field() -> None:
    settings = resolve(
        [
            flag_layer(
                [
                    "domain.concurrency=4",
                    "domain.probes=2",
                    "domains.*.delay=1",
                    "domains.*.example.com.delay=2",
                    "domains.'*.example.com'.concurrency=5",
                    'domains."shop.example.com:8080".delay=3',
                ]
            )
        ]
    )
    shop = settings.for_domain("shop.example.com:8080")
    assert (shop.delay, shop.concurrency, shop.probes) == (3, 5, 2)
    news = settings.for_domain("news.example.com:8443")
    assert (news.delay, news.concurrency) == (2, 5)
    other = settings.for_domain("example.com.evil.test")
    assert (other.delay, other.concurrency) == (1, 4)
    assert settings.for_domain("a.example.com") is settings.for_domain("b.example.com")


def test_every_setting_is_documented_and_has_its_default() -> None:
    fields = {field.key: field for field in vocabulary()}
    assert list(fields) == [*Settings().effective(), 'resolve."HOST"']
    assert all(field.doc.endswith(".") and field.expected for field in fields.values())
    assert fields["pool.sockets"].default is None
    assert all("None:" in f.doc or "none" not in f.expected for f in fields.values())


# ── durations and sizes ──────────────────────────────────────────────────────────────────


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "min", "h", "d"]))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    seconds = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[unit]
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * seconds)
    assert parse_duration(f" {number}{unit.upper()} ") == parse_duration(f"{number}{unit}")


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_a_compound_duration_is_the_sum_of_its_parts(hours: int, minutes: int, secs: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m {secs}s") == hours * 3600 + minutes * 60 + secs


@given(st.integers(0, 10**6), st.sampled_from(["", "B", "KiB", "kB", "MiB", "MB", "GiB"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    factors = {"": 1, "B": 1, "KiB": 2**10, "kB": 10**3, "MiB": 2**20, "MB": 10**6, "GiB": 2**30}
    assert parse_size(f"{number}{unit}") == number * factors[unit]


@given(st.text(max_size=12))
def test_any_other_text_is_refused_and_never_breaks_the_reader(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError:
            continue


@given(st.sampled_from([field.key for field in vocabulary()]), st.text(max_size=12))
def test_any_text_for_any_setting_is_a_value_or_a_refusal(key: str, text: str) -> None:
    refused = ""
    try:
        settings = resolve([Layer("-s", {key: text})])
    except SettingsError as error:
        settings, refused = Settings(), str(error)
    told = f"setting `{key.lower()}` = {shown(text, setting_types().get(key))!r} (from -s)"
    assert not refused or f"{told}: expected" in refused
    assert resolve([Layer("-s", settings.given())]) == settings

"""Options of the etcd store are refused before anything is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from etcdlock.adapters.etcd_convert import bounds, covers, key_bytes, key_text, span_of
from etcdlock.adapters.etcd_options import EtcdOptions, read_credentials
from etcdlock.errors import InvalidSetting
from etcdlock.ports import KeyRange


@pytest.mark.parametrize(
    "endpoint",
    ["", "host", "host:", ":2379", "http://host:2379", "host:0", "host:65536", "host:x", "::1:2379", "[]:1", "h:1/x"],
)
def test_an_endpoint_that_is_not_host_and_port_is_refused_by_name(endpoint: str) -> None:
    with pytest.raises(InvalidSetting, match="endpoints"):
        EtcdOptions(endpoints=(endpoint,))


@pytest.mark.parametrize("endpoint", ["127.0.0.1:2379", "etcd-1.example:2379", "[::1]:2379"])
def test_names_and_addresses_of_both_families_are_endpoints(endpoint: str) -> None:
    assert EtcdOptions(endpoints=(endpoint,)).endpoints == (endpoint,)


def test_half_of_a_pair_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="username"):
        EtcdOptions(endpoints=("h:1",), username="u")
    with pytest.raises(InvalidSetting, match="key_file"):
        EtcdOptions(endpoints=("h:1",), cert_file="c")
    with pytest.raises(InvalidSetting, match="endpoint"):
        EtcdOptions(endpoints=())
    with pytest.raises(InvalidSetting, match="twice"):
        EtcdOptions(endpoints=("h:1", "h:1"))


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(EtcdOptions(endpoints=("h:1",), username="u", password="secret"))  # noqa: S106


def test_a_missing_or_malformed_certificate_file_is_named_with_its_setting(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    missing = tmp_path / "missing.pem"
    for ca_file in (nonsense, missing):
        with pytest.raises(InvalidSetting, match=f"ca_file.*{ca_file.name}"):
            read_credentials(EtcdOptions(endpoints=("h:1",), ca_file=str(ca_file)))
    with pytest.raises(InvalidSetting, match=r"cert_file.*nonsense\.pem"):
        read_credentials(EtcdOptions(endpoints=("h:1",), cert_file=str(nonsense), key_file=str(nonsense)))
    with pytest.raises(InvalidSetting, match=r"key_file.*missing\.pem"):
        read_credentials(EtcdOptions(endpoints=("h:1",), cert_file=str(nonsense), key_file=str(missing)))


def test_the_end_of_a_prefix_is_the_next_prefix() -> None:
    assert bounds(KeyRange("/a/", prefix=True)) == {"key": b"/a/", "range_end": b"/a0"}
    assert bounds(KeyRange("a\udcff", prefix=True)) == {"key": b"a\xff", "range_end": b"b"}
    assert bounds(KeyRange("", prefix=True)) == {"key": b"\0", "range_end": b"\0"}
    assert bounds(KeyRange("/a/")) == {"key": b"/a/"}


def test_one_span_covers_all_ranges_and_no_more_than_their_hull() -> None:
    ranges = (KeyRange("/c/lost/", prefix=True), KeyRange("/c/domains/1"), KeyRange("/c/hosts/", prefix=True))
    assert span_of(ranges) == {"key": b"/c/domains/1", "range_end": b"/c/lost0"}
    assert span_of((KeyRange("/c/x"),)) == {"key": b"/c/x", "range_end": b"/c/x\0"}
    assert [covers(where, key="/c/lost/h/1") for where in ranges] == [True, False, False]
    assert not covers(KeyRange("/c/domains/1"), key="/c/domains/12")


def test_a_key_that_is_no_utf_8_survives_both_ways() -> None:
    assert key_bytes(key_text(b"/a/\xff\xc3")) == b"/a/\xff\xc3"

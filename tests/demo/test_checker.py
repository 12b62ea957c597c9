"""The judge of the demo's disk: what it must find, on disks made for it."""

from __future__ import annotations

import zlib

from etcdlock.demo.checker import RECORD_BYTES, check, longest_pause_seconds


def written(token: int, host: str, *times_ms: int, first: int = 0) -> list[bytes]:
    """Records of one owner, begun at these times; each write took 1 ms."""
    done = [0, *(time + 1 for time in times_ms)]
    return [
        record(token, host, sequence=first + number, before=time * 10**6, done=done[number] * 10**6)
        for number, time in enumerate(times_ms)
    ]


def record(token: int, host: str, *, sequence: int, before: int, done: int) -> bytes:
    body = f"token={token} host={host} sequence={sequence} before={before} done={done}".ljust(150).encode()
    return body + f" {zlib.crc32(body):08x}\n".encode()


def faults(*parts: list[bytes]) -> str:
    """Everything the checker says of a disk, on one line."""
    return "; ".join(check(b"".join(one for part in parts for one in part)).faults)


def test_owners_one_after_the_other_are_in_order() -> None:
    disk = b"".join([*written(3, "A", 10, 20, 30), *written(9, "B", 500, 510), *written(13, "A", 900)])
    report = check(disk)
    assert report.faults == ()
    assert [(tenure.who, tenure.records) for tenure in report.tenures] == [
        ("A (token 3)", 3),
        ("B (token 9)", 2),
        ("A (token 13)", 1),
    ]
    assert longest_pause_seconds(report.records) == 0.47


def test_an_empty_disk_proves_nothing() -> None:
    assert faults() == "the disk is empty: nobody ever wrote to it"


def test_two_owners_at_the_same_time_are_found_though_each_wrote_in_turn() -> None:
    a, b = written(3, "A", 10, 20, 600), written(9, "B", 500, 510)
    assert "B (token 9) wrote 100 ms before A (token 3) had ended" in faults(a[:2], a[2:], b)


def test_an_owner_whose_last_write_had_not_returned_when_the_next_began_is_found() -> None:
    a = [*written(3, "A", 10), record(3, "A", sequence=1, before=20 * 10**6, done=700 * 10**6)]
    assert "B (token 9) wrote 200 ms before A (token 3) had ended" in faults(a, written(9, "B", 500))


def test_a_late_write_of_an_earlier_owner_is_a_token_that_shrinks() -> None:
    a = written(3, "A", 10, 20)
    assert faults(a[:1], written(9, "B", 500), a[1:]).startswith("record 2: the token shrank, A (token 3) wrote after")


def test_a_later_owner_with_a_smaller_token_is_found() -> None:
    assert "the token shrank" in faults(written(9, "A", 10), written(3, "B", 500))


def test_one_token_for_two_hosts_is_found() -> None:
    assert faults(written(3, "A", 10), written(3, "B", 500)) == "token 3 was used by A and by B"


def test_a_record_lost_is_found() -> None:
    a = written(3, "A", 10, 20, 30)
    assert faults(a[:1], a[2:]) == "A (token 3): record 2 stands where 1 should"


def test_two_processes_with_one_token_are_found() -> None:
    assert "record 0 stands where 2 should" in faults(written(3, "A", 10, 20), written(3, "A", 30))


def test_a_record_cut_short_at_the_end_is_torn() -> None:
    a = written(3, "A", 10, 20)
    assert faults(a[:1], [a[1][:100]]) == "record 1 is torn or garbled"


def test_a_record_of_two_halves_is_torn() -> None:
    one, other = written(3, "A", 10)[0], written(9, "B", 500)[0]
    torn = one[:80] + other[80:]
    assert len(torn) == RECORD_BYTES
    assert "record 0 is torn or garbled" in faults([torn])


def test_zeros_where_a_record_should_be_are_found() -> None:
    assert "record 1 is torn or garbled" in faults(written(3, "A", 10), [bytes(RECORD_BYTES)])

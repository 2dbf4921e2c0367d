"""The texts of limits: what they mean, and the sentence for each way to get one wrong."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.limits import LimitError, Limits, parse_cpu, parse_disk, parse_limits, parse_memory, parse_pids

Parser = Callable[[str], Limits]


@pytest.mark.parametrize(
    ("parse", "text", "limits"),
    [
        (parse_cpu, "512", Limits(cpu=500)),
        (parse_cpu, "1024", Limits(cpu=1000)),
        (parse_cpu, " 2048 ", Limits(cpu=2000)),
        (parse_cpu, "11", Limits(cpu=10)),
        (parse_cpu, "0.5cpu", Limits(cpu=500)),
        (parse_cpu, "2cpus", Limits(cpu=2000)),
        (parse_cpu, "500m", Limits(cpu=500)),
        (parse_cpu, "50%", Limits(cpu=500)),
        (parse_cpu, "12.5%", Limits(cpu=125)),
        (parse_memory, "500M", Limits(memory=500 * 2**20)),
        (parse_memory, "1g", Limits(memory=2**30)),
        (parse_memory, "1.5GiB", Limits(memory=3 * 2**29)),
        (parse_memory, "2T", Limits(memory=2**41)),
        (parse_memory, "2048kb", Limits(memory=2**21)),
        (parse_memory, "1048576", Limits(memory=2**20)),
        (parse_memory, "9223372036854775807", Limits(memory=2**63 - 1)),
        (parse_disk, "500", Limits(disk_ops=500)),
        (parse_disk, "50M", Limits(disk_bytes=50 * 2**20)),
        (parse_disk, "50B", Limits(disk_bytes=50)),
        (parse_disk, "500,50M", Limits(disk_ops=500, disk_bytes=50 * 2**20)),
        (parse_disk, "50M, 500", Limits(disk_ops=500, disk_bytes=50 * 2**20)),
        (parse_pids, "64", Limits(pids=64)),
    ],
)
def test_texts(parse: Parser, text: str, limits: Limits) -> None:
    assert parse(text) == limits


@pytest.mark.parametrize(
    ("parse", "text", "sentence"),
    [
        (parse_cpu, "0", "--cpu-limit must be more than zero; leave it out for no limit."),
        (parse_cpu, "0.0%", "--cpu-limit must be more than zero; leave it out for no limit."),
        (parse_cpu, "-5", "--cpu-limit must be more than zero; leave it out for no limit."),
        (parse_cpu, "", "--cpu-limit '' is not a number with an optional unit."),
        (parse_cpu, "half", "--cpu-limit 'half' is not a number with an optional unit."),
        (parse_cpu, "1e3", "--cpu-limit '1e3' is not a number with an optional unit."),
        (parse_cpu, "\u0661", "--cpu-limit '\u0661' is not a number with an optional unit."),
        (parse_cpu, "5x", "--cpu-limit '5x' has an unknown unit; write 512, 0.5cpu, 500m or 50%."),
        (parse_cpu, "5M", "--cpu-limit '5M' has an unknown unit; write 512, 0.5cpu, 500m or 50%."),
        (parse_cpu, "5", "--cpu-limit 5 is too small; the least is 10 thousandths of a CPU."),
        (parse_cpu, "9m", "--cpu-limit 9m is too small; the least is 10 thousandths of a CPU."),
        (
            parse_cpu,
            "9223372036854775807cpu",
            "--cpu-limit 9223372036854775807cpu is too large; the most is 2^63 - 1.",
        ),
        (parse_memory, "0M", "--memory-limit must be more than zero; leave it out for no limit."),
        (parse_memory, "-1G", "--memory-limit must be more than zero; leave it out for no limit."),
        (parse_memory, "500K", "--memory-limit 500K is too small; the least is 1048576 bytes."),
        (parse_memory, "0.5", "--memory-limit 0.5 is too small; the least is 1048576 bytes."),
        (
            parse_memory,
            "9223372036854775808",
            "--memory-limit 9223372036854775808 is too large; the most is 2^63 - 1.",
        ),
        (parse_memory, "99999999T", "--memory-limit 99999999T is too large; the most is 2^63 - 1."),
        (
            parse_memory,
            "5P",
            "--memory-limit '5P' has an unknown unit; write bytes or a number with K, M, G or T.",
        ),
        (parse_disk, "0", "--disk-limit must be more than zero; leave it out for no limit."),
        (parse_disk, "500,", "--disk-limit '' is not a number with an optional unit."),
        (parse_disk, "1.5", "--disk-limit 1.5 must be a whole number of operations a second."),
        (parse_disk, "0.1B", "--disk-limit 0.1B is too small; the least is 1."),
        (parse_disk, "5,6", "--disk-limit '5,6' gives the same kind of limit twice."),
        (parse_disk, "5M,6K", "--disk-limit '5M,6K' gives the same kind of limit twice."),
        (
            parse_disk,
            "5x",
            "--disk-limit '5x' has an unknown unit; write bytes or a number with K, M, G or T.",
        ),
        (parse_pids, "0", "--pids-limit must be more than zero; leave it out for no limit."),
        (parse_pids, "5k", "--pids-limit '5k' must be a whole number."),
        (parse_pids, "1.5", "--pids-limit '1.5' must be a whole number."),
    ],
)
def test_sentences(parse: Parser, text: str, sentence: str) -> None:
    with pytest.raises(LimitError) as caught:
        parse(text)
    assert str(caught.value) == sentence


@given(
    st.sampled_from([parse_cpu, parse_memory, parse_disk, parse_pids]),
    st.text("0159.-,%kKmMgGtTiBcpus \u0663"),
)
def test_any_text_is_a_valid_limit_or_refused(parse: Parser, text: str) -> None:
    try:
        limits = parse(text)
    except LimitError:
        return
    assert limits
    limits.check()


def test_the_flags_together() -> None:
    assert parse_limits() == Limits()
    assert not parse_limits()
    assert parse_limits(cpu="512", memory="500M", disk="500", pids="9") == Limits(
        cpu=500, memory=500 * 2**20, disk_ops=500, pids=9
    )
    with pytest.raises(LimitError, match=r"^--memory-limit must"):
        parse_limits(cpu="512", memory="0")


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(cpu=9), "the cpu limit must be from 10 to 2^63 - 1, not 9."),
        (Limits(memory=1000), "the memory limit must be from 1048576 to 2^63 - 1, not 1000."),
        (Limits(pids=0), "the pids limit must be from 1 to 2^63 - 1, not 0."),
        (Limits(disk_ops=2**63), f"the disk_ops limit must be from 1 to 2^63 - 1, not {2**63}."),
    ],
)
def test_values_from_the_wire_are_checked_too(limits: Limits, sentence: str) -> None:
    with pytest.raises(LimitError) as caught:
        limits.check()
    assert str(caught.value) == sentence

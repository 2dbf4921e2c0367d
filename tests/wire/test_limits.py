"""The texts of limits: what they mean, and the sentence for each way to get one wrong."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.limits import (
    MAX_WEIGHT,
    MIN_WEIGHT,
    LimitError,
    Limits,
    parse_cpu,
    parse_disk,
    parse_limits,
    parse_memory,
    parse_pids,
    parse_weight,
)

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
        (parse_memory, "500Mi", Limits(memory=500 * 2**20)),
        (parse_memory, "1Gi", Limits(memory=2**30)),
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
        (
            parse_cpu,
            "5",
            "--cpu-limit 5 is too small, as a bare number counts 1/1024 of a CPU; for CPUs write 5cpu.",
        ),
        (
            parse_cpu,
            "1.5",
            "--cpu-limit 1.5 is too small, as a bare number counts 1/1024 of a CPU; for CPUs write 1.5cpu.",
        ),
        (parse_cpu, "9m", "--cpu-limit 9m is too small; the least is 10 thousandths of a CPU."),
        (
            parse_cpu,
            "9223372036854775807cpu",
            "--cpu-limit 9223372036854775807cpu is too large; the most is 2^63 - 1.",
        ),
        (parse_memory, "0M", "--memory-limit must be more than zero; leave it out for no limit."),
        (parse_memory, "-1G", "--memory-limit must be more than zero; leave it out for no limit."),
        (parse_memory, "500K", "--memory-limit 500K is too small; the least is 1048576 bytes."),
        (
            parse_memory,
            "0.5",
            "--memory-limit 0.5 is too small, as a bare number counts bytes; the least is 1M.",
        ),
        (parse_memory, "5", "--memory-limit 5 is too small, as a bare number counts bytes; the least is 1M."),
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


@given(st.integers(MIN_WEIGHT, MAX_WEIGHT), st.sampled_from(["", " ", "\n"]))
def test_any_weight_in_range_is_read_as_it_is(weight: int, space: str) -> None:
    text = f"{space}{weight}{space}"
    assert parse_weight("--cpu-weight", text) == weight
    assert parse_limits(cpu_weight=text) == Limits(cpu_weight=weight)
    assert parse_limits(disk_weight=text) == Limits(disk_weight=weight)
    Limits(cpu_weight=weight, disk_weight=weight).check()


@given(
    st.integers().filter(lambda number: not MIN_WEIGHT <= number <= MAX_WEIGHT)
    | st.sampled_from([MIN_WEIGHT - 1, MAX_WEIGHT + 1, 2**63, 10**5000])
)
def test_any_weight_out_of_range_is_refused_wherever_it_comes_from(number: int) -> None:
    text = str(Decimal(number))
    with pytest.raises(LimitError) as caught:
        parse_weight("--disk-weight", text)
    assert str(caught.value) == (
        f"--disk-weight {text} must be from 1 to 10000; leave it out for the default, 100."
    )
    if abs(number) < 10**4000:  # what Python prints of an integer
        with pytest.raises(LimitError) as caught:
            Limits(disk_weight=number).check()
        assert str(caught.value) == f"the disk_weight must be from 1 to 10000, not {number}."


@given(
    st.sampled_from(["cpu", "memory", "disk", "pids", "cpu_weight", "disk_weight"]),
    st.text("0159.-,%kKmMgGtTiBcpus \u0663\n") | st.text(max_size=8),
)
def test_any_text_is_a_value_in_range_or_a_sentence_that_names_the_flag(name: str, text: str) -> None:
    flag = f"--{name.replace('_', '-')}" if name.endswith("weight") else f"--{name}-limit"
    try:
        limits = parse_limits(**{name: text})
    except LimitError as error:
        sentence = str(error)
    else:
        assert limits
        limits.check()
        return
    assert sentence.startswith(f"{flag} ")
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    "text", ["", " ", "-", "1.5", "100.0", "1e2", "50%", "1k", "100x", "0x10", "1,2", "\u0661"]
)
def test_a_weight_that_is_no_whole_number(text: str) -> None:
    with pytest.raises(LimitError) as caught:
        parse_limits(cpu_weight=text)
    assert str(caught.value) == f"--cpu-weight {text!r} must be a whole number."


def test_the_flags_together() -> None:
    assert parse_limits() == Limits()
    assert not parse_limits()
    assert parse_limits(
        cpu="512", memory="500M", disk="500", pids="9", cpu_weight="50", disk_weight="200"
    ) == Limits(cpu=500, memory=500 * 2**20, disk_ops=500, pids=9, cpu_weight=50, disk_weight=200)
    with pytest.raises(LimitError, match=r"^--memory-limit must"):
        parse_limits(cpu="512", memory="0")


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(cpu=9), "the cpu limit must be from 10 to 2^63 - 1, not 9."),
        (Limits(memory=1000), "the memory limit must be from 1048576 to 2^63 - 1, not 1000."),
        (Limits(pids=0), "the pids limit must be from 1 to 2^63 - 1, not 0."),
        (Limits(cpu_weight=0), "the cpu_weight must be from 1 to 10000, not 0."),
        (Limits(disk_weight=10_001), "the disk_weight must be from 1 to 10000, not 10001."),
        (Limits(disk_ops=2**63), f"the disk_ops limit must be from 1 to 2^63 - 1, not {2**63}."),
    ],
)
def test_values_from_the_wire_are_checked_too(limits: Limits, sentence: str) -> None:
    with pytest.raises(LimitError) as caught:
        limits.check()
    assert str(caught.value) == sentence


def test_more_than_any_machine_has_is_allowed() -> None:
    Limits(cpu=2**63 - 1, memory=2**63 - 1, disk_ops=2**63 - 1, disk_bytes=2**63 - 1, pids=2**63 - 1).check()

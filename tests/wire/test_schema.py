"""wire/worker-v1.cddl says what the code does: the same fields, and the same verdict on each value."""

import dataclasses
from pathlib import Path
from typing import Any, Final

import pytest

from tests.wire.examples import EXAMPLES, JOB
from tests.wire.schema import Schema
from wire import codec, jobs, limits, messages

SCHEMA: Final = Schema((Path(__file__).parents[2] / "wire" / "worker-v1.cddl").read_text())
LIMITS: Final = limits.Limits(500, 2**20, 1, 1, 1, 100, 100)
USAGE: Final = jobs.Usage(1.0, 0.5, 4096, 1, 2, 3, 4, 5, 6, 7, 0.25)
#: A record with every field, for each rule.
RECORDS: Final[dict[str, object]] = {
    "start-params": jobs.StartParams((b"sh",), {b"A": b"B"}, b"/", True, 1.5, LIMITS, "nobody", JOB.id),
    "stop-params": jobs.StopParams("0d9b", 1.0),
    "job-params": jobs.JobParams("0d9b"),
    "list-params": jobs.ListParams("3"),
    "stream-params": jobs.StreamParams("0d9b", 1, False, 2, 3, 4.0, 1),
    "limits": LIMITS,
    "limits-told": LIMITS,
    "usage": USAGE,
    "cause": jobs.Cause(jobs.CauseKind.STOPPED, "admin", "why"),
    "job-status": dataclasses.replace(
        JOB, signal=15, cwd=b"/", usage=USAGE, notes=("A note.",), dropped=1, user="nobody", limits=LIMITS
    ),
    "job-reply": jobs.JobReply(JOB),
    "list-reply": jobs.ListReply((JOB,), "3"),
}
#: Of every type that msgpack has, some that fit somewhere and some that fit nowhere.
VALUES: Final[tuple[object, ...]] = (
    *(0, 1, -1, 2**63 - 1, 2**63, 1.5, True),
    *("", "text", b"", b"\xff"),
    *([], ["text"], [b"x"], [1], {}),
)
#: Where a method checks more than the codec does.
STRICTER: Final = {("start-params", "argv"), ("stream-params", "stream")}


def accepted(cls: type, plain: dict[str, Any]) -> bool:
    """Whether our code takes a map for such a record."""
    try:
        codec.from_map(cls, plain)
    except codec.InvalidValueError:
        return False
    return True


def rule_of(message: messages.Message) -> str:
    """The name of a message's rule."""
    match message:
        case messages.Hello():
            return "server-hello"
        case messages.ClientHello():
            return "client-hello"
    return message.TYPE


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_fits(name: str) -> None:
    message = EXAMPLES[name]
    assert SCHEMA.fits("message", {"type": message.TYPE, **codec.to_map(message)})


@pytest.mark.parametrize("cls", {type(message) for message in EXAMPLES.values()})
def test_a_rule_has_the_fields_of_its_message(cls: type[messages.Message]) -> None:
    (message, *_) = (message for message in EXAMPLES.values() if type(message) is cls)
    rule = rule_of(message)
    names = [field.name for field in dataclasses.fields(cls) if field.metadata != codec.NOT_SENT]
    assert list(SCHEMA.fields(rule)) == ["type", *names]
    plain = codec.to_map(message)
    for name in plain:
        for value in VALUES:
            if name not in ("id", "credit", "stream"):  # their ranges are the connection's to check
                changed = {**plain, name: value}
                fits, taken = SCHEMA.fits(rule, {"type": cls.TYPE, **changed}), accepted(cls, changed)
                assert fits == taken, (name, value)


@pytest.mark.parametrize("rule", RECORDS)
def test_a_rule_has_the_fields_of_its_record(rule: str) -> None:
    record = RECORDS[rule]
    plain = codec.to_map(record)
    fields = SCHEMA.fields(rule)
    assert list(fields) == list(plain) == [field.name for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    assert SCHEMA.fits(rule, plain)
    for name, optional in fields.items():
        lacking = {key: value for key, value in plain.items() if key != name}
        assert SCHEMA.fits(rule, lacking) == accepted(type(record), lacking) == optional


@pytest.mark.parametrize("rule", RECORDS)
def test_both_judge_each_value_alike(rule: str) -> None:
    record = RECORDS[rule]
    plain = codec.to_map(record)
    for name in plain:
        for value in VALUES:
            changed = {**plain, name: value}
            fits, taken = SCHEMA.fits(rule, changed), accepted(type(record), changed)
            assert fits == taken or (taken and (rule, name) in STRICTER), (name, value)

"""Owns resource limits: their record on the wire, and the one place where their texts are read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Final

MAX_VALUE: Final = 2**63 - 1
#: The range of weights, the kernel's own, and what a cgroup has that was given none.
MIN_WEIGHT: Final = 1
MAX_WEIGHT: Final = 10_000
DEFAULT_WEIGHT: Final = 100
#: Units of `--cpu-limit`: a bare number counts 1/1024 of a CPU, as cgroup shares do.
CPU_SHARES_PER_CPU: Final = 1024
_BYTE_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER: Final = re.compile(r"(-?\d+(?:\.\d+)?)([A-Za-z%]*)", re.ASCII)


class LimitError(ValueError):
    """A limit's text or value makes no sense; the message is one sentence for people.

    Args:
        message: the sentence.
        limit: the field of Limits that is at fault, if it is a value.
    """

    def __init__(self, message: str, limit: str | None = None) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings for one job, and its shares of a busy machine; None is no ceiling, and the usual share.

    Args:
        cpu: thousandths of a CPU.
        memory: bytes, swap included.
        disk_ops: operations a second, reads and writes each, on every disk.
        disk_bytes: bytes a second, reads and writes each, on every disk.
        pids: tasks (processes and threads).
        cpu_weight: share of CPU time while others want it too, from 1 to 10000; everybody's default is 100.
        disk_weight: share of a disk's time, likewise.
    """

    cpu: int | None = None
    memory: int | None = None
    disk_ops: int | None = None
    disk_bytes: int | None = None
    pids: int | None = None
    cpu_weight: int | None = None
    disk_weight: int | None = None

    def named(self) -> dict[str, int]:
        """The limits that are set, by field name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}

    def __bool__(self) -> bool:
        return bool(self.named())

    def check(self) -> None:
        """Check the values, wherever they came from.

        Raises:
            LimitError: a value is zero, too small for the kernel, or too large. More than this machine
                has is no error.
        """
        for name, value in self.named().items():
            least = _LEAST.get(name, 1)
            if name in _WEIGHTS:
                if not MIN_WEIGHT <= value <= MAX_WEIGHT:
                    raise LimitError(
                        f"the {name} must be from {MIN_WEIGHT} to {MAX_WEIGHT}, not {value}.", name
                    )
            elif not least <= value <= MAX_VALUE:
                raise LimitError(f"the {name} limit must be from {least} to 2^63 - 1, not {value}.", name)


#: A CPU limit below 1 % of a CPU asks for a quota shorter than the kernel's least, 1 ms in 100 ms;
#: less memory than 1 MiB starts no program at all.
_LEAST: Final = {"cpu": 10, "memory": 2**20}
_WEIGHTS: Final = ("cpu_weight", "disk_weight")
_UNITS: Final = {"cpu": " thousandths of a CPU", "memory": " bytes"}


def _split(flag: str, text: str) -> tuple[Decimal, str]:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise LimitError(f"{flag} {text!r} is not a number with an optional unit.")
    number = Decimal(match[1])
    if number <= 0:
        raise LimitError(f"{flag} must be more than zero; leave it out for no limit.")
    if number > MAX_VALUE:
        raise LimitError(f"{flag} {text} is too large; the most is 2^63 - 1.")
    return number, match[2]


def _checked(flag: str, text: str, name: str, value: Decimal) -> int:
    least = _LEAST.get(name, 1)
    if value > MAX_VALUE:
        raise LimitError(f"{flag} {text} is too large; the most is 2^63 - 1.")
    if int(value) < least:
        raise LimitError(f"{flag} {text} is too small; the least is {least}{_UNITS.get(name, '')}.")
    return int(value)


def parse_cpu(text: str, flag: str = "--cpu-limit") -> Limits:
    """Read a CPU ceiling: ``512`` (1/1024 of a CPU), ``0.5cpu``, ``500m`` (thousandths) or ``50%``.

    Raises:
        LimitError: with a sentence that names the flag.
    """
    number, unit = _split(flag, text)
    scale = {
        "": Decimal(1000) / CPU_SHARES_PER_CPU,
        "cpu": Decimal(1000),
        "cpus": Decimal(1000),
        "m": Decimal(1),
        "%": Decimal(10),
    }.get(unit)
    if scale is None:
        raise LimitError(f"{flag} {text!r} has an unknown unit; write 512, 0.5cpu, 500m or 50%.")
    if not unit and number * scale < _LEAST["cpu"]:
        raise LimitError(
            f"{flag} {text} is too small, as a bare number counts 1/1024 of a CPU; for CPUs write {text}cpu."
        )
    return Limits(cpu=_checked(flag, text, "cpu", number * scale))


def parse_bytes(flag: str, text: str) -> Decimal:
    """Read a number of bytes with K, M, G or T (powers of 1024; a following B, i or iB is allowed).

    Raises:
        LimitError: with a sentence that names the flag.
    """
    number, unit = _split(flag, text)
    scale = _BYTE_UNITS.get(re.sub("(?<=.)i?B?$|^B$", "", unit, flags=re.IGNORECASE).upper())
    if scale is None:
        raise LimitError(f"{flag} {text!r} has an unknown unit; write bytes or a number with K, M, G or T.")
    return number * scale


def parse_memory(text: str, flag: str = "--memory-limit") -> Limits:
    """Read a memory ceiling, such as ``500M``.

    Raises:
        LimitError: with a sentence that names the flag.
    """
    number = parse_bytes(flag, text)
    if 0 < number < _LEAST["memory"] and text.strip()[-1:].isdigit():
        raise LimitError(f"{flag} {text} is too small, as a bare number counts bytes; the least is 1M.")
    return Limits(memory=_checked(flag, text, "memory", number))


def parse_disk(text: str, flag: str = "--disk-limit") -> Limits:
    """Read a disk ceiling: ``500`` is operations a second, ``50M`` bytes a second; ``500,50M`` both.

    Raises:
        LimitError: with a sentence that names the flag.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        number, unit = _split(flag, part)
        if unit:
            name, value = "disk_bytes", parse_bytes(flag, part)
        elif number != int(number):
            raise LimitError(f"{flag} {part} must be a whole number of operations a second.")
        else:
            name, value = "disk_ops", number
        if name in found:
            raise LimitError(f"{flag} {text!r} gives the same kind of limit twice.")
        found[name] = _checked(flag, part, name, value)
    return Limits(**found)


def parse_pids(text: str, flag: str = "--pids-limit") -> Limits:
    """Read a ceiling on tasks, a whole number.

    Raises:
        LimitError: with a sentence that names the flag.
    """
    number, unit = _split(flag, text)
    if unit or number != int(number):
        raise LimitError(f"{flag} {text!r} must be a whole number.")
    return Limits(pids=_checked(flag, text, "pids", number))


def parse_weight(flag: str, text: str) -> int:
    """Read a weight, a whole number from 1 to 10000.

    Raises:
        LimitError: with a sentence that names the flag.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] or "." in match[1]:
        raise LimitError(f"{flag} {text!r} must be a whole number.")
    number = Decimal(match[1])
    if not MIN_WEIGHT <= number <= MAX_WEIGHT:
        raise LimitError(
            f"{flag} {text} must be from {MIN_WEIGHT} to {MAX_WEIGHT}; "
            f"leave it out for the default, {DEFAULT_WEIGHT}."
        )
    return int(number)


_PARSERS: Final[Mapping[str, Callable[[str], Limits]]] = {
    "cpu": parse_cpu,
    "memory": parse_memory,
    "disk": parse_disk,
    "pids": parse_pids,
    "cpu_weight": lambda text: Limits(cpu_weight=parse_weight("--cpu-weight", text)),
    "disk_weight": lambda text: Limits(disk_weight=parse_weight("--disk-weight", text)),
}


def parse_limits(
    *,
    cpu: str | None = None,
    memory: str | None = None,
    disk: str | None = None,
    pids: str | None = None,
    cpu_weight: str | None = None,
    disk_weight: str | None = None,
) -> Limits:
    """Read the six flags together.

    Raises:
        LimitError: with a sentence that names the flag at fault.
    """
    texts = {
        "cpu": cpu,
        "memory": memory,
        "disk": disk,
        "pids": pids,
        "cpu_weight": cpu_weight,
        "disk_weight": disk_weight,
    }
    values: dict[str, int] = {}
    for name, text in texts.items():
        if text is not None:
            values |= _PARSERS[name](text).named()
    return Limits(**values)

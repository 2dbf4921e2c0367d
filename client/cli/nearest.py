"""Owns what is offered for a command or flag that is not there: the nearest one, or ours for a familiar word.

People run what is offered. So what ends or deletes something is offered only for a word that is all but its
name, or that is another program's word for just that.
"""

from collections.abc import Iterable, Mapping
from typing import Final

#: Commands and flags that cannot be undone.
DESTRUCTIVE: Final = frozenset({"stop", "remove", "certs revoke", "revoke", "--force"})
#: Words of docker, systemctl, journalctl, kubectl and shells, and our commands for what they do; "" is none,
#: where the nearest name would mislead.
COMMANDS: Final = {
    "ps": "list",
    "ls": "list",
    "jobs": "list",
    "list-units": "list",
    "logs": "stream",
    "log": "stream",
    "attach": "stream",
    "follow": "stream",
    "tail": "stream",
    "cat": "stream",
    "output": "stream",
    "journalctl": "stream",
    "exec": "run",
    "systemd-run": "run",
    "ssh": "run",
    "create": "start",
    "launch": "start",
    "submit": "start",
    "spawn": "start",
    "kill": "stop",
    "terminate": "stop",
    "rm": "remove",
    "delete": "remove",
    "status": "query",
    "inspect": "query",
    "describe": "query",
    "show": "query",
    "get": "query",
    "info": "query",
    "top": "stats",
    "htop": "stats",
    "usage": "stats",
    "server": "serve",
    "daemon": "serve",
    "check": "doctor",
    "restart": "",
    "help": "--help",
    "version": "--version",
    **{name: f"certs {name}" for name in ("init", "issue", "request", "sign", "renew", "revoke", "export")},
}
#: The same of `certs`, where openssl and others have the words.
CERTS: Final = {
    "ls": "show",
    "list": "show",
    "status": "show",
    "inspect": "show",
    "x509": "show",
    "new": "issue",
    "create": "issue",
    "req": "request",
    "csr": "request",
    "pkcs12": "export",
    "p12": "export",
}
#: Flags of docker, kubectl, systemd-run, kill and others, and ours; offered where the command has ours.
FLAGS: Final = {
    "-m": "--memory-limit",
    "--memory": "--memory-limit",
    "--mem": "--memory-limit",
    "--cpus": "--cpu-limit",
    "-e": "--env",
    "--setenv": "--env",
    "-w": "--cwd",
    "--workdir": "--cwd",
    "--working-directory": "--cwd",
    "--chdir": "--cwd",
    "-u": "--user",
    "--uid": "--user",
    "-n": "--tail",
    "--lines": "--tail",
    "-f": "--follow",
    "-t": "--grace",
    "--time": "--grace",
    "--grace-period": "--grace",
    **dict.fromkeys(("-9", "-KILL", "-SIGKILL"), "--grace 0"),
    "-H": "--server",
    "--host": "--server",
    "--address": "--server",
    "--port": "--listen",
    "--cert": "--certs",
    "-o": "--json",
    "--output": "--json",
    "--format": "--json",
}


def command(word: str, names: Iterable[str], familiar: Mapping[str, str]) -> str | None:
    """What to offer for a word that is no command; None if nothing comes near.

    Args:
        word: what was typed.
        names: the commands.
        familiar: other programs' words, and the command that each stands for.
    """
    if word in familiar:
        return familiar[word] or None
    # A slip in a short familiar word has too many neighbours.
    known = {name: name for name in names} | {name: familiar[name] for name in familiar if len(name) > 4}
    near = [
        (found, not name.startswith(word), known[name] in DESTRUCTIVE, name)
        for name in known
        if (found := _near(word, name)) is not None
    ]
    for _, _, destructive, name in sorted(near):
        if not destructive or _all_but(word, name):
            return known[name] or None
    return None


def _all_but(word: str, name: str) -> bool:
    """Whether a word of some length is a name with a letter too many, too few, or in the wrong place."""
    another = len(word) == len(name) and sorted(word) != sorted(name)  # as `shop` is, beside `stop`
    return len(word) > 3 and _near(word, name) == 1 and not another


def flag(word: str, flags: Iterable[str]) -> str | None:
    """The flag to offer for one that is not there, with a value if that is meant; None if none comes near."""
    names = [name for name in flags if name.startswith("--")]
    familiar = {theirs: ours for theirs, ours in FLAGS.items() if ours.partition(" ")[0] in names}
    short = word[:2] if word[2:].isdigit() else word  # -n5
    if found := familiar.get(word) or familiar.get(short):
        return found
    bare = word.lstrip("-")
    if len(bare) < 2:
        return None
    # People write the first word of a flag alone, and slip in that too: of several, the first one is meant.
    first = {f"--{name[2:].partition('-')[0]}": name for name in sorted(names, reverse=True)}
    known = {theirs: ours for theirs, ours in familiar.items() if theirs.startswith("--") and len(theirs) > 6}
    known |= {begun: ours for begun, ours in first.items() if len(begun) > 4}
    known |= {name: name for name in names}
    near = sorted((far, name) for name in known if (far := _near(bare, name[2:])) is not None)
    longer = [name for name in names if len(bare) > 2 and name[2:].startswith(bare)]
    for name in (*(name for _, name in near), *longer):
        if known[name] not in DESTRUCTIVE or _all_but(bare, name[2:]):
            return known[name]
    return None


def no_flag(command: str, word: str, flags: Iterable[str], otherwise: str) -> str:
    """Say that a command has no such flag, and which one may be meant, or else what ``otherwise`` holds."""
    found = flag(word, flags)
    return f"{command} has no flag {word:.60}{f': did you mean {found}?' if found else otherwise}"


def distance(one: str, other: str) -> int:
    """How many letters to put in, leave out, change or swap with the next to make one word of the other."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        last, before, row = before, row, [place]
        for there, wanted in enumerate(other, 1):
            cost = min(before[there] + 1, row[-1] + 1, before[there - 1] + (letter != wanted))
            if place > 1 and there > 1 and letter == other[there - 2] and one[place - 2] == wanted:
                cost = min(cost, last[there - 2] + 1)
            row.append(cost)
    return row[-1]


def _near(word: str, name: str) -> int | None:
    """How far a name is from a word; None if that is too far, which costs nothing where the word is long."""
    most = _allowed(word)
    if abs(len(word) - len(name)) > most:
        return None
    found = distance(word, name)
    return found if found <= most else None


def _allowed(word: str) -> int:
    """How far a name may be from a word: a third of its letters, at least one and at most three."""
    return min(3, max(1, len(word) // 3))

"""A newer server than ours: our own, which says one more of everything that a newer one may.

It stands in front of a command line that serves (``serve`` of tests/harness.py, ``prefix``), and runs it. It
says what is newer of all that has a certain look, so that a client can ask for it.
"""

import sys
from typing import Any

from client.cli import main
from wire import codec, connection, messages
from wire.frames import encode_frame
from wire.messages import Output
from wire.payload import pack

#: What the newer version has, and we do not.
NEWER = "terminals"
#: With this exit code a job ends in a way that is newer, and with this word in it an error.
EXIT_CODE, WORD = 42, "newer"


def newer(plain: dict[str, Any]) -> dict[str, Any]:
    """What the newer server says in the place of what ours does."""
    said = {name: newer(value) if isinstance(value, dict) else value for name, value in plain.items()}
    said["colour"] = ["red", {b"deep": None}]
    if isinstance(jobs := said.get("jobs"), list):
        said["jobs"] = [newer(job) for job in jobs]
    if said.get("exit_code") == EXIT_CODE:
        said |= {"status": "evicted", "cause": {"kind": "quota", "amount": 5}}
        del said["exit_code"]
    match said.get("type"):
        case "hello":
            said |= {"features": [NEWER, *said["features"]], "methods": [*said["methods"], "attach"]}
        case "gap":
            said["reason"] = "expired"
        case "error" if "resize" in said["message"]:
            said = {"type": "resize", "id": said["id"], "rows": 24}
        case "error" if WORD in said["message"]:
            said |= {"code": "quota_exceeded", "category": "forbidden", "quota": 5}
    return said


def say(plain: Any) -> bytes:
    return pack(newer(plain))


def say_output(message: Output) -> bytes:
    return encode_frame(say({"type": Output.TYPE, **codec.to_map(message)}))


if __name__ == "__main__":
    messages.pack = say  # type: ignore[attr-defined,assignment]
    connection.encode_output = say_output  # type: ignore[attr-defined]
    main(sys.argv[sys.argv.index("serve") :])

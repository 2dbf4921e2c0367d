"""Runs the checks in the guest, as root under its systemd: what an operator does, and what must come of it.

What they do and see goes to one serial port as it happens, and the number of those that failed to another.
"""

import os
import sys
import termios
import time
import traceback
import tty
from collections.abc import Callable

from tests.systemd import ending, serving
from tests.systemd.guest import CHOSEN, CheckError

SHOWN, COUNTED = "/dev/ttyS1", "/dev/ttyS2"
#: In this order, each on what the one before has left.
CHECKS: tuple[Callable[[], None], ...] = (
    serving.the_unit_is_clean,
    serving.without_certificates_it_is_not_tried_again,
    serving.started_is_ready,
    serving.jobs_run_under_all_hardening,
    serving.limits_bite,
    serving.limits_of_the_unit_hold_for_all,
    serving.reload_takes_certificates,
    ending.a_hung_server_is_replaced,
    ending.a_killed_server_is_replaced,
    ending.stop_ends_jobs_in_order,
    ending.what_lies_outside_the_unit_is_swept,
)


def failures(chosen: list[Callable[[], None]]) -> int:
    """Run checks, and return how many failed."""
    failed = 0
    for function in chosen:
        sys.stdout.write(f"\n--- {function.__name__}: {function.__doc__}\n")
        sys.stdout.flush()
        try:
            function()
        except Exception as error:  # noqa: BLE001  # the next is still worth its while
            failed += 1
            sys.stdout.write(f"{error if isinstance(error, CheckError) else traceback.format_exc()}\n")
            sys.stdout.write(f"FAILED: {function.__name__}\n")
    return failed


def main() -> None:
    """Run those that were asked for, or all."""
    port = os.open(SHOWN, os.O_WRONLY | os.O_NOCTTY)
    tty.setraw(port, termios.TCSANOW)
    for fd in (1, 2):
        os.dup2(port, fd)
    names = CHOSEN.read_text().split()
    # The others stand on a server that was started.
    chosen = [it for it in CHECKS if not names or it.__name__ in names or it is serving.started_is_ready]
    begun = time.monotonic()
    failed = failures(chosen)
    took = time.monotonic() - begun
    sys.stdout.write(f"\n=== {len(chosen) - failed} passed, {failed} failed in {took:.0f} s ===\n")
    sys.stdout.flush()
    for path, text in ((SHOWN, b""), (COUNTED, b"%d\n" % failed)):
        port = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        os.write(port, text)
        termios.tcdrain(port)


if __name__ == "__main__":
    main()

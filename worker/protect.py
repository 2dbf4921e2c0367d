"""Owns the server's protection of itself: from the host's OOM killer, and of its memory from other processes.

The spawner inherits the first and does the second for itself; jobs get neither, and are likelier victims
than ordinary processes (`worker.privileges`), which holds where the kernel does not let us protect ourselves.
Source: proc_pid_oom_score_adj(5), PR_SET_DUMPABLE(2const).
"""

from pathlib import Path

from .log import Log
from .privileges import OOM_SCORE_ADJ, PR_SET_DUMPABLE, prctl

#: What the OOM killer takes us for, in thousandths of the memory there is. Not -1000: a server that has all
#: of a host's memory should rather go than the host.
SCORE = -900


def protect(log: Log) -> None:
    """Be the last that the host's OOM killer takes, and close our memory, with its keys, to other processes.

    A process that is not root may then not look into this one with ptrace(2) or /proc, even as the same user,
    and it leaves no core dump. Where the kernel refuses the first, the log says how to get it.
    """
    score = Path(OOM_SCORE_ADJ)
    try:
        if int(score.read_text()) > SCORE:
            score.write_text(str(SCORE))
    except (OSError, ValueError) as error:
        log.info(
            "the server's own OOM score stays as it is; CAP_SYS_RESOURCE, or OOMScoreAdjust= in its systemd "
            "unit, would lower it",
            wanted=SCORE,
            reason=str(error),
        )
    prctl(PR_SET_DUMPABLE, 0)

"""Owns how the C library keeps the server's free memory: in reach, in few places, and not for ever.

Output comes and goes in blocks of 256 KiB. As glibc is set up, the room of each is given back to the kernel
and asked for again, page by page: 150,000 page faults for each GB that a follower reads from the disk, which
takes a third of its throughput. And every thread may get a heap of its own, each as large as it ever was.
So what is free is kept; it is given back when output has been removed, and will not be needed so soon again.
"""

import ctypes
import os
from typing import Final

MIB: Final = 1024 * 1024
#: Larger pieces come from the kernel, and go back at once; so much may stay at the end of a heap, in bytes.
MMAP_THRESHOLD: Final = 4 * MIB
TRIM_THRESHOLD: Final = 32 * MIB
#: Heaps: the main thread's, and one for all others.
ARENAS: Final = 2
#: The parameters' numbers (mallopt(3), malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_libc: Final = ctypes.CDLL(None)


def keep_memory() -> None:
    """Set it up, for as long as this process lives. Call it before there are threads.

    What the operator has set in the environment stays; with a C library other than glibc, nothing happens.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = _libc.mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Give what is free back to the kernel (malloc_trim(3)): call it in a thread, often enough to be short.

    Without the GIL; but whoever needs a large piece meanwhile waits for it, the event loop too.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)

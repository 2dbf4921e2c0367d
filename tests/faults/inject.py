"""Owns faults that no test may cause on the machine itself: they are put into one server, and into no other.

`Faults.prefix` is one for `tests.harness.serve`: it lets the server's Python, and not its spawner's, which
runs isolated, load a module of ours before anything else. What happens then is decided by files in a folder,
so that a test can begin and end a fault while the server runs.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
#: `fault` holds "CALL ERRNO PART": calls of that name on a path of a server's cgroup with that part fail.
#: `clock` holds seconds that the server's wall clock is off.
CODE = """
import errno, os, time
FOLDER = {folder!r}

def told(name):
    try:
        fd = really_open(f"{{FOLDER}}/{{name}}", os.O_RDONLY)
    except FileNotFoundError:
        return ""
    text = os.read(fd, 1000).decode()
    os.close(fd)
    return text

def check(call, path):
    wanted, number, part = (told("fault").split() + ["", "", ""])[:3]
    if wanted == call and "/worker-service-" in str(path) and part in str(path):
        with open(f"{{FOLDER}}/happened", "a") as file:
            file.write(f"{{call}} {{path}}\\n")
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)), str(path))

paths = {{}}
really_open, really_mkdir, really_write, really_time = os.open, os.mkdir, os.write, time.time

def open_(path, *rest, **more):
    if "/worker-service-" not in str(path):
        return really_open(path, *rest, **more)
    check("open", path)
    fd = really_open(path, *rest, **more)
    paths[fd] = path
    return fd

def mkdir(path, *rest, **more):
    check("mkdir", path)
    really_mkdir(path, *rest, **more)

def write(fd, data):
    path = paths.pop(fd, None)
    if path is not None and os.readlink(f"/proc/self/fd/{{fd}}") == str(path):  # not reused meanwhile
        check("write", path)
    return really_write(fd, data)

os.open, os.mkdir, os.write = open_, mkdir, write
time.time = lambda: really_time() + float(told("clock") or 0)
"""


class Faults:
    """A folder that decides which faults a server has now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "sitecustomize.py").write_text(CODE.format(folder=str(folder)))

    @property
    def prefix(self) -> list[str]:
        """A command that becomes the one behind it, with the faults in it."""
        return ["env", f"PYTHONPATH={self._folder}:{ROOT}"]

    def cgroup(self, call: str, number: str, part: str = "") -> None:
        """Let calls on paths of a server's cgroups fail from now on, with an errno of this name."""
        (self._folder / "happened").unlink(missing_ok=True)
        self._say("fault", f"{call} {number} {part}")

    def clock(self, seconds: float) -> None:
        """Set the server's wall clock off by so much."""
        self._say("clock", str(seconds))

    def end(self) -> None:
        """Let everything work again."""
        (self._folder / "fault").unlink(missing_ok=True)

    @property
    def happened(self) -> list[str]:
        """Each call that has failed since the fault began."""
        path = self._folder / "happened"
        return path.read_text().splitlines() if path.exists() else []

    def _say(self, name: str, text: str) -> None:
        (self._folder / f"{name}.new").write_text(text)
        (self._folder / f"{name}.new").rename(self._folder / name)

"""What `doctor` finds: every limit tried on this host, and the remedy where there is nothing to try it on."""

import json

import pytest

from tests.worker.common import directories
from worker import doctor, hierarchy
from worker.doctor import examine
from worker.hierarchy import Hierarchies
from worker.mounts import Mount

CEILINGS = ["--cpu-limit", "--memory-limit", "--disk-limit OPERATIONS", "--disk-limit BYTES", "--pids-limit"]


@pytest.mark.host
def test_this_host_enforces_every_ceiling(hierarchies: Hierarchies) -> None:
    found = {finding.name: finding for finding in examine(hierarchies)}
    for name in CEILINGS:
        assert found[name].ok, found[name]
        assert "controller, v" in found[name].detail
    assert found["cgroups"].ok
    assert directories(hierarchies) == []  # nothing is left of the trials


@pytest.mark.host
@pytest.mark.parametrize("kind", ["none"], indirect=True)
def test_a_host_without_cgroups_has_a_remedy_for_each(hierarchies: Hierarchies) -> None:
    found = {finding.name: finding for finding in examine(hierarchies)}
    for name in [*CEILINGS, "cgroups"]:
        assert not found[name].ok
        assert "run the server as root, or as a systemd unit with Delegate=yes" in found[name].detail


def test_the_exit_code_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    nothing: list[Mount] = []
    monkeypatch.setattr(hierarchy, "read_mounts", lambda: nothing)
    assert doctor.doctor(json_=True) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["ok"] for line in lines if line["name"] in CEILINGS] == [False] * 5
    assert doctor.doctor() == 1
    assert f"{'--cpu-limit':24} NO   The cpu limit cannot be enforced" in capsys.readouterr().out
    assert doctor.doctor(cgroup_parent="../up") == 7
    assert "must not go up" in capsys.readouterr().err

"""What `doctor` finds: every limit tried on this host, and the remedy where there is nothing to try it on."""

import datetime
import json
from pathlib import Path

import pytest

from certs.authority import issue
from certs.revoke import revoke
from tests.tlshelp import authority, key, make_directory, save
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


def test_what_ends_soon_is_told(tmp_path: Path) -> None:
    certs = make_directory(tmp_path)
    revoke(certs)
    (found,) = doctor.certificates(certs)
    assert found.ok
    assert f"The first to end in {certs} is ca." in found.detail
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    ends, ended = now + datetime.timedelta(days=13), now - datetime.timedelta(days=1)
    revoke(certs, days=13)
    save(
        certs,
        server=issue(
            authority(),
            "server",
            purpose="server",
            san=["localhost"],
            key=key("server"),
            not_after=ended,
            not_before=ended - datetime.timedelta(days=1),
        ),
    )
    listed, server = doctor.certificates(certs)
    assert (listed.ok, listed.needed, server.ok, server.needed) == (False, False, False, True)
    assert f"List 2 of revoked certificates in {certs}/ca.crl ends on {ends:%Y-%m}" in listed.detail
    assert "have it written anew with `worker-service certs revoke`." in listed.detail
    assert (
        f"The server's certificate in {certs}/server.crt ended on {ended:%Y-%m-%d}: renew it" in server.detail
    )


def test_no_certificates_or_bad_ones(tmp_path: Path) -> None:
    (found,) = doctor.certificates(tmp_path)
    assert (found.ok, found.needed) == (False, False)
    assert "run `worker-service certs init`" in found.detail
    (make_directory(tmp_path) / "ca.crt").write_text("garbage")
    (found,) = doctor.certificates(tmp_path)
    assert (found.ok, found.needed) == (False, True)
    assert "holds no certificate in PEM" in found.detail

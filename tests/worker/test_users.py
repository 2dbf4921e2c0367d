"""Who a job may run as, and how a name is looked up: in a thread, with a deadline, never at length."""

import os
import pwd
import threading

import pytest
import trio

from wire.errors import ErrorCode, RequestError
from worker import users
from worker.privileges import Privileges
from worker.users import User, Users, look_up, own_name

NOBODY = pwd.getpwnam("nobody")


async def refusal(who: Users, name: str | None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await who.find(name)
    return caught.value


async def test_who_a_request_gets() -> None:
    assert await Users().find(None) is None
    found = await Users().find("nobody")
    assert found is not None
    assert (found.uid, found.gid, found.home) == (NOBODY.pw_uid, NOBODY.pw_gid, NOBODY.pw_dir)
    assert found.groups == tuple(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert await Users("nobody").find(None) == found
    assert await Users("nobody").find(own_name()) == look_up(own_name())


async def test_a_pinned_user_is_the_only_one() -> None:
    pinned = Users("nobody", pinned=True)
    assert await pinned.find(None) == await pinned.find("nobody") == look_up("nobody")
    error = await refusal(pinned, own_name())
    assert error.code is ErrorCode.BAD_USER
    assert error.message == "This server runs every job as 'nobody': leave the user out of the request."


@pytest.mark.parametrize("name", ["no-such-user", "", "a\0b", "x" * 5_000_000, "0", "root\n"])
async def test_an_unknown_user_is_a_sentence(name: str) -> None:
    error = await refusal(Users(), name)
    assert error.code is ErrorCode.BAD_USER
    assert len(error.message) < 200
    assert error.message.endswith("on the server: check the name.")


async def test_a_look_up_that_hangs_holds_up_no_other_task(monkeypatch: pytest.MonkeyPatch) -> None:
    hang, ticks = threading.Event(), 0
    monkeypatch.setattr(users, "LOOKUP_DEADLINE", 1)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: hang.wait(20) and NOBODY)
    who, errors = Users(), list[RequestError]()

    async def ask() -> None:
        errors.append(await refusal(who, "nobody"))

    async with trio.open_nursery() as nursery:
        for _ in range(users.MAX_LOOKUPS + 2):  # those beyond get no thread, and the same answer
            nursery.start_soon(ask)
        while len(errors) < users.MAX_LOOKUPS + 2:
            ticks += 1
            await trio.sleep(0.01)
    hang.set()
    assert ticks > 5
    assert {error.code for error in errors} == {ErrorCode.START_FAILED}
    assert "did not say in time who the user 'nobody' is" in errors[0].message


def test_a_server_without_root_becomes_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    user = User("alice", 1000, 1000, (1000, 27), "/home/alice", "/bin/sh")
    assert user.credentials() == (1000, 1000, (1000, 27))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert user.credentials() is None
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert user.credentials() is not None  # the kernel refuses it, and the client is told


def test_a_user_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    assert own_name() == "4000000000"


@pytest.mark.parametrize("field", ["pw_uid", "pw_gid"])
async def test_a_number_that_means_as_it_is_is_no_user(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    record = list(NOBODY)
    record[{"pw_uid": 2, "pw_gid": 3}[field]] = 2**32 - 1
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd(record))
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid])
    assert (await refusal(Users("nobody", pinned=True), None)).code is ErrorCode.BAD_USER


def test_a_change_of_user_that_changed_nothing_is_an_error() -> None:
    def drop() -> None:
        Privileges(frozenset()).drop((-1, -1, []))

    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root may change its user")
    child = os.fork()
    if child == 0:
        try:
            drop()
        except PermissionError:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3

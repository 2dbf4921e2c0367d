"""Which connection goes when there are too many, against a model that counts anew each time."""

from hypothesis import given
from hypothesis import strategies as st

from worker.pool import Pool


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.booleans()), max_size=60))
def test_the_oldest_of_the_source_that_has_most(steps: list[tuple[str, int, bool]]) -> None:
    pool: Pool[int] = Pool()
    members: dict[str, list[int]] = {}
    for number, (source, which, adds) in enumerate(steps):
        if adds:
            pool.add(source, number)
            members.setdefault(source, []).append(number)
        elif members:
            source = sorted(members)[which % len(members)]
            member = members[source].pop(which % len(members[source]))
            if not members[source]:
                del members[source]
            pool.discard(source, member)
            pool.discard(source, member)  # once more does nothing
        assert len(pool) == sum(map(len, members.values()))
        victim = pool.victim()
        if not members:
            assert victim is None
            continue
        most = max(map(len, members.values()))
        assert victim in {them[0] for them in members.values() if len(them) == most}


def test_of_sources_with_one_each_the_first_loses_it() -> None:
    pool: Pool[int] = Pool()
    for number in range(5):
        pool.add(str(number), number)
    for number in range(5):
        assert pool.victim() == number
        pool.discard(str(number), number)

"""The rate of one connection, shared by whoever calls: never more than all of it, and all of it in the end."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import Bucket

from airflow_llm_batch.jobs.online.lease import BEAT, GONE, GOOD, Allowance, Lease
from airflow_llm_batch.jobs.online.pace import Pace


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def total(leases):
    return sum(lease.share() for lease in leases)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["beat", "beat", "beat", "die", "close"]), st.floats(0, 7)),
        max_size=120,
    )
)
@settings(max_examples=40)
def test_shares_are_one_together_at_most(steps):
    """Holders that come, beat late or never, die and give back in any order: at no moment more than the whole."""
    bucket, clock = Bucket(), Clock()
    leases, gone = {}, []
    for which, what, pause in steps:
        if which not in leases:
            leases[which] = Lease(f"{bucket.uri}/jobs", "conn", clock=clock)
        if what == "beat":
            leases[which].beat()
        elif what == "die":
            # It does not know that it is dead, and calls as long as it thinks it may.
            gone.append(leases.pop(which))
        else:
            leases.pop(which).close()
        for _ in range(4):
            assert total([*leases.values(), *gone]) <= 1 + 1e-9
            clock.now += pause / 4


@pytest.mark.parametrize("holders", [1, 2, 5])
def test_the_whole_is_shared_evenly(holders):
    """After two beats everybody has the same share; when some go, the others have theirs."""
    bucket, clock = Bucket(), Clock()
    leases = [Lease(f"{bucket.uri}/jobs", "conn", clock=clock) for _ in range(holders)]
    for _ in range(GOOD + 2):
        for lease in leases:
            lease.beat()
        clock.now += BEAT
    assert [lease.share() for lease in leases] == [1 / holders] * holders
    for _ in range(GONE + 1):
        leases[0].beat()
        clock.now += BEAT
    assert leases[0].share() == 1
    # Names of those that are long gone are cleared away, and there is one file for each that is not.
    for _ in range(2 * GONE):
        leases[0].beat()
        clock.now += BEAT
    assert len([key for key in bucket.files if "_leases" in key]) == 1


def test_a_new_holder_waits_until_all_have_seen_it():
    """Not before two beats; one that could not look for as long calls nothing."""
    bucket, clock = Bucket(), Clock()
    old, new = (Lease(f"{bucket.uri}/jobs", "conn", clock=clock) for _ in range(2))
    for _ in range(GOOD + 2):
        old.beat()
        clock.now += BEAT
    new.beat()
    assert (old.share(), new.share()) == (1, 0)
    clock.now += BEAT / 2
    old.beat()
    assert (old.share(), new.share()) == (0.5, 0)
    clock.now += GOOD * BEAT
    new.beat()
    assert (old.share(), new.share()) == (0.5, 0.5)
    clock.now += GOOD * BEAT + 0.1
    new.beat()
    assert (old.share(), new.share()) == (0, 0.5)


def test_calls_keep_to_the_share():
    """A third of 600 calls a minute: in ten minutes of the clock 2,000 calls begin, and no more than a burst above."""
    clock, calls = Clock(), 0

    class Third:
        share = staticmethod(lambda: 1 / 3)

    async def sleep(seconds):
        # A clock that stands still where a wait is too short to be told.
        clock.now += seconds + 1e-6

    async def run():
        nonlocal calls
        pace = Pace(1, clock=clock, sleep=sleep, shared=Allowance(Third(), 600, None, clock))
        while clock.now < 1600:
            await pace.enter(10)
            pace.leave()
            calls += 1

    asyncio.run(run())
    assert 1995 <= calls <= 2010

"""Claims of idempotency keys, in every kind of place."""

from __future__ import annotations

import asyncio


async def test_of_twenty_claims_at_once_one_is_mine(worker, record):
    """By two workers; all others are told who has it."""
    workers, made = [worker(), worker()], [record(f"job-{n}") for n in range(20)]
    claims = await asyncio.gather(
        *(workers[n % 2].keys.claim("key", one) for n, one in enumerate(made))
    )

    (mine,) = [one for one, claim in zip(made, claims, strict=True) if claim.mine]
    assert {claim.uid for claim in claims} == {mine.uid}
    assert {claim.digest for claim in claims} == {"d1"}


async def test_a_key_is_taken_over_once(worker, record):
    """From a run that came to nothing."""
    a, b = worker(), worker()
    first, second, third = record(), record(), record()
    await a.keys.claim("key", first)
    claim = await a.keys.claim("key", second, now=5.0)

    took = await asyncio.gather(a.keys.take("key", second, claim), b.keys.take("key", third, claim))
    assert sorted(took) == [False, True]
    assert (await b.keys.claim("key", first)).uid == (second if took[0] else third).uid


async def test_only_who_has_a_key_lets_go_of_it(store, record):
    """Then it is free."""
    first, second = record(), record()
    await store.keys.claim("key", first, now=7.0)
    await store.keys.drop("key", second.uid)
    assert (await store.keys.claim("key", second)).at == 7.0

    await store.keys.drop("key", first.uid)
    assert (await store.keys.claim("key", second)).mine

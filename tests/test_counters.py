"""The random bits: published vectors, frozen values, independence, statistics."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fcnet import counters
from fcnet.counters import Purpose
from fcnet.errors import FcnetError, InputError
from fcnet.layers import keep_mask

GOLDEN = json.loads((Path(__file__).parent / "golden" / "counters.json").read_text())

KNOWN_ANSWERS = [  # Random123 1.14, examples/kat_vectors: threefry 2x32, 20 rounds: counter, key, answer
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def words(pair, xp=np):
    return tuple(xp.asarray([word], dtype=xp.uint32) for word in pair)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    compiled = jax.jit(counters.threefry2x32)
    for function, xp in ((counters.threefry2x32, np), (counters.threefry2x32, jnp), (compiled, jnp)):
        x0, x1 = function(words(key, xp), words(counter, xp))
        assert x0.dtype == x1.dtype == np.uint32
        assert (int(x0[0]), int(x1[0])) == answer


def test_numpy_and_jax_give_the_same_bits():
    rng = np.random.default_rng(0)
    key, counter = (rng.integers(2**32, size=(2, 500), dtype=np.uint32) for _ in range(2))
    expected = counters.threefry2x32((key[0], key[1]), (counter[0], counter[1]))
    for function in (counters.threefry2x32, jax.jit(counters.threefry2x32)):
        got = function((jnp.asarray(key[0]), jnp.asarray(key[1])), (jnp.asarray(counter[0]), jnp.asarray(counter[1])))
        np.testing.assert_array_equal(got, expected)


# --- Keys --------------------------------------------------------------------------------------------------------------


def test_no_two_places_share_a_key():
    seeds = (0, 1, 2, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
    places = [
        (seed, purpose, layer, step)
        for seed in seeds
        for purpose in Purpose
        for layer in range(4)
        for step in (0, 1, 2, 3, 1000, 2**32, 2**32 + 1)
    ]
    keys = {tuple(counters.key(*place).tolist()) for place in places}
    assert len(keys) == len(places)


@pytest.mark.parametrize("other", [(8, 2, 1, 5), (7, 1, 1, 5), (7, 2, 2, 5), (7, 2, 1, 6)])
def test_another_place_has_other_bits(other):
    """About half of the bits differ, and no word stays, whatever part of the place changes."""
    rows = np.arange(50, dtype=np.uint32)
    a = counters.bits(counters.key(7, Purpose.DROPOUT, layer=1, step=5), rows, 20)
    seed, purpose, layer, step = other
    b = counters.bits(counters.key(seed, Purpose(purpose), layer, step), rows, 20)
    assert not (a == b).any()
    assert np.unpackbits((a ^ b).view(np.uint8)).mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(32_000))


def test_keys_of_many_places_at_once():
    layers, steps = np.arange(3)[None, :], np.array([0, 1, 2**32 - 1, 2**32, 2**40])[:, None]
    table = counters.key(9, Purpose.DROPOUT, layers, steps)
    assert table.shape == (5, 3, 2)
    assert table.dtype == np.uint32
    for i, step in enumerate(steps[:, 0]):
        for j in range(3):
            np.testing.assert_array_equal(table[i, j], counters.key(9, Purpose.DROPOUT, j, int(step)))
    assert counters.key(9, Purpose.DROPOUT).shape == (2,)
    assert counters.key(9, Purpose.DROPOUT, layer=[4]).shape == (1, 2)


# --- Bits: a pure function of row and unit -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_units", [1, 2, 7, 8])
def test_bits_depend_on_row_and_unit_alone(n_units):
    key = counters.key(3, Purpose.DROPOUT)
    rows = np.arange(100, dtype=np.uint32)
    table = counters.bits(key, rows, n_units)
    assert table.shape == (100, n_units)
    assert table.dtype == np.uint32
    chosen = np.array([99, 0, 42, 42, 7], np.uint32)
    np.testing.assert_array_equal(counters.bits(key, chosen, n_units), table[chosen])
    np.testing.assert_array_equal(counters.bits(key, rows[60:], n_units), table[60:])
    far = np.array([2**32 - 1, 5], np.uint32)
    np.testing.assert_array_equal(counters.bits(key, far, n_units)[1], table[5])
    assert len(np.unique(table)) == table.size


@pytest.mark.parametrize("n_units", [1, 2, 7, 784])
def test_bits_are_the_same_in_jax(n_units):
    key, rows = counters.key(3, Purpose.DROPOUT, 2, 17), np.array([0, 3, 1000], np.uint32)
    expected = counters.bits(key, rows, n_units)
    compiled = jax.jit(counters.bits, static_argnums=2)
    np.testing.assert_array_equal(compiled(jnp.asarray(key), jnp.asarray(rows), n_units), expected)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(compiled(jnp.asarray(key), jnp.asarray(rows), n_units), expected)


# --- Statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.001, 0.1, 0.25, 0.5, 0.9])
def test_masks_keep_their_share(p):
    """Over all units, and for every row and every unit: within 5 standard deviations."""
    n_rows, n_units = 400, 500
    key = counters.key(11, Purpose.DROPOUT, 1, 3)
    mask = keep_mask(np.empty((n_rows, n_units), np.float32), counters.drop_threshold(p), key)
    deviation = math.sqrt(p * (1 - p))
    assert abs(mask.mean() - (1 - p)) < 5 * deviation / math.sqrt(mask.size)
    assert (abs(mask.mean(axis=0) - (1 - p)) < 5.5 * deviation / math.sqrt(n_rows) + 1 / n_rows).all()
    assert (abs(mask.mean(axis=1) - (1 - p)) < 5.5 * deviation / math.sqrt(n_units) + 1 / n_units).all()


def test_masks_of_neighbours_are_independent():
    p, shape = 0.5, (300, 400)
    masks = [
        keep_mask(np.empty(shape), counters.drop_threshold(p), counters.key(0, Purpose.DROPOUT, layer, step))
        for layer, step in ((0, 0), (0, 1), (1, 0))
    ]
    signs = [2.0 * mask - 1.0 for mask in masks]
    limit = 5 / math.sqrt(signs[0].size)
    for a, b in ((signs[0], signs[1]), (signs[0], signs[2]), (signs[0][1:], signs[0][:-1])):
        assert abs((a * b).mean()) < limit
    half = shape[1] // 2
    assert abs((signs[0][:, :half] * signs[0][:, half:]).mean()) < limit * math.sqrt(2)


def test_drop_threshold():
    assert counters.drop_threshold(0.0) == 0
    assert counters.drop_threshold(0.5) == 2**31
    assert counters.drop_threshold(0.25) == 2**30
    assert counters.drop_threshold(np.nextafter(1.0, 0.0)) == 2**32 - 1
    assert counters.drop_threshold([[0.0, 0.5]]).shape == (1, 2)
    assert counters.drop_threshold(0.3).dtype == np.uint32


def test_no_dropout_drops_nothing_at_all():
    key = counters.key(0, Purpose.DROPOUT)
    assert keep_mask(np.empty((200, 200)), counters.drop_threshold(0.0), key).all()


def test_normal_moments():
    n = 200_000
    numbers = counters.normal(counters.key(5, Purpose.PARAMETERS), (n,))
    assert numbers.dtype == np.float64
    assert np.isfinite(numbers).all()
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((numbers**moment).mean() - expected) < 5 * math.sqrt(variance / n)
    assert stats.kstest(numbers, "norm").pvalue > 1e-4
    first, second = numbers[: n // 2], numbers[n // 2 :]
    assert abs((first * second).mean()) < 5 / math.sqrt(n // 2)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (784, 7)])
def test_normal_and_uniform_shapes(shape):
    key = counters.key(5, Purpose.PARAMETERS)
    assert counters.normal(key, shape).shape == shape
    assert counters.uniform(key, shape).shape == shape


def test_uniform():
    n = 200_000
    numbers = counters.uniform(counters.key(5, Purpose.PARAMETERS), (n,))
    assert (numbers > 0).all()
    assert (numbers < 1).all()
    assert abs(numbers.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    assert stats.kstest(numbers, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_is_one(n):
    order = counters.permutation(counters.key(1, Purpose.ORDER, step=4), n)
    assert sorted(order.tolist()) == list(range(n))
    assert np.issubdtype(order.dtype, np.integer)


def test_equal_bits_keep_their_order(monkeypatch):
    drawn = np.random.default_rng(0).integers(50, size=1000).astype(np.uint32)
    monkeypatch.setattr(counters, "threefry2x32", lambda key, counter: (drawn, np.zeros_like(drawn)))
    order = counters.permutation(np.zeros(2, np.uint32), 1000)
    assert (order == np.argsort(drawn, kind="stable")).all()


def test_permutations_are_uniform():
    """All 24 orders of four are as frequent, by chi-square."""
    n = 6000
    keys = counters.key(2, Purpose.ORDER, step=np.arange(n))
    frequency = Counter(tuple(counters.permutation(key, 4).tolist()) for key in keys)
    assert len(frequency) == 24
    assert stats.chisquare(list(frequency.values())).pvalue > 1e-4


# --- Seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, np.int64(7), np.uint8(3), True])
def test_good_seeds(seed):
    assert counters.check_seed(seed) == int(seed)
    assert type(counters.check_seed(seed)) is int or seed is True


@pytest.mark.parametrize("seed", ["0", 1.0, None, np.float64(3), [1], np.array([1, 2])])
def test_seed_must_be_an_integer(seed):
    with pytest.raises(InputError, match=r"^seed must be an integer, got "):
        counters.check_seed(seed)


@pytest.mark.parametrize("seed", [-1, 2**64, np.int64(-5)])
def test_seed_must_be_in_range(seed):
    with pytest.raises(InputError, match=rf"^seed must lie in \[0, 2\*\*64\), got {seed}\.$") as caught:
        counters.check_seed(seed)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FcnetError)


# --- Frozen values: what a seed means never changes --------------------------------------------------------------------


@pytest.mark.parametrize("golden", GOLDEN["key"], ids=lambda g: f"{g['seed']}-{g['purpose']}-{g['layer']}-{g['step']}")
def test_golden_keys(golden):
    key = counters.key(golden["seed"], Purpose[golden["purpose"]], golden["layer"], golden["step"])
    assert key.tolist() == golden["words"]


@pytest.mark.parametrize("golden", GOLDEN["bits"], ids=lambda golden: str(golden["n_units"]))
def test_golden_bits(golden):
    rows = np.array(golden["rows"], np.uint32)
    bits = counters.bits(counters.key(3, Purpose.DROPOUT), rows, golden["n_units"])
    assert bits.tolist() == golden["bits"]


def test_golden_draws():
    key = counters.key(3, Purpose.PARAMETERS)
    np.testing.assert_allclose(counters.normal(key, (3, 3)), GOLDEN["normal"], rtol=1e-13)
    assert counters.uniform(key, (5,)).tolist() == GOLDEN["uniform"]
    assert counters.permutation(counters.key(3, Purpose.ORDER), 20).tolist() == GOLDEN["permutation"]
    for p, threshold in GOLDEN["drop_threshold"].items():
        assert counters.drop_threshold(float(p)) == threshold

"""Group advantages: the worked numbers, exact zeros, and rewards that are almost equal."""

import math

import pytest
import torch

from pipeline.objectives import group_advantages, mixed_groups


def group(right: int, size: int = 8, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor([[1.0] * right + [0.0] * (size - right)], dtype=dtype)


@pytest.mark.parametrize(
    ("right", "variance", "a_right", "a_wrong"),
    [(1, 0.109375, 2.645751, -0.377964), (4, 0.25, 1.0, -1.0), (7, 0.109375, 0.377964, -2.645751)],
)
def test_binary_groups_of_eight_have_the_worked_advantages(right, variance, a_right, a_wrong):
    advantages, var = group_advantages(group(right))
    assert var.item() == pytest.approx(variance, abs=1e-15)
    shrink = math.sqrt(variance) / (math.sqrt(variance) + 1e-6)  # the table leaves the 1e-6 out
    assert advantages[0, 0].item() == pytest.approx(a_right * shrink, abs=1e-6)
    assert advantages[0, -1].item() == pytest.approx(a_wrong * shrink, abs=1e-6)


def test_centred_and_leave_one_out():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=torch.float64)
    assert group_advantages(rewards, "none")[0].tolist() == [[0.625, -0.375, -0.375, 0.125]]
    loo = group_advantages(rewards, "loo")[0][0].tolist()
    assert loo == pytest.approx([1 - 0.5 / 3, -1.5 / 3, -1.5 / 3, 0.5 - 1 / 3], abs=1e-15)
    with pytest.raises(ValueError, match="std, none or loo"):
        group_advantages(rewards, "mean")


def test_bessels_correction_changes_the_std_and_not_the_variance():
    # Mean 1/4, squared deviations 9/16 + 3/16 = 3/4: std sqrt(3/4 / 4) = 0.433 or sqrt(3/4 / 3) = 1/2.
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    population, variance = group_advantages(rewards)
    sample, same = group_advantages(rewards, "std", std_ddof=1)
    assert population[0].tolist() == pytest.approx([1.732051] + [-0.577350] * 3, abs=5e-6)  # the 1e-6 shows at 4e-6
    assert sample[0].tolist() == pytest.approx([1.5] + [-0.5] * 3, abs=4e-6)
    assert variance.tolist() == same.tolist() == [0.1875]
    assert torch.equal(group_advantages(rewards, std_ddof=0)[0], population)
    for normalize in ("none", "loo"):
        assert torch.equal(group_advantages(rewards, normalize, std_ddof=1)[0], group_advantages(rewards, normalize)[0])
    assert group_advantages(torch.ones(2, 1), std_ddof=1)[0].tolist() == [[0.0], [0.0]]
    with pytest.raises(ValueError, match="std_ddof must be 0 or 1, not 2"):
        group_advantages(rewards, std_ddof=2)


@pytest.mark.parametrize("normalize", ["std", "none", "loo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.3, 1e30, 1e-30])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_equal_rewards_give_exact_zeros(normalize, dtype, value, size):
    # The mean of three times 0.1 is not 0.1 in fp64, so zeros need the rule of ROUNDING_STEPS.
    advantages, variance = group_advantages(torch.full((2, size), value, dtype=dtype), normalize)
    assert advantages.dtype == dtype
    assert not advantages.any()
    assert not variance.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_differences_of_rewards_are_not_cancelled(dtype):
    # E[r^2] - E[r]^2 would be rounding noise here; centred values in fp64 give 5e-6 / (5e-6 + 1e-6) for both groups.
    rewards = torch.tensor([[1, 1.00001], [2, 2.00001]], dtype=dtype)
    advantages, variance = group_advantages(rewards)
    exact = dtype == torch.float64
    half = ((rewards[:, 1].double() - rewards[:, 0].double()) / 2).tolist()
    assert half == pytest.approx([5e-6, 5e-6], rel=1e-9 if exact else 0.02)  # fp32 holds 2.00001 to 1 part in 100
    for g in range(2):
        expected = half[g] / (half[g] + 1e-6)
        assert advantages[g].tolist() == pytest.approx([-expected, expected], rel=1e-9 if exact else 1e-6)
        assert variance[g].item() == pytest.approx(half[g] ** 2, rel=1e-9 if exact else 1e-6)


def test_rewards_that_differ_only_by_rounding_are_equal():
    # 0.1 + 0.2 and 0.3 are one fp64 step apart: the same reward, summed in another order.
    noisy = torch.tensor([[0.1 + 0.2, 0.3]], dtype=torch.float64)
    assert noisy[0, 0] != noisy[0, 1]
    assert not group_advantages(noisy)[0].any()
    up = torch.nextafter(torch.ones(1), torch.full((1,), 2.0)).item()
    assert not group_advantages(torch.tensor([[1.0, up]]))[0].any()
    # In fp64 the same two numbers differ for real: rounding in fp64 is far smaller.
    assert group_advantages(torch.tensor([[1.0, up]], dtype=torch.float64))[0].any()


def test_whole_number_rewards_and_leading_dimensions():
    rewards = torch.tensor([[[0, 1], [1, 1]]])
    advantages, variance = group_advantages(rewards)
    assert advantages.dtype == torch.float32
    assert advantages.shape == (1, 2, 2)
    assert variance.tolist() == [[0.25, 0.0]]
    assert mixed_groups(rewards).tolist() == [[True, False]]


def test_the_error_for_a_nan_reward_says_where_it_is():
    with pytest.raises(ValueError, match=r"rewards\[1, 0\] is nan"):
        group_advantages(torch.tensor([[0.0, 1.0], [math.nan, 1.0]]))

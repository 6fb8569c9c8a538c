"""At which times samplers call: spacings, ends, whole numbers."""

import numpy as np
import pytest

from keras_diffusion import schedules
from keras_diffusion.sampling.times import SPACINGS, spaced_times

LINEAR, COSINE = schedules.linear_schedule(300), schedules.cosine_schedule(300)
FLOW = schedules.flow_schedule(300)


@pytest.mark.parametrize("strength", [1.0, 0.37, 0.01])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 111, 299, 300])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("schedule", [LINEAR, COSINE, FLOW])
def test_times_fall_from_the_start_to_zero(schedule, spacing, num_steps, strength):
    start = 300 * strength
    if not schedule.continuous and num_steps > start:
        with pytest.raises(ValueError, match=f"num_steps: expected an integer in 1..{start:.0f}"):
            spaced_times(schedule, num_steps, spacing=spacing, strength=strength)
        return
    times = spaced_times(schedule, num_steps, spacing=spacing, strength=strength)
    assert len(times) == num_steps + 1 and times[-1] == 0
    np.testing.assert_allclose(times[0], start)
    assert (np.diff(times) < 0).all()
    if not schedule.continuous:
        assert (times == np.round(times)).all()


@pytest.mark.parametrize("num_steps", [1, 3, 7, 299, 300])
def test_uniform(num_steps):
    assert np.ptp(np.diff(spaced_times(LINEAR, num_steps))) <= 1
    real = spaced_times(FLOW, num_steps)
    np.testing.assert_allclose(real, 300 * np.arange(num_steps, -1, -1) / num_steps, atol=1e-12)


def test_quadratic():
    real = spaced_times(FLOW, 10, spacing="quadratic")
    np.testing.assert_allclose(real, 3.0 * np.arange(10, -1, -1) ** 2, atol=1e-12)
    np.testing.assert_allclose(spaced_times(LINEAR, 10, spacing="quadratic"), real, atol=0.5)
    half = spaced_times(FLOW, 10, spacing="quadratic", strength=0.5)
    np.testing.assert_allclose(half, 1.5 * np.arange(10, -1, -1) ** 2, atol=1e-12)


def test_lam():
    """Equal steps of half log-SNR between t_1 (on a flow: T - 1) and t = 1, and then to 0."""
    lam = FLOW.lam(spaced_times(FLOW, 12, spacing="lam")[1:-1])
    assert np.ptp(np.diff(lam)) < 1e-9
    np.testing.assert_allclose(np.diff(lam)[0], (FLOW.lam(1.0) - FLOW.lam(299.0)) / 11)
    np.testing.assert_allclose(lam[-1], FLOW.lam(1.0))

    times = spaced_times(LINEAR, 6, spacing="lam")
    wanted = np.linspace(LINEAR.lam(300), LINEAR.lam(1), 6)
    np.testing.assert_allclose(times[:-1], LINEAR.time_at(wanted), atol=0.5)
    assert times[-2] == 1 and times[2] < spaced_times(LINEAR, 6)[2]


def test_lam_from_below_the_top():
    """Equal steps from strength*T on; where steps are finer than 1 in t the last one is as a uniform one."""
    lam = FLOW.lam(spaced_times(FLOW, 12, spacing="lam", strength=0.4)[:-1])
    np.testing.assert_allclose(lam, np.linspace(FLOW.lam(120.0), FLOW.lam(1.0), 12), atol=1e-9)
    fine = spaced_times(FLOW, 100, spacing="lam", strength=0.1)
    np.testing.assert_allclose(fine[-2], 0.3)


@pytest.mark.parametrize(("strength", "start"), [(0.3345, 100), (0.3355, 101), (0.001, 1)])
def test_strength_is_rounded_to_a_whole_time(strength, start):
    assert spaced_times(LINEAR, 1, strength=strength)[0] == start


def test_all_steps_are_all_whole_numbers():
    for spacing in SPACINGS:
        for schedule in (LINEAR, COSINE):
            np.testing.assert_array_equal(
                spaced_times(schedule, 300, spacing=spacing), np.arange(300, -1, -1)
            )


def test_a_list_of_ones_own():
    np.testing.assert_array_equal(spaced_times(LINEAR, spacing=[300, 120.5, 7]), [300, 120.5, 7, 0])
    np.testing.assert_array_equal(spaced_times(LINEAR, 1, spacing=[60], strength=0.2), [60, 0])


def test_twenty_steps_unless_told_otherwise():
    assert len(spaced_times(LINEAR)) == len(spaced_times(FLOW)) == 21
    assert len(spaced_times(schedules.linear_schedule(7))) == 8
    assert len(spaced_times(LINEAR, strength=0.03)) == 10

"""The times at which a model that died is loaded again."""

from modelserver.engine.catalogue.recovery import Recovery


def test_the_backoff_doubles_and_is_forgotten_in_the_end():
    """Deaths far apart wait 1, 2, 4 ... 60 s, and 1 s after twenty quiet minutes."""
    recovery, now, waits = Recovery(), 0.0, []
    for _ in range(8):
        waits.append(recovery.after_death(now)[0])
        now += 100
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert recovery.after_death(now + 1300) == (1, False)


def test_the_circuit_opens_longer_each_time_up_to_ten_minutes():
    """It opens for 60, 120, 240, 480, 600 and again 600 s."""
    recovery, now, waits = Recovery(), 0.0, []
    for _ in range(6):
        for _ in range(3):
            wait_s, opened = recovery.after_death(now)
            now += 1
        assert opened
        waits.append(wait_s)
        now += wait_s
    assert waits == [60, 120, 240, 480, 600, 600]


def test_a_model_that_served_for_long_comes_back_at_once():
    """Earlier kills do not matter then; after short lives the wait doubles."""
    recovery, now, waits = Recovery(), 0.0, []
    for served_s in (5, 20, 21, 5, 3600):
        waits.append(recovery.after_death(now, served_s)[0])
        now += 100
    assert waits == [1, 2, 1, 2, 1]

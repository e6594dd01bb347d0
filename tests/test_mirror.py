import random

from langsearch.study.mirror import BLOCK, LIMITS, shown


def history(num_trials: int) -> list[tuple[float, float] | None]:
    generator = random.Random(0)
    return [None if number % 7 == 3 else (generator.random(), generator.random()) for number in range(num_trials)]


def test_short_histories_are_shown_whole_and_so_are_those_that_cost_nothing() -> None:
    assert shown("tpe", history(LIMITS["tpe"])) is None
    assert shown("random", history(5000)) is None
    assert shown("nsga2", history(5000)) is None


def test_a_long_history_is_shown_up_to_a_limit_with_its_front_and_its_latest_trials() -> None:
    costs = history(3030)
    found = shown("tpe", costs)
    assert found is not None
    assert len(found) <= LIMITS["tpe"] + BLOCK
    assert set(range(2900, 3030)) <= found
    front = {
        number
        for number, cost in enumerate(costs)
        if cost is not None
        and not any(other != cost and other[0] <= cost[0] and other[1] <= cost[1] for other in costs if other)
    }
    assert front <= found


def test_within_a_block_nothing_that_was_shown_is_taken_away() -> None:
    costs = history(1080)
    before, after = shown("gp", costs[:1010]), shown("gp", costs)
    assert before is not None
    assert after is not None
    assert after - before == set(range(1010, 1080))
    assert before <= after

from langsearch.space.settings import Plateau
from langsearch.study.plateau import PlateauRule


def reached(rule: PlateauRule, trials: list[list[float] | None]) -> list[bool]:
    found = []
    for costs in trials:
        rule.ended(costs)
        found.append(rule.is_reached)
    return found


def test_a_front_that_does_not_grow_ends_the_search_after_the_asked_trials() -> None:
    rule = PlateauRule(Plateau(trials=3))
    assert reached(rule, [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]) == [False] * 3
    assert reached(rule, [[2.0, 3.0], None, [3.0, 1.0]]) == [False, False, True]


def test_a_gain_puts_the_end_off() -> None:
    rule = PlateauRule(Plateau(trials=2, min_gain=0.1))
    trials: list[list[float] | None] = [[5.0, 5.0], [4.0, 4.0], None, [2.0, 2.0], None]
    assert reached(rule, trials) == [False] * 5
    assert reached(rule, [None]) == [True]


def test_a_gain_that_is_too_small_puts_nothing_off() -> None:
    rule = PlateauRule(Plateau(trials=2, min_gain=0.1))
    assert reached(rule, [[5.0, 5.0], [2.0, 2.0], None, [1.99, 1.99]]) == [False, False, False, True]


def test_a_single_objective_is_measured_by_its_best_value() -> None:
    rule = PlateauRule(Plateau(trials=2, min_gain=0.05))
    # Costs of a score that is maximized: 10, then 10.4 is 4 % more, then 10.6 is 6 % more than 10.
    assert reached(rule, [[-10.0], [-9.0], [-10.4], [-10.0]]) == [False, False, False, True]
    rule = PlateauRule(Plateau(trials=2, min_gain=0.05))
    assert reached(rule, [[-10.0], [-9.0], [-10.6], [-10.0]]) == [False] * 4


def test_without_a_complete_trial_there_is_no_plateau() -> None:
    assert not any(reached(PlateauRule(Plateau(trials=2)), [None] * 9))


def test_one_complete_trial_is_a_plateau_of_its_own() -> None:
    assert reached(PlateauRule(Plateau(trials=2)), [[1.0, 1.0], None, None, None])[-1]

from collections.abc import Mapping

import pytest

from langsearch.cluster.resources import Capacity, num_fit


def test_as_many_fit_as_the_scarcest_resource_allows() -> None:
    node = {"CPU": 16.0, "GPU": 2.0, "memory": 1e9}
    assert num_fit([node], {"CPU": 2, "GPU": 0.25}) == 8
    assert num_fit([node], {"CPU": 4, "GPU": 0.25}) == 4
    assert num_fit([node], {"CPU": 1, "tpu": 1}) == 1, "one waits for a node"
    assert num_fit([node], {"CPU": 1, "GPU": 1 / 3}) == 6
    assert num_fit([], {"CPU": 1}) == 1


def test_what_is_left_over_on_several_nodes_makes_no_room() -> None:
    nodes = [{"CPU": 6.0, "GPU": 1.0}] * 3
    assert num_fit(nodes, {"CPU": 4}) == 3, "not the four that 18 CPUs would be"
    assert num_fit([*nodes, {"CPU": 3.0}, {"CPU": 64.0}], {"CPU": 4, "GPU": 1}) == 3, "CPUs without a GPU do not count"
    assert num_fit([{"CPU": 2.0}, {"CPU": 2.0}], {"CPU": 4}) == 1, "it waits for a node"


def test_a_cluster_that_grows_or_shrinks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    nodes: list[Mapping[str, float]] = [{"CPU": 2.0}]
    monkeypatch.setattr("langsearch.cluster.resources.time.monotonic", lambda: clock[0])
    room, ahead = Capacity({"CPU": 1}, 0, lambda: nodes), Capacity({"CPU": 1}, 8, lambda: nodes)
    assert (room(), ahead()) == (2, 10)
    nodes.append({"CPU": 4.0})
    assert room() == 2, "asked a moment later, Ray is not asked again"
    clock[0] += 2.0
    assert (room(), ahead()) == (6, 14)
    nodes.clear()
    clock[0] += 2.0
    assert (room(), ahead()) == (1, 9)

import pytest

from langsearch.cluster.resources import Capacity, num_fit


def test_as_many_fit_as_the_scarcest_resource_allows() -> None:
    resources = {"CPU": 16.0, "GPU": 2.0, "memory": 1e9}
    assert num_fit(resources, {"CPU": 2, "GPU": 0.25}) == 8
    assert num_fit(resources, {"CPU": 4, "GPU": 0.25}) == 4
    assert num_fit(resources, {"CPU": 1, "tpu": 1}) == 1, "one waits for a node"
    assert num_fit({}, {"CPU": 1}) == 1


def test_a_cluster_that_grows_or_shrinks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    resources, clock = {"CPU": 2.0}, [100.0]
    monkeypatch.setattr("langsearch.cluster.resources.ray.cluster_resources", lambda: resources)
    monkeypatch.setattr("langsearch.cluster.resources.time.monotonic", lambda: clock[0])
    room, ahead = Capacity({"CPU": 1}), Capacity({"CPU": 1}, num_ahead=8)
    assert (room(), ahead()) == (2, 10)
    resources["CPU"] = 6.0
    assert room() == 2, "asked a moment later, Ray is not asked again"
    clock[0] += 2.0
    assert (room(), ahead()) == (6, 14)
    resources.clear()
    clock[0] += 2.0
    assert (room(), ahead()) == (1, 9)

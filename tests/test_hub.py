"""A base on a hub that answers on loopback: what is fetched, at which commit, and what a refusal says."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from langsearch.model.base import load_base
from langsearch.model.finding import locate_base
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource
from tests.hub_fixtures import BASE, TOKEN, Hub, commit_of, published, tiny_model

pytest_plugins = ["tests.hub_fixtures"]

StartHub = Callable[[Hub], Hub]
OTHERS = {
    "tf_model.h5": b"1",
    "flax_model.msgpack": b"2",
    "rust_model.ot": b"3",
    "onnx/model.onnx": b"4",
    "onnx/config.json": b"5",
    "training_args.bin": b"6",
    "model.fp16.safetensors": b"7",
    "source.spm": b"8",
    ".gitattributes": b"9",
}


@pytest.mark.parametrize(
    ("layout", "weights"),
    [
        ("bin", {"pytorch_model.bin"}),
        ("both", {"model.safetensors"}),
        ("sharded bin", {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}),
        ("sharded safetensors", {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}),
    ],
)
def test_what_is_needed_is_fetched_and_nothing_more(layout: str, weights: set[str], start_hub: StartHub) -> None:
    files = published(layout)
    hub = start_hub(Hub({"main": files | OTHERS}))
    found = locate_base(BASE)
    first = hub.fetched
    assert found.check() == []
    assert found.to_fetch == {name: len(files[name]) for name in weights}
    assert not first & weights
    load_base(found)
    assert hub.fetched - first == weights
    assert hub.fetched == set(files) - ({"pytorch_model.bin"} if layout == "both" else set())


def test_a_base_is_used_at_the_commit_that_was_found_also_when_the_branch_has_moved(start_hub: StartHub) -> None:
    old, new = published("bin"), published("bin", tiny_model(1))
    hub = start_hub(Hub({"main": old}))
    found = locate_base(BASE)
    assert found.commit == found.source.revision == commit_of(old)
    hub.revisions = {"main": new, "old": old}
    assert load_base(found).revision == commit_of(old)
    assert load_base(BASE).revision == commit_of(new)
    # What is in the cache at a commit needs no hub.
    hub.asked.clear()
    assert load_base(found.source).revision == commit_of(old)
    assert hub.asked == []


def test_a_pull_requests_revision_is_fetched(start_hub: StartHub) -> None:
    start_hub(Hub({"main": published("bin"), "refs/pr/21": published("safetensors")}))
    found = locate_base(BaseSource(BASE, "refs/pr/21"))
    assert set(found.to_fetch) == {"model.safetensors"}
    assert load_base(found).revision == commit_of(published("safetensors"))


def test_a_hub_that_is_away_is_made_up_for_by_its_cache(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    start_hub(Hub({"main": published("bin")}))
    load_base(BASE)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert load_base(BASE).revision == commit_of(published("bin"))


def test_weights_that_were_not_fetched_before_the_hub_went_away_are_told(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    start_hub(Hub({"main": published("sharded bin")}))
    locate_base(BASE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (problem,) = locate_base(BASE).check()
    assert "must be all there" in problem
    assert "00001-of-00002.bin" in problem
    assert "HF_HUB_OFFLINE is set" in problem


def test_a_private_base_takes_the_hubs_own_token(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    start_hub(Hub({"main": published("bin")}, needs_token=True))
    with pytest.raises(InputError, match=r"open to you, but the hub says that 'someone/tiny' is not.*`hf auth login`"):
        load_base(BASE)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load_base(BASE).revision == commit_of(published("bin"))


def test_a_gated_base_says_where_its_terms_are_accepted(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    start_hub(Hub({"main": published("bin")}, is_gated=True))
    with pytest.raises(InputError, match=r"asks for its terms to be accepted before it gives 'someone/tiny'") as caught:
        load_base(BASE)
    assert len(caught.value.problems) == 1
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load_base(BASE).revision == commit_of(published("bin"))


def test_what_the_hub_does_not_have_is_an_input_error(start_hub: StartHub) -> None:
    start_hub(Hub({"main": published("bin")}))
    with pytest.raises(InputError, match=r"must be on the hub and open to you, .* that 'someone/else' is not"):
        locate_base("someone/else")
    with pytest.raises(InputError, match=r"`base.revision` must be a branch, .* 'someone/tiny' has no 'refs/pr/9'"):
        locate_base(BaseSource(BASE, "refs/pr/9"))
    with pytest.raises(InputError, match=r"must be of a base on the hub, but tiny-m2m is a folder"):
        locate_base(BaseSource("tiny-m2m", "main"))


def test_a_shard_that_the_hub_lacks_is_told_before_anything_is_fetched(start_hub: StartHub) -> None:
    files = published("sharded bin")
    del files["pytorch_model-00002-of-00002.bin"]
    hub = start_hub(Hub({"main": files}))
    (problem,) = locate_base(BASE).check()
    assert "pytorch_model-00002-of-00002.bin is missing. Its index names it, but the hub does not have it" in problem
    assert not [name for name in hub.fetched if name.endswith(".bin")]


def test_a_disk_without_room_for_the_weights_is_told_before_they_are_fetched(
    start_hub: StartHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = start_hub(Hub({"main": published("bin")}))
    found = locate_base(BASE)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(InputError, match=r"must have room for the base 'someone/tiny'.*Make room, .* by HF_HOME"):
        load_base(found)
    assert "pytorch_model.bin" not in hub.fetched

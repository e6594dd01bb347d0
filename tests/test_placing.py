"""The base in Ray's object store: the driver holds nothing of it, and what is lost is made again."""

import gc
import hashlib
import io
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from rich.console import Console
from safetensors.torch import load_file, save_file

from langsearch.cluster.ray_session import connect
from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.model.base import Base, BaseTokenizer, SharedBase, outline_base, share_base
from langsearch.model.finding import EMBEDDED_FOLDER, locate_base, provide_weights
from langsearch.model.new_languages import with_new_languages
from langsearch.search import placing, runner
from langsearch.search.display import Display
from langsearch.search.placing import place_base
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

pytest_plugins = ["search_fixtures"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, where the driver is, and a node."""
    with tempfile.TemporaryDirectory(prefix="r") as folder, pytest.MonkeyPatch.context() as patch:  # a short path
        patch.setenv("RAY_TMPDIR", folder)
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        connect(found.address)
        yield found
        ray.shutdown()
        found.shutdown()


def digests(weights: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in weights.items()}


def ask_worker(reference: Any) -> tuple[dict[str, str], bool]:
    """What a worker gets, and whether it is a copy of its own."""

    # Within a function, so that it travels by itself: a worker cannot import a test.
    def ask(shared: SharedBase) -> tuple[dict[str, str], bool]:
        arrays = shared.weights.items()
        found = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays}
        return found, any(array.flags.writeable for _, array in arrays)

    got: tuple[dict[str, str], bool] = ray.get(ray.remote(ask).remote(reference), timeout=120)
    return got


def nodes_with(reference: Any) -> set[str]:
    """Returns the nodes that hold an object; where it has just been made, Ray hears of the first a moment later."""
    deadline = time.monotonic() + 30
    while not (found := set(ray.experimental.get_object_locations([reference])[reference]["node_ids"])):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def test_an_outline_is_the_base_without_its_weights(base: Base, checked: CheckedSpace) -> None:
    found = checked.base
    outline = outline_base(found, provide_weights(found), checked.base_tokenizer)
    assert all(tensor.is_meta for tensor in outline.model.parameters())
    assert (outline.name, outline.shape, outline.revision) == (base.name, base.shape, base.revision)
    assert outline.model.config.to_dict() == base.model.config.to_dict()
    assert outline.vocabulary(["en", "sw"]) == base.vocabulary(["en", "sw"])
    likes = {"tyv": "en"}
    assert with_new_languages(outline, likes).new_languages == with_new_languages(base, likes).new_languages


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_an_outline_weights_of_any_type_are_checked_and_none_are_cast(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EMBEDDED_FOLDER / "tiny-m2m", tmp_path, dirs_exist_ok=True)
    weights = {name: tensor.to(dtype) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found, tokenizer = locate_base(str(tmp_path)), BaseTokenizer(tmp_path)
    seen: list[torch.dtype] = []
    monkeypatch.setattr("langsearch.model.base._check_tied", lambda model, _: seen.append(model.dtype))
    assert all(tensor.is_meta for tensor in outline_base(found, tmp_path, tokenizer).model.parameters())
    assert seen == [dtype]
    del weights["model.decoder.layers.1.fc1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"must be all there, but .* lacks model.decoder.layers.1.fc1.weight"):
        outline_base(found, tmp_path, tokenizer)


def test_the_driver_of_a_search_holds_no_weights(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReachedError(Exception):
        pass

    def tensors() -> dict[int, torch.Tensor]:
        gc.collect()
        return {id(found): found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)}

    def arrays() -> dict[int, np.ndarray]:
        return {id(found): found for found in gc.get_objects() if type(found) is np.ndarray}

    checked = check_space(load_space(space_file))
    known, known_arrays = tensors(), arrays()
    held: list[torch.Tensor] = []

    def place(*_: object, **__: object) -> None:
        held.extend(found for key, found in tensors().items() if key not in known and not found.is_meta)
        held.extend(torch.from_numpy(found) for key, found in arrays().items() if key not in known_arrays)
        raise ReachedError

    sizes: list[int] = []
    monkeypatch.setattr(runner, "start_ray", lambda num_bytes, _: sizes.append(num_bytes))
    monkeypatch.setattr(runner, "place_base", place)
    display = Display(Console(file=io.StringIO()), "tiny", 1, 0)
    with pytest.raises(ReachedError):
        runner.run_search(checked, space_file.parent / "experiments", display)
    assert sizes == [4 * checked.shape.num_parameters]
    assert sum(found.nbytes for found in held) < sizes[0] / 100, [found.shape for found in held]


def test_workers_map_the_base_that_a_task_has_placed(cluster: Any, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker of a cluster runs elsewhere: what was found relative to the driver's folder is found there too.
    monkeypatch.chdir(EMBEDDED_FOLDER)
    found = locate_base("./tiny-m2m")
    reference = place_base(found, provide_weights(found), {"tyv": "en"})
    assert nodes_with(reference) == {ray.get_runtime_context().get_node_id()}
    got, is_copy = ask_worker(reference)
    assert got == digests(share_base(base).weights)
    assert not is_copy
    shared: SharedBase = ray.get(reference)
    assert [language.code for language in shared.new_languages] == ["tyv"]


def test_on_one_machine_the_driver_places_a_small_base_itself(
    cluster: Any, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "load_base", lambda *_, **__: base)
    monkeypatch.setattr(ray, "remote", None)  # no task
    found = locate_base("tiny-m2m")
    reference = place_base(found, provide_weights(found), {}, is_alone=True)
    monkeypatch.undo()
    got, is_copy = ask_worker(reference)
    assert got == digests(share_base(base).weights) and not is_copy
    monkeypatch.setattr(placing, "_SMALL_BYTES", 1_000)
    monkeypatch.setattr(placing, "load_base", None)  # by a task, in another process
    assert ask_worker(place_base(found, provide_weights(found), {}, is_alone=True))[0] == got


def test_a_base_that_cannot_be_loaded_is_an_input_error(cluster: Any, tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED_FOLDER / "tiny-m2m", tmp_path, dirs_exist_ok=True)
    found = locate_base(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="weights must be whole"):
        place_base(found, tmp_path, {})


@pytest.mark.integration
def test_a_base_that_is_lost_with_its_node_is_made_again(cluster: Any, base: Base) -> None:
    here = ray.get_runtime_context().get_node_id()
    node = cluster.add_node(num_cpus=1)
    found = locate_base("tiny-m2m")
    reference = place_base(found, provide_weights(found), {}, node.node_id)
    assert nodes_with(reference) == {node.node_id}
    cluster.remove_node(node, allow_graceful=False)
    deadline = time.monotonic() + 60
    while len([one for one in ray.nodes() if one["Alive"]]) > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    # A worker asks for it, as a trial does; nobody else has had it.
    got, _ = ask_worker(reference)
    assert got == digests(share_base(base).weights)
    assert nodes_with(reference) == {here}

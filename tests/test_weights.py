"""Weights as they are published: every layout of a hub's cache and of a folder, and what is wrong with some."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from langsearch.model import pickled as pickled_module
from langsearch.model.base import attach_base, load_base, share_base
from langsearch.model.finding import EMBEDDED_FOLDER, locate_base
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource
from tests.hub_fixtures import BASE, TIED, fill_cache, pickled, published, published_state, tiny_model, write_files

pytest_plugins = ["tests.hub_fixtures"]

LAYOUTS = ("bin", "old bin", "sharded bin", "safetensors", "sharded safetensors", "both")


def assert_is_tiny(source: BaseSource | str, seed: int = 0) -> None:
    """Checks that a base has the weights that were published, and is whole after it was shared."""
    base = load_base(source)
    expected = tiny_model(seed).state_dict()
    for found in (base, attach_base(share_base(base))):
        state = found.model.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def converted(ours: Path) -> list[Path]:
    return [path for path in (ours / "weights").glob("*") if path.is_dir()] if ours.exists() else []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_loads_from_the_hubs_cache_without_a_network(layout: str, hub_cache: Path) -> None:
    commit = fill_cache(hub_cache, published(layout))
    assert_is_tiny(BASE)
    assert load_base(BASE).revision == commit


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_loads_from_a_folder(layout: str, hub_cache: Path, tmp_path: Path) -> None:
    assert_is_tiny(str(write_files(tmp_path / "base", published(layout))))


@pytest.mark.parametrize("revision", ["refs/pr/21", "a-branch"])
def test_weights_that_only_a_revision_has_are_found_there(revision: str, hub_cache: Path) -> None:
    files = published("safetensors")
    fill_cache(hub_cache, {name: files[name] for name in files if name != "model.safetensors"})
    commit = fill_cache(hub_cache, files, revision)
    with pytest.raises(InputError, match=r"must have weights as safetensors or pytorch_model.bin"):
        load_base(BASE)
    assert_is_tiny(BaseSource(BASE, revision))
    assert load_base(BaseSource(BASE, revision)).revision == commit
    assert_is_tiny(BaseSource(BASE, commit))


def test_a_revision_that_the_cache_lacks_is_refused_without_a_network(hub_cache: Path) -> None:
    fill_cache(hub_cache, published("bin"))
    with pytest.raises(InputError, match=r"'someone/tiny at refs/pr/9' is no folder here.*HF_HUB_OFFLINE is set"):
        load_base(BaseSource(BASE, "refs/pr/9"))


def test_pickled_weights_are_turned_to_safetensors_once_and_each_tensor_is_written_once(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(hub_cache, published("bin"))
    load_base(BASE)
    (folder,) = converted(tmp_path / "ours")
    names = set(load_file(folder / "model.safetensors"))
    assert "model.shared.weight" in names
    assert not names & set(TIED)
    assert not [name for name in names if "embed_positions" in name]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(pickled_module, "save_torch_state_dict", refuse)
    load_base(BASE)
    # A folder with the same content is the same base.
    load_base(str(write_files(tmp_path / "base", published("bin"))))


def test_where_safetensors_are_no_pickle_is_read(hub_cache: Path, tmp_path: Path) -> None:
    files = published("both") | {"pytorch_model.bin": b"torn"}
    fill_cache(hub_cache, files)
    assert_is_tiny(BASE)
    assert not converted(tmp_path / "ours")


def test_equal_weights_that_are_stored_apart_are_one_again(hub_cache: Path, tmp_path: Path) -> None:
    files = published("bin")
    state = {name: tensor.clone() for name, tensor in published_state(tiny_model()).items()}
    assert_is_tiny(str(write_files(tmp_path / "base", files | {"pytorch_model.bin": pickled(state)})))


def test_tied_weights_that_differ_are_refused(hub_cache: Path, tmp_path: Path) -> None:
    state = published_state(tiny_model())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    write_files(tmp_path / "base", published("bin") | {"pytorch_model.bin": pickled(state)})
    with pytest.raises(InputError, match=r"embeddings must be one where its config.json ties them"):
        load_base(str(tmp_path / "base"))


@pytest.mark.parametrize("layout", ["bin", "safetensors", "sharded bin", "sharded safetensors"])
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_torn_file_is_refused_in_one_sentence(layout: str, kept: float, hub_cache: Path) -> None:
    files = published(layout)
    name = next(name for name in sorted(files) if name.endswith((".bin", ".safetensors")))
    fill_cache(hub_cache, files | {name: files[name][: int(kept * len(files[name]))]})
    assert len(locate_base(BASE).check()) == 1
    with pytest.raises(InputError, match=rf"weights must be whole, but .*{name} ") as caught:
        load_base(BASE)
    assert len(caught.value.problems) == 1
    assert "\n" not in caught.value.problems[0]


def test_a_torn_file_of_the_old_format_is_refused(hub_cache: Path, tmp_path: Path) -> None:
    files = published("old bin")
    content = files["pytorch_model.bin"]
    for kept in (10, 1000, len(content) // 2):
        write_files(tmp_path / "base", files | {"pytorch_model.bin": content[:kept]})
        with pytest.raises(InputError, match="weights must be whole"):
            load_base(str(tmp_path / "base"))


class Evil:
    """What a file may hold that runs when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_file_with_code_in_it_is_refused_and_the_code_is_not_run(
    is_new: bool, hub_cache: Path, tmp_path: Path
) -> None:
    state = {**published_state(tiny_model()), "evil": Evil(tmp_path / "ran")}
    content = pickled(state, _use_new_zipfile_serialization=is_new)
    fill_cache(hub_cache, published("bin") | {"pytorch_model.bin": content})
    with pytest.raises(InputError, match=r"tensors and nothing else, but .* holds code \(posix.mkdir\), which was not"):
        load_base(BASE)
    assert not (tmp_path / "ran").exists()
    assert not converted(tmp_path / "ours")
    if is_new:
        assert "holds code" in locate_base(BASE).check()[0]


def test_a_training_checkpoint_is_no_base(hub_cache: Path, tmp_path: Path) -> None:
    content = pickled({"model": published_state(tiny_model()), "epoch": 3})
    write_files(tmp_path / "base", published("bin") | {"pytorch_model.bin": content})
    with pytest.raises(InputError, match="must be tensors by name, as `save_pretrained` writes them"):
        load_base(str(tmp_path / "base"))


@pytest.mark.parametrize("layout", ["sharded bin", "sharded safetensors"])
def test_a_missing_shard_is_named(layout: str, hub_cache: Path, tmp_path: Path) -> None:
    files = published(layout)
    name = next(name for name in files if "00002-of-00002" in name)
    del files[name]
    write_files(tmp_path / "base", files)
    with pytest.raises(InputError, match=rf"weights must be all there, but .* lacks {name}"):
        load_base(str(tmp_path / "base"))
    fill_cache(hub_cache, files)
    with pytest.raises(InputError, match=rf"must be all there, but of someone/tiny at \w+ {name} is missing"):
        load_base(BASE)


def test_an_index_must_not_lead_out_of_its_folder(hub_cache: Path, tmp_path: Path) -> None:
    files = published("sharded safetensors")
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../model.safetensors"}}).encode()
    write_files(tmp_path / "base", files)
    with pytest.raises(InputError, match="must name files beside it"):
        load_base(str(tmp_path / "base"))
    files["model.safetensors.index.json"] = b"[]"
    write_files(tmp_path / "base", files)
    with pytest.raises(InputError, match="must say which file has which"):
        load_base(str(tmp_path / "base"))


def test_a_pointer_of_git_lfs_is_told_as_such(hub_cache: Path, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1935792071\n"
    write_files(tmp_path / "base", published("bin") | {"pytorch_model.bin": pointer})
    with pytest.raises(InputError, match=r"is only Git LFS's pointer.*git lfs pull"):
        load_base(str(tmp_path / "base"))


def test_a_folder_without_weights_is_refused(hub_cache: Path, tmp_path: Path) -> None:
    shutil.copy(EMBEDDED_FOLDER / "tiny-m2m" / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"must have its weights beside its config.json, .* has neither"):
        load_base(str(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "no manifest"])
def test_converted_weights_that_are_torn_are_written_again(damage: str, hub_cache: Path, tmp_path: Path) -> None:
    fill_cache(hub_cache, published("bin"))
    load_base(BASE)
    (folder,) = converted(tmp_path / "ours")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:1000])
    elif damage == "flipped":
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    else:
        (path if damage == "gone" else folder / "langsearch.json").unlink()
    (folder.with_name(f".{folder.name}.partial")).mkdir()  # of a process that was killed
    assert_is_tiny(BASE)
    assert path.read_bytes() == content
    assert [path.name for path in folder.parent.iterdir() if path.name.endswith(".partial")] == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(hub_cache, published("bin"))

    def full(_: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"begun")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pickled_module, "save_torch_state_dict", full)
        with pytest.raises(InputError, match=r"takes 0.00 GB, but .* has no more room. Make room, .*LANGSEARCH_CACHE"):
            load_base(BASE)
    assert not converted(tmp_path / "ours")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(InputError, match=r"has 0.00 GB free. Make room"):
            load_base(BASE)
    assert_is_tiny(BASE)


def test_a_cache_that_cannot_be_written_is_one_sentence(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(hub_cache, published("bin"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written.*name another folder by LANGSEARCH_CACHE"):
        load_base(BASE)


def _convert(folder: str, ours: str) -> None:
    os.environ["LANGSEARCH_CACHE"] = ours
    torch.set_num_threads(1)
    load_base(folder)


def test_processes_that_want_the_same_weights_convert_them_once(hub_cache: Path, tmp_path: Path) -> None:
    folder, ours = write_files(tmp_path / "base", published("bin")), tmp_path / "together"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_convert, args=(str(folder), str(ours))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(converted(ours)) == 1
    assert not list((ours / "weights").glob("*.partial"))


def test_a_fingerprint_tells_changed_weights(hub_cache: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "base", published("safetensors"))
    first = locate_base(str(folder)).fingerprint()
    assert first == locate_base(str(write_files(tmp_path / "copy", published("safetensors")))).fingerprint()
    write_files(folder, published("safetensors", tiny_model(1)))
    assert locate_base(str(folder)).fingerprint() != first
    commit = fill_cache(hub_cache, published("safetensors"))
    assert locate_base(BASE).fingerprint() == commit

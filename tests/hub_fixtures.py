"""Published bases, small: their files in each layout, a hub's cache on the disk, and a hub that answers on loopback."""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from transformers import M2M100Config, M2M100ForConditionalGeneration

from langsearch.model.finding import EMBEDDED_FOLDER

BASE = "someone/tiny"
TOKEN = "hf_of_someone_who_may"
TIED = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
Files = dict[str, bytes]


def tiny_model(seed: int = 0) -> M2M100ForConditionalGeneration:
    """A random model with the embedded base's vocabulary: d_model 16, 1 + 1 layers."""
    config = M2M100Config.from_pretrained(EMBEDDED_FOLDER / "tiny-m2m")
    for stack in ("encoder", "decoder"):
        for key, value in {"layers": 1, "attention_heads": 2, "ffn_dim": 32}.items():
            setattr(config, f"{stack}_{key}", value)
    config.d_model = 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return M2M100ForConditionalGeneration(config)


def published_state(model: M2M100ForConditionalGeneration) -> dict[str, Tensor]:
    """What published .bin files hold: the shared embedding four times, and the positions that the model computes."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state |= dict.fromkeys(TIED, state["model.shared.weight"])
    positions = model.model.encoder.embed_positions.weights
    return state | {f"model.{stack}.embed_positions.weights": positions for stack in ("encoder", "decoder")}


def pickled(state: Mapping[str, Any], **settings: Any) -> bytes:
    written = io.BytesIO()
    torch.save(dict(state), written, **settings)
    return written.getvalue()


def small_files(model: M2M100ForConditionalGeneration) -> Files:
    """Configuration and tokenizer."""
    files = {path.name: path.read_bytes() for path in (EMBEDDED_FOLDER / "tiny-m2m").iterdir()}
    return files | {"config.json": model.config.to_json_string().encode(), "model.safetensors": b""}


def halves(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    names = sorted(state)
    return [{name: state[name] for name in part} for part in (names[::2], names[1::2])]


def published(layout: str, model: M2M100ForConditionalGeneration | None = None) -> Files:
    """The files of a base: "bin", "sharded bin", "safetensors", "sharded safetensors", "both", "old bin"."""
    model = model or tiny_model()
    files = small_files(model)
    del files["model.safetensors"]
    state = published_state(model)
    whole = {name: tensor for name, tensor in state.items() if name not in TIED and "embed_positions" not in name}
    is_safe = "safetensors" in layout
    if layout in ("bin", "both"):
        files["pytorch_model.bin"] = pickled(state)
    if layout == "old bin":
        files["pytorch_model.bin"] = pickled(state, _use_new_zipfile_serialization=False)
    if layout in ("safetensors", "both"):
        files["model.safetensors"] = save(whole, metadata={"format": "pt"})
    if layout.startswith("sharded"):
        stem, ending = ("model", "safetensors") if is_safe else ("pytorch_model", "bin")
        weight_map: dict[str, str] = {}
        for number, part in enumerate(halves(whole if is_safe else state), start=1):
            name = f"{stem}-{number:05d}-of-00002.{ending}"
            files[name] = save(part, metadata={"format": "pt"}) if is_safe else pickled(part)
            weight_map |= dict.fromkeys(part, name)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        files[f"{stem}.{ending}.index.json"] = json.dumps(index).encode()
    return files


def write_files(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def commit_of(files: Files) -> str:
    return hashlib.sha1(b"".join(name.encode() + content for name, content in sorted(files.items()))).hexdigest()


def is_lfs(name: str) -> bool:
    return name.endswith((".bin", ".safetensors", ".model", ".h5", ".msgpack", ".ot", ".onnx"))


def etag(name: str, content: bytes) -> str:
    """What a blob is called: its SHA-256 if it is large, else as git has it."""
    if is_lfs(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def fill_cache(cache: Path, files: Files, revision: str = "main", name: str = BASE) -> str:
    """Puts a base into a hub's cache as `huggingface_hub` lays it out, and returns its commit."""
    commit = commit_of(files)
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for part in (folder / "blobs", snapshot, (folder / "refs" / revision).parent):
        part.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        blob = folder / "blobs" / etag(file, content)
        blob.write_bytes(content)
        if not (snapshot / file).is_symlink():
            (snapshot / file).symlink_to(Path("../../blobs") / blob.name)
    (folder / "refs" / revision).write_text(commit)
    return commit


@dataclass
class Hub:
    """A hub with one base."""

    revisions: dict[str, Files]
    """The files of each branch, tag or pull request."""

    needs_token: bool = False
    is_gated: bool = False
    """Everybody sees the list of files, and only who may the files."""

    asked: list[str] = field(default_factory=list)
    """The paths of all requests; files as COMMIT/NAME."""

    @property
    def fetched(self) -> set[str]:
        """The names of the files that were fetched."""
        return {path.rpartition("/")[2] for path in self.asked if "/resolve/" in path}

    def find(self, revision: str) -> tuple[str, Files] | None:
        for name, files in self.revisions.items():
            if revision in (name, commit_of(files)):
                return commit_of(files), files
        return None


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self.hub.asked.append(unquote(urlsplit(self.path).path))
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        status, headers, body = self._find(unquote(urlsplit(self.path).path))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        may = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        is_api = path.startswith("/api/")
        if BASE not in path or (self.hub.needs_token and not may):
            return 401 if BASE in path else 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if self.hub.is_gated and not may and not is_api:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        _, _, rest = path.partition(BASE)
        kind, _, place = rest.strip("/").partition("/")
        if not is_api:
            commit, _, name = place.partition("/")
            found = self.hub.find(commit)
            if found is None or name not in found[1]:
                return 404, {"X-Error-Code": "EntryNotFound" if found else "RevisionNotFound"}, b""
            headers = {"ETag": f'"{etag(name, found[1][name])}"', "X-Repo-Commit": found[0]}
            return 200, headers, found[1][name]
        found = self.hub.find(place or "main")
        if found is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        commit, files = found
        value: Any = {
            "id": BASE,
            "sha": commit,
            "siblings": [{"rfilename": name, "size": len(content)} for name, content in files.items()],
        }
        if kind == "tree":
            value = [
                {"type": "file", "path": name, "size": len(content), "oid": etag(name, content)}
                for name, content in files.items()
            ]
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Serves a hub; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub's cache without a network, and an empty cache of ours."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "ours"))
    return cache


@pytest.fixture
def start_hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Hub], Hub]]:
    """Starts a hub that the rest of the test asks, with an empty cache."""
    from contextlib import ExitStack

    from huggingface_hub import constants, hf_api

    with ExitStack() as stack:

        def start(hub: Hub) -> Hub:
            address = stack.enter_context(serve(hub))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            for name, value in {
                "ENDPOINT": address,
                "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            }.items():
                monkeypatch.setattr(constants, name, value)
            monkeypatch.setattr(hf_api, "ENDPOINT", address, raising=False)
            return hub

        yield start

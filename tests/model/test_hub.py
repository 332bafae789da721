"""Weights from a Hub: a local server that answers like the real one, and the ways it can fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from helpers import randomise
from huggingface_hub import constants

import effvit
from effvit.cli.main import run
from effvit.errors import WeightsError
from effvit.model.checkpoints import save_foreign
from effvit.model.factory import find_weights
from effvit.model.hub import by_hand, fetch, imagenet_repository, is_repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = "89abcdef0123456789abcdef0123456789abcdef"
M0 = "efficientvit_m0"


class Hub:
    """Repositories of files over HTTP, with the headers the client reads.

    `owner/name` holds the files of `COMMIT`, which is main until `main` says otherwise, and
    `owner/name@v2` those of `LATER`, the branch v2.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.corrupt = False
        self.main = COMMIT
        self.moves_during_download = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                owner, name, *rest = self.path.split("?")[0].strip("/").split("/")
                assert rest[0] == "resolve"
                commit = {"main": hub.main, "v2": LATER}.get(rest[1], rest[1])
                suffix = {COMMIT: "", LATER: "@v2"}.get(commit, "@missing")
                files = hub.repositories.get(f"{owner}/{name}{suffix}")
                content = None if files is None else files.get("/".join(rest[2:]))
                if content is None:
                    known = f"{owner}/{name}" in hub.repositories
                    code = "RepoNotFound" if not known else "RevisionNotFound" if files is None else "EntryNotFound"
                    self.send_response(404)
                    self.send_header("X-Error-Code", code)
                    self.send_header("X-Repo-Commit", commit)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if body and hub.moves_during_download:
                    hub.main = LATER
                self.send_response(200)
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content[:-1] + b"X" if hub.corrupt else content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> effvit.EfficientViT:
    """A network whose weights are on the hub as timm publishes them, with timm's own config.json."""
    model = randomise(effvit.create_model(M0))
    path = save_foreign(tmp_path / "model.safetensors", model, "timm")
    hub.repositories["timm/efficientvit_m0.r224_in1k"] = {
        "model.safetensors": path.read_bytes(),
        "config.json": json.dumps({"architecture": M0, "num_classes": 1000}).encode(),
    }
    return model


def test_imagenet_weights_are_fetched_once_and_kept(hub: Hub, published: effvit.EfficientViT) -> None:
    model = effvit.create_model(M0, weights="imagenet")
    assert torch.equal(model.head.linear.weight, published.head.linear.weight)
    assert sum(request.startswith("GET") and "safetensors" in request for request in hub.requests) == 1
    effvit.create_model(M0, weights="imagenet")
    assert sum(request.startswith("GET") and "safetensors" in request for request in hub.requests) == 1


def test_checksum_and_revision_are_kept(hub: Hub, published: effvit.EfficientViT) -> None:
    content = hub.repositories["timm/efficientvit_m0.r224_in1k"]["model.safetensors"]
    provenance = find_weights("imagenet", M0).info.provenance
    assert provenance["sha256"] == hashlib.sha256(content).hexdigest()
    assert provenance["revision"] == COMMIT
    assert provenance["repository"] == "timm/efficientvit_m0.r224_in1k"


def test_fine_tuning_from_imagenet_gets_a_new_head(hub: Hub, published: effvit.EfficientViT) -> None:
    model = effvit.create_model(M0, weights="imagenet", num_classes=10)
    assert model.head.linear.weight.shape[0] == 10
    assert torch.equal(model.stem[0].conv.weight, published.stem[0].conv.weight)


def test_a_damaged_download_is_refused(hub: Hub, published: effvit.EfficientViT) -> None:
    hub.corrupt = True
    with pytest.raises(WeightsError, match=r"is damaged: SHA-256 .*, the Hub announced .*; delete it and try again"):
        effvit.create_model(M0, weights="imagenet")


def test_our_folder_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    model = randomise(effvit.create_model("efficientvit_tiny", num_classes=2))
    folder = effvit.save(tmp_path / "mine", model, effvit.WeightsInfo(class_names=("cat", "dog")))
    hub.repositories["someone/pets"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("someone/pets", "hf-hub:someone/pets", "someone/pets@main"):
        twin, info = effvit.load(name)
        assert info.class_names == ("cat", "dog") and info.provenance["repository"] == "someone/pets"
        assert torch.equal(twin.head.linear.weight, model.head.linear.weight)


@pytest.fixture
def two_versions(hub: Hub, tmp_path: Path) -> dict[str, effvit.EfficientViT]:
    """The networks of someone/pets, by commit; each version has class names of its own."""
    models = {}
    for commit, repository, names in (
        (COMMIT, "someone/pets", ("cat", "dog")),
        (LATER, "someone/pets@v2", ("cow", "hen")),
    ):
        models[commit] = randomise(effvit.create_model("efficientvit_tiny", num_classes=2), seed=int(commit[:2], 16))
        folder = effvit.save(tmp_path / commit, models[commit], effvit.WeightsInfo(class_names=names))
        hub.repositories[repository] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return models


@pytest.mark.parametrize(
    ("name", "commit", "class_names"),
    [
        ("someone/pets", COMMIT, ("cat", "dog")),
        ("someone/pets@v2", LATER, ("cow", "hen")),
        (f"hf-hub:someone/pets@{LATER}", LATER, ("cow", "hen")),
        (f"someone/pets@{COMMIT}", COMMIT, ("cat", "dog")),
    ],
    ids=["default", "branch", "commit", "first commit"],
)
def test_the_revision_asked_for_is_the_one_given(
    two_versions: dict[str, effvit.EfficientViT], name: str, commit: str, class_names: tuple[str, ...]
) -> None:
    model, info = effvit.load(name)
    assert info.provenance["revision"] == commit and info.class_names == class_names
    assert torch.equal(model.head.linear.weight, two_versions[commit].head.linear.weight)


def test_a_branch_that_moves_meanwhile_does_not_mix_two_versions(
    hub: Hub, two_versions: dict[str, effvit.EfficientViT]
) -> None:
    hub.moves_during_download = True
    model, info = effvit.load("someone/pets")
    assert hub.main == LATER
    assert info.provenance["revision"] == COMMIT and info.class_names == ("cat", "dog")
    assert torch.equal(model.head.linear.weight, two_versions[COMMIT].head.linear.weight)


def test_a_revision_that_is_not_there(two_versions: dict[str, effvit.EfficientViT]) -> None:
    with pytest.raises(WeightsError, match=r"cannot fetch someone/pets .*\(it has no revision '?v3'?\)"):
        effvit.load("someone/pets@v3")


def test_no_network_says_what_to_do(hub: Hub, published: effvit.EfficientViT) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(WeightsError) as caught:
        effvit.create_model(M0, weights="imagenet")
    message = str(caught.value)
    place = by_hand("timm/efficientvit_m0.r224_in1k")
    assert "\n" not in message
    assert "cannot fetch timm/efficientvit_m0.r224_in1k from the Hugging Face Hub" in message
    assert f"put the repository's model.safetensors at {place}" in message
    # ... and that is true:
    place.parent.mkdir(parents=True)
    place.write_bytes(hub.repositories["timm/efficientvit_m0.r224_in1k"]["model.safetensors"])
    model = effvit.create_model(M0, weights="imagenet")
    assert torch.equal(model.head.linear.weight, published.head.linear.weight)
    assert find_weights("imagenet", M0).info.provenance["by_hand"] is True


def test_no_network_is_one_line_on_the_screen(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    """The Hub's client would try for half a minute, and comment on each attempt."""
    hub.server.shutdown()
    hub.server.server_close()
    assert run(["export", M0, "--weights", "imagenet"]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: cannot fetch") and errors.count("\n") == 1


def test_a_mistyped_run_does_not_go_to_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    for name in ("runs/m0-9", "experiments/m0-9"):
        with pytest.raises(WeightsError, match=f"no weights at {name}: no such file or folder"):
            effvit.load(name)
    assert hub.requests == []


@pytest.mark.usefixtures("published")
def test_offline_variable_is_honoured(
    hub: Hub, published: effvit.EfficientViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    effvit.create_model(M0, weights="imagenet")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    effvit.create_model(M0, weights="imagenet")
    assert hub.requests == []
    with pytest.raises(WeightsError, match=r"cannot fetch someone/else .*not in the cache"):
        effvit.load("someone/else")


def test_repositories_that_do_not_serve(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=r"cannot fetch no/body .*no such repository, or it is private"):
        effvit.load("no/body")
    hub.repositories["half/empty"] = {"README.md": b""}
    with pytest.raises(WeightsError, match=r"cannot fetch half/empty .*it has no model.safetensors"):
        effvit.load("half/empty")


def test_names() -> None:
    assert imagenet_repository("efficientvit_m3") == "timm/efficientvit_m3.r224_in1k"
    with pytest.raises(WeightsError, match="no published ImageNet weights: unknown model 'efficientvit_tiny'"):
        imagenet_repository("efficientvit_tiny")
    assert is_repository("a/b") and is_repository("hf-hub:a/b.c@v1.0")
    assert not any(map(is_repository, ("a", "a/b/c", "/a/b", "./b", "../b", "a/", "weights.pth")))
    with pytest.raises(WeightsError, match="'a/b/c' is no Hub id"):
        fetch("a/b/c")


def test_a_path_comes_before_a_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = effvit.create_model("efficientvit_tiny", num_classes=2)
    effvit.save(Path("someone/pets"), model)
    twin, _ = effvit.load("someone/pets")
    assert torch.equal(twin.head.linear.weight, model.head.linear.weight)
    assert hub.requests == []


def test_a_missing_path_is_not_taken_for_a_repository() -> None:
    with pytest.raises(WeightsError, match="no weights at weights/missing: no such file or folder"):
        effvit.load("./weights/missing")

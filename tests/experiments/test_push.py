"""Publishing: what is sent to the hub, against a server of our own, and what is said when it cannot be sent."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from finished_run import finished_run

from contrastive.encoder import Encoder
from contrastive.encoder.adapters import LoRA
from contrastive.encoder.two_towers import TwoTowers
from experiments.push import __main__ as push

ROOT = Path(__file__).parents[2]
MODEL_FILES = {"config.json", "model.safetensors", "modules.json", "tokenizer.json", "1_Pooling/config.json"}


@dataclass
class Hub:
    """What a small imitation of the hub was sent: method and path, token and body of each request."""

    url: str
    refuses: int = 0
    has_repository: bool = False
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        return [request for request, _, _ in self.requests]

    def body(self, request: str) -> str:
        return next(body for asked, _, body in self.requests if asked == request)

    def committed(self, request: str = "POST /api/models/me/help/commit/main") -> dict[str, str]:
        lines = [json.loads(line) for line in self.body(request).splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        return {file["path"]: base64.b64decode(file["content"]).decode(errors="replace") for file in files}

    def answer(self, path: str, body: str) -> dict[str, Any]:
        if path.endswith("/create"):
            return {"url": f"{self.url}/me/help"}
        if path.endswith("/validate-yaml"):
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]}
        return {"commitUrl": f"{self.url}/me/help/commit/1", "commitOid": "1" * 40}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            if self.command == "POST":  # the client also asks for things of its own
                served.requests.append((f"POST {self.path}", self.headers["Authorization"], body))
            content = json.dumps({"error": "no"} if served.refuses else served.answer(self.path, body)).encode()
            exists = served.has_repository and self.path.endswith("/create")
            self.send_response(served.refuses or (409 if exists else 200))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Hub(f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield served
        server.shutdown()


@pytest.fixture
def run(tiny_encoder: Encoder, tmp_path: Path) -> Path:
    folder = finished_run(tmp_path / "run", tiny_encoder)
    for extra in ("checkpoints/best.ckpt", "wandb/run.wandb", "model/checkpoint-5/model.bin", "model/.cache/x"):
        (folder / extra).parent.mkdir(parents=True)
        (folder / extra).write_text("not to be uploaded")
    return folder


def test_a_run_is_published_in_one_commit(run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    push.main([str(run), "--repo-id", "me/help", "--private", "--licence", "mit", "--message", "First"])
    assert hub.asked == [
        "POST /api/repos/create",
        "POST /api/validate-yaml",
        "POST /api/models/me/help/preupload/main",
        "POST /api/models/me/help/commit/main",
    ]
    assert {token for _, token, _ in hub.requests} == {"Bearer hf_secret"}
    created = json.loads(hub.body("POST /api/repos/create"))
    assert (created["organization"], created["name"], created["visibility"]) == ("me", "help", "private")
    files = hub.committed()
    assert set(files) >= {*MODEL_FILES, "README.md", "training/config.yaml", "training/metrics.json"}
    assert not any("not to be uploaded" in content for content in files.values())
    assert "license: mit" in files["README.md"]
    assert 'SentenceTransformer("me/help")' in files["README.md"]
    assert '"summary": "First"' in hub.body("POST /api/models/me/help/commit/main")
    assert f"uploaded to {hub.url}/me/help" in capsys.readouterr().out


def test_nothing_of_this_machine_is_published(run: Path, hub: Hub) -> None:
    push.main([str(run), "--repo-id", "me/help"])
    files = hub.committed()
    assert json.loads(files["training/metrics.json"])["git"]["changed_files"] is True
    assert "path: help-pages" in files["training/config.yaml"]
    for name, content in files.items():
        for private in ("someone", "secret-plan", str(run.parent)):
            assert private not in content, name


@pytest.mark.parametrize(("hub_name", "published"), [("org/base", "org/base"), (None, "tiny")])
def test_an_adapter_names_its_base_model_as_others_find_it(
    hub_name: str | None, published: str, tiny_model_folder: Path, tmp_path: Path, hub: Hub
) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, lora=LoRA(rank=2))
    report = {"base_models": [{"name": "tiny", "hub": hub_name, "licence": None}]}
    push.main([str(finished_run(tmp_path / "run", encoder, report=report)), "--repo-id", "me/help"])
    files = hub.committed()
    assert json.loads(files["adapter/adapter_config.json"])["base_model_name_or_path"] == published
    assert not any(str(tiny_model_folder.parent) in content for content in files.values())


def test_a_repository_is_not_private_unless_asked_and_a_branch_is_made(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "model")  # the model of a run stands for the run
    push.main([".", "--repo-id", "me/help", "--branch", "seed-7"])
    assert "visibility" not in json.loads(hub.body("POST /api/repos/create"))
    assert "POST /api/models/me/help/branch/seed-7" in hub.asked
    assert "training/metrics.json" in hub.committed("POST /api/models/me/help/commit/seed-7")


def test_a_repository_that_exists_gets_another_commit(run: Path, hub: Hub) -> None:
    hub.has_repository = True
    push.main([str(run), "--repo-id", "me/help"])
    assert "model.safetensors" in hub.committed()


def test_a_model_without_a_run_is_published_as_it_is(tiny_encoder: Encoder, tmp_path: Path, hub: Hub) -> None:
    tiny_encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "README.md").write_text("---\nlicense: mit\n---\nmine")
    push.main([str(tmp_path / "encoder"), "--repo-id", "me/help"])
    files = hub.committed()
    assert set(files) >= {*MODEL_FILES, "README.md"}
    assert files["README.md"] == "---\nlicense: mit\n---\nmine"
    assert not any(name.startswith("training/") for name in files)
    with pytest.raises(SystemExit, match="error: expected --licence with a run"):
        push.main([str(tmp_path / "encoder"), "--repo-id", "me/help", "--licence", "mit"])


def test_two_towers_without_a_run_are_a_model_too(tiny_encoder: Encoder, tmp_path: Path, hub: Hub) -> None:
    TwoTowers(tiny_encoder, tiny_encoder).save_pretrained(tmp_path / "towers")
    push.main([str(tmp_path / "towers"), "--repo-id", "me/help"])
    assert set(hub.committed()) >= {"two_towers.json", "query/model.safetensors", "document/model.safetensors"}


def test_a_dry_run_shows_everything_and_sends_nothing(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    push.main([str(run), "--repo-id", "me/help", "--dry-run"])
    printed = capsys.readouterr().out
    assert "# tiny, fine-tuned for search on help-pages" in printed
    size = (run / "model" / "model.safetensors").stat().st_size
    assert f"{size / 1e6:.3f} MB  model.safetensors" in printed
    assert "for me/help; nothing was sent" in printed
    assert hub.requests == []
    assert not (run / "model" / "README.md").exists()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"\(401\): it does not know the token: log in again with `hf auth login`.* Nothing is lost"),
        (403, r"\(403\): the token may not write to me/help"),
        (500, r"the hub refused \(500\)"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, message: str, run: Path, hub: Hub) -> None:
    hub.refuses = status
    with pytest.raises(SystemExit, match=message):
        push.main([str(run), "--repo-id", "me/help"])
    assert not any("/commit/" in asked for asked in hub.asked)


def test_without_a_token_nothing_is_sent(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(SystemExit, match="error: expected a token of the hub: log in with `hf auth login`, or set HF_"):
        push.main([str(run), "--repo-id", "me/help"])
    assert hub.requests == []


def test_without_a_network_nothing_is_lost(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(SystemExit, match=r"the hub cannot be reached .* Nothing is lost: the model is in"):
        push.main([str(run), "--repo-id", "me/help"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="HF_HUB_OFFLINE is set"):
        push.main([str(run), "--repo-id", "me/help"])
    assert hub.requests == []


@pytest.mark.parametrize(
    "link",
    ["model/tokenizer_config.json", "model/1_Pooling/config.json", "model/2_Dense", "model", "config.yaml"],
)
def test_a_link_that_leaves_the_folder_is_refused_by_name(link: str, run: Path, hub: Hub) -> None:
    place, elsewhere = run / link, run.parent / "elsewhere"
    if place.exists():
        place.rename(elsewhere)  # what it leads to is even good
    else:
        elsewhere.mkdir()
    place.symlink_to(elsewhere)
    with pytest.raises(SystemExit, match=f"expected {place} to be inside {run}.*, it is a link to {elsewhere}"):
        push.main([str(run), "--repo-id", "me/help"])
    assert hub.requests == []


def test_links_inside_the_folder_are_followed_and_other_files_left_out(
    run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run / "model"
    (model / "adapter").mkdir()
    (model / "config.json").rename(model / "adapter" / "config.json")
    (model / "config.json").symlink_to("adapter/config.json")
    (model / "3_Other").symlink_to("adapter")
    (model / "adapter" / "query").symlink_to("..")
    for other in ("notes.txt", "credentials.json", "weights.pt", "1_Pooling/keys.json"):
        (model / other).write_text("private")
    push.main([str(run), "--repo-id", "me/help"])
    files = hub.committed()
    assert {"config.json", "3_Other/config.json", "adapter/config.json"} <= set(files)
    assert "private" not in files.values()
    left_out = capsys.readouterr().err
    assert (
        "left out, no part of a model: .cache, 1_Pooling/keys.json, 3_Other/query, adapter/query, checkpo" in left_out
    )


@pytest.mark.parametrize(
    ("folder", "repo_id", "message"),
    [
        ("", "me/help", "expected a finished run, the status of .* is 'interrupted'"),
        ("checkpoints", "me/help", "expected the folder of a finished run or of a model, found neither in"),
        ("no-such-folder", "me/help", "expected the folder of a finished run or of a model, found neither in"),
        ("", "help", "expected --repo-id as org/name, got 'help'"),
        ("", "me/he lp", "error: .*he lp"),
    ],
)
def test_what_cannot_be_published_is_refused_at_once(
    folder: str, repo_id: str, message: str, run: Path, hub: Hub
) -> None:
    report = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**report, "status": "interrupted"}))
    with pytest.raises(SystemExit, match=message):
        push.main([str(run / folder), "--repo-id", repo_id])
    assert hub.requests == []


def test_the_program_finds_the_hub_by_its_usual_variables(run: Path, hub: Hub) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_other", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "experiments.push", str(run), "--repo-id", "me/help"]
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "uploaded to" in answer.stdout
    assert {token for _, token, _ in hub.requests} == {"Bearer hf_other"}
    assert "model.safetensors" in hub.committed()

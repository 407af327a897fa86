"""A small HTTP server with vLLM's routes, for the tests of `rollout.mode=serve` that need no vLLM.

Token i of a response is a number that its seed and i decide, whoever samples it, so that tests see which responses came back.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from pipeline.rollout.vllm.serve import wire

FACTS = {"backend": wire.BACKEND, "dtype": "float32", "max_tokens": 64, "logprobs_mode": "processed_logprobs"}


def tokens_of(seed: int, most: int) -> list[int]:
    return [(seed * 31 + i * 7) % 97 for i in range(most)]


class StandIn:
    """One server. `lose` closes its port and the connections under way; `start` opens it again, as a new process would."""

    def __init__(self, facts: dict[str, Any] | None = None, key: str | None = None):
        self.facts, self.key = FACTS | (facts or {}), key
        self.label, self.is_paused = "default", False
        self.held: dict[str, torch.Tensor] = {}
        self.asked: list[str] = []
        """Paths of all requests."""
        self.most = self.now = 0
        """Most requests for tokens at once, and those at present."""
        self.before: Callable[[], None] | None = None
        """Called before tokens are given; may raise to answer with HTTP 500."""
        self.lock = threading.Lock()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.label, self.is_lost, self.stream = "default", False, None
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def lose(self) -> None:
        self.is_lost = True
        self.http.shutdown()
        self.http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None: ...

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                path = self.path.partition("?")[0]
                server.asked.append(path)
                authorised = self.headers.get("Authorization") == f"Bearer {server.key}"
                if server.key and path.startswith("/inference") and not authorised:
                    return self.answer(401, {"error": "Unauthorized"})
                try:
                    status, content = 200, server.reply(path, body)
                except LookupError as error:
                    status, content = 404, {"error": {"message": f"no route {error}"}}
                except Exception as error:
                    status, content = 500, {"error": {"message": str(error)}}
                if server.is_lost:
                    self.connection.close()
                else:
                    self.answer(status, content)

            def answer(self, status: int, content: Any) -> None:
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        return Handler

    def reply(self, path: str, body: Any) -> Any:
        """The JSON of the answer."""
        match path:
            case "/health":
                return {}
            case "/version":
                return {"version": "0.32.0"}
            case "/weight_info":
                return {"weight_version": self.label}
            case "/get_world_size":
                return {"world_size": 1}
            case "/collective_rpc":
                return {"results": [dict(self.facts)]}
            case "/inference/v1/generate":
                return self.generate(body)
            case "/init_weight_transfer_engine":
                info = body["init_info"]["info"]
                self.stream = socket.create_connection((info["host"], info["port"]), 20)
                wire.send_header(self.stream, {"token": info["token"], "rank": 0})
                return {}
            case "/update_weights":
                pieces = wire.read_pieces(self.stream, torch.device("cpu"))
                self.held = {name: rows.clone() for name, _, rows in pieces}
                return {}
            case "/finish_weight_update":
                self.label = body["weight_version"]
                return {}
            case "/pause" | "/resume":
                self.is_paused = path == "/pause"
                return {}
            case "/start_weight_update":
                return {}
            case "/reset_prefix_cache":
                return {"success": True}
        raise LookupError(path)

    def generate(self, body: Any) -> Any:
        if not body:
            raise RuntimeError("empty")
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if self.before is not None:
                self.before()
            time.sleep(0.002)
        finally:
            with self.lock:
                self.now -= 1
        params = body["sampling_params"]
        tokens = tokens_of(params.get("seed", 0), params["max_tokens"])
        content = [{"token_id": token, "logprob": -float(token)} for token in tokens]
        spans = [{"version": self.label, "start": 0, "end": len(tokens)}]
        choice = {
            "token_ids": tokens,
            "finish_reason": "length",
            "logprobs": {"content": content},
            "weight_versions": spans,
        }
        scored = [None, *({str(token): {"logprob": -float(token)}} for token in body["token_ids"][1:])]
        return {"choices": [choice], "prompt_logprobs": scored}

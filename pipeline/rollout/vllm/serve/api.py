"""What one server can do, under the names of vLLM 0.32's routes.

Routes for weights (vllm/entrypoints/rl, with VLLM_SERVER_DEV_MODE=1), for tokens (vllm/entrypoints/scale_out, with
`--enable-scale-out`), and about the server (vllm/entrypoints/serve).
"""

from dataclasses import dataclass
from typing import Any

from pipeline.rollout.interface import Sampling
from pipeline.rollout.vllm.serve.http import Http, LostError, ServerError
from pipeline.rollout.vllm.serve.wire import BACKEND

TRIED = "0.32"
"""The vLLM that these names are of."""
QUICK_SECONDS = 10.0
"""Longest wait for an answer about the server, which asks nothing of its model."""
EXTENSION = "pipeline.rollout.vllm.serve.extension.Extension"
GENERATE = "/inference/v1/generate"
BACKENDS = (BACKEND, "nccl")


@dataclass(frozen=True)
class Facts:
    """What a server says about itself."""

    version: str
    backend: str | None
    """Of weight transfer."""
    dtype: str
    max_tokens: int
    logprobs_mode: str
    extended: bool
    """It has our worker extension."""
    workers: int
    """Processes that hold weights."""


@dataclass(frozen=True)
class Wanted:
    """What a run needs of its servers."""

    dtype: str
    """`float32` or `bfloat16`."""
    max_tokens: int
    """Of prompt and response together."""


@dataclass(frozen=True)
class Sampled:
    """One response, or the part of it that was asked for."""

    token_ids: list[int]
    logps: list[float]
    """Under the distribution it was sampled from."""
    stopped: bool
    label: str | None
    """Name of the weights that sampled it; None where there was more than one, or none is known."""


class Api:
    """The routes of one server. All methods raise LostError, and ServerError if the server refuses."""

    def __init__(self, http: Http):
        self.http = http

    # About the server ------------------------------------------------------------------------------------------------

    def is_up(self) -> bool:
        try:
            return self.http.ask("GET", "/health", seconds=QUICK_SECONDS)[0] == 200
        except LostError:
            return False

    def label(self) -> str:
        """The name of the weights that the server holds."""
        return str(self.http.get("/weight_info", QUICK_SECONDS)["weight_version"])

    def facts(self) -> Facts:
        """Asks the server. Raises ServerError naming the option that it was started without."""
        lacks = [
            f"{what} ({path} answers HTTP {status})"
            for method, path, what in (
                ("GET", "/weight_info", "VLLM_SERVER_DEV_MODE=1 in its environment"),
                ("POST", GENERATE, "--enable-scale-out"),
            )
            if (status := self.http.ask(method, path, {} if method == "POST" else None, QUICK_SECONDS)[0]) in (403, 404, 405)
        ]  # fmt: skip
        version = str((self.http.get("/version", QUICK_SECONDS) or {}).get("version", "unknown"))
        if lacks:
            raise ServerError(
                f"the vLLM server {self.http.url} (version {version}; {TRIED} is supported) was started without "
                f"{' and '.join(lacks)}: see docs/rollout.md"
            )
        try:
            workers = int(self.http.get("/get_world_size", QUICK_SECONDS)["world_size"])
            return Facts(version=version, workers=workers, **self._config())
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(
                f"the vLLM server {self.http.url} has version {version}, whose /server_info or /get_world_size is not that of "
                f"{TRIED}: {error} is missing or has another form"
            ) from error

    def _config(self) -> dict[str, Any]:
        """The rest of the facts: from our extension, or from a route that collects much more and takes seconds."""
        try:
            return self.http.post("/collective_rpc", {"method": "etr_facts"})["results"][0] | {"extended": True}
        except LostError:
            config = self.http.get("/server_info?config_format=json")["vllm_config"]
        model = config["model_config"]
        return {
            "backend": (config.get("weight_transfer_config") or {}).get("backend"),
            "dtype": str(model["dtype"]).removeprefix("torch."),
            "max_tokens": int(model["max_model_len"]),
            "logprobs_mode": str(model["logprobs_mode"]),
            "extended": False,
        }

    # Generation ------------------------------------------------------------------------------------------------------

    def generate(self, token_ids: list[int], sampling: Sampling, seed: int, most: int) -> Sampled:
        """Continues `token_ids` by at most `most` tokens."""
        params = {
            "max_tokens": most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": seed,
            "stop": list(sampling.stop) or None,
            "include_stop_str_in_output": True,
            "stop_token_ids": list(sampling.stop_token_ids) or None,
            "ignore_eos": True,  # only stop tokens and strings end a response
            "logprobs": 0,  # of the sampled token alone
            "detokenize": bool(sampling.stop),
            "skip_special_tokens": False,
        }
        choice = self._choice(token_ids, params)[1]
        reason, tokens = choice.get("finish_reason"), choice["token_ids"]
        if reason not in ("stop", "length"):
            raise LostError(f"{GENERATE} ended a response with finish_reason={reason}")
        logps = [float(entry["logprob"]) for entry in choice["logprobs"]["content"]]
        if not tokens or len(logps) != len(tokens):
            raise LostError(f"{GENERATE} gave {len(tokens)} tokens and {len(logps)} log-probs")
        return Sampled(tokens, logps, reason == "stop", _label(choice))

    def score(self, token_ids: list[int]) -> tuple[list[float], str | None]:
        """The log-probs (nats, raw policy) of every token except the first, and the name of the weights."""
        params = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        reply, choice = self._choice(token_ids, params)
        rows = reply["prompt_logprobs"][1:]
        return [float(row[str(token)]["logprob"]) for row, token in zip(rows, token_ids[1:], strict=True)], _label(
            choice
        )

    def _choice(self, token_ids: list[int], params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        reply = self.http.post(GENERATE, {"token_ids": token_ids, "sampling_params": params})
        try:
            return reply, reply["choices"][0]
        except (TypeError, LookupError) as error:
            raise LostError(f"{GENERATE} answered without choices") from error

    # Weights ---------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Drops requests that are still there: a trainer that ended may have left them."""
        self.http.post("/pause?mode=abort")

    def resume(self) -> None:
        """Takes requests again, none of which may read what older weights left in the prefix cache."""
        if not self.http.post("/reset_prefix_cache")["success"]:
            raise LostError("/reset_prefix_cache found requests that still run")
        self.http.post("/resume")

    def init_transfer(self, info: dict[str, Any]) -> None:
        """Connects the server's workers to the trainer. Returns when they are."""
        self.http.post("/init_weight_transfer_engine", {"init_info": info})

    def start_update(self) -> None:
        """Begins an update; one that a trainer left unfinished is given up."""
        try:
            self.http.post("/start_weight_update")
        except LostError:
            self.http.post("/finish_weight_update", {})
            self.http.post("/start_weight_update")

    def update(self, info: dict[str, Any]) -> None:
        """Has the workers receive weights. Returns when they have."""
        self.http.post("/update_weights", {"update_info": info})

    def finish_update(self, label: str) -> None:
        """Ends the update and names the new weights."""
        self.http.post("/finish_weight_update", {"weight_version": label})

    def checksums(self) -> list[dict[str, tuple[int, int, int, float]]]:
        """The checksums of each worker's weights; for servers with our extension."""
        held = self.http.post("/collective_rpc", {"method": "etr_checksums"})["results"]
        return [
            {name: (dim, first, length, float.fromhex(total)) for name, (dim, first, length, total) in worker.items()}
            for worker in held
        ]


def _label(choice: dict[str, Any]) -> str | None:
    labels = {str(span["version"]) for span in choice.get("weight_versions") or ()}
    return labels.pop() if len(labels) == 1 else None


def misfits(facts: Facts, wanted: Wanted) -> list[str]:
    """What a server was started with that does not fit the run, as options that do."""
    found = []
    if facts.backend not in BACKENDS:
        has = f"{facts.backend} is not supported" if facts.backend else "none is set"
        found.append(f'--weight-transfer-config \'{{"backend": "{BACKEND}"}}\', or nccl on GPUs ({has})')
    if facts.backend == BACKEND and not facts.extended:
        found.append(f"--worker-extension-cls {EXTENSION}")
    if facts.dtype != wanted.dtype:
        found.append(f"--dtype {wanted.dtype} (it is {facts.dtype})")
    if facts.max_tokens < wanted.max_tokens:
        found.append(f"--max-model-len {wanted.max_tokens} or more (it is {facts.max_tokens})")
    if facts.logprobs_mode != "processed_logprobs":
        found.append(f"--logprobs-mode processed_logprobs (it is {facts.logprobs_mode})")
    return found

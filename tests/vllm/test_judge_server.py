"""The judge asks a real vLLM server over its OpenAI API, as `vllm serve` of a verifier model is asked.

The model is tiny, and its weights are set so that each token decides the next: an answer that ends in 3 is labelled A, one that
ends in 4 is labelled B, and one that ends in 5 gets talk without end. So one server shows all that a judge can meet: a label
that overturns, one that does not, and a reply that must fail closed. Not covered: how well a real verifier model judges.
"""

import contextlib
import importlib.util
import json
import os
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ranks import ROOT, free_port
from tiny_models import hf_model, tiny_model

from pipeline.rl.grading import Grader
from pipeline.rollout.interface import Prompt, Rollout
from pipeline.settings import Verify
from pipeline.verify.judge import Judge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
    ),
]

PIECES = ["<end>", *string.ascii_letters, *string.digits, " "]
NEXT = {"3": "A", "A": "<end>", "4": "B", "B": "<end>", "5": "x", "x": "y", "y": "x"}
"""Token -> the one that follows."""
TEMPLATE = "{{ messages[1]['content'][-3] }}"
"""The prompt is the last character of the candidate, which ends the JSON object that the judge sends."""


def save_model(folder: Path) -> None:
    """Writes the model and its tokenizer of single characters. Attention and MLP add nothing, embeddings are one-hot, and the
    head holds `NEXT`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    shape = tiny_model("llama", hidden_size=128, head_dim=32, vocab_size=len(PIECES), num_layers=1)
    hf = hf_model(shape)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        hf.model.norm.weight.fill_(1.0)
        hf.model.embed_tokens.weight.copy_(torch.eye(len(PIECES), 128))
        for token, following in NEXT.items():
            hf.lm_head.weight[PIECES.index(following), PIECES.index(token)] = 1.0
    hf.config.eos_token_id = hf.generation_config.eos_token_id = 0
    hf.save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token=" "))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", clean_up_tokenization_spaces=False)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def vllm_server(folder: Path) -> Iterator[str]:
    """Serves the folder's model as `verifier`; yields the address."""
    port, log = free_port(), folder / "server.log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "verifier",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "64", "--enforce-eager",
        "--max-num-seqs", "8",
    ]  # fmt: skip
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with open(log, "wb") as file:
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | own, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/health", server, log)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text("utf-8", "replace")[-4000:]
            assert time.monotonic() < deadline, log.read_text("utf-8", "replace")[-4000:]
            time.sleep(0.2)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("verifier")
    save_model(folder)
    with vllm_server(folder) as found:
        yield found


QUESTIONS = [("On which day is it?", f"May {day}", "the third of May") for day in (3, 4, 5)]


def test_a_label_overturns_and_talk_fails_closed(address: str) -> None:
    judge = Judge(address, "verifier", 60.0, 3)
    assert judge.review(QUESTIONS) == [True, False, False]
    assert judge.metrics() == {"judge_asked": 3.0, "judge_overturned": 1.0, "judge_failed": 1.0}
    assert judge.review(QUESTIONS[:2]) == [True, False]  # remembered
    talk = said(address, QUESTIONS[2])
    assert len(talk) == 8  # as many tokens as a label may have
    assert set(talk) == {"x", "y"}


def said(address: str, question: tuple[str, str, str]) -> str:
    """What the server replies to the judge's own request."""
    from pipeline.verify.judge import messages

    body = {"model": "verifier", "messages": messages(question), "temperature": 0, "max_tokens": 8}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]


def test_a_model_that_the_server_does_not_serve_fails_closed(address: str) -> None:
    judge = Judge(address, "another", 60.0, 1)
    assert judge.review(QUESTIONS[:1]) == [False]
    assert judge.metrics()["judge_failed"] == 1.0


def test_a_step_is_graded_with_the_server(address: str) -> None:
    prompt = Prompt(id="p", token_ids=[1], gold="the third of May", text="On which day is it?")
    group = [
        Rollout(
            prompt=prompt, sample=day, token_ids=[1], logps=[-0.5], raw_logps=[-0.5], finish_reason="stop", policy_version=0,
            text=rf"It is \boxed{{May {day}}}",
        ) for day in (3, 4, 5)
    ]  # fmt: skip
    verify = Verify(workers=1, judge=address, judge_model="verifier", judge_timeout_s=60)
    with Grader(verify, 100) as grader:
        graded = grader.grade([group])
        assert graded.correct.tolist() == [[1.0, 0.0, 0.0]]
        assert graded.grades[0][0].layer == "judge"
        assert grader.metrics()["judge_overturn_rate"] == pytest.approx(1 / 3)

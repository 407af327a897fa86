r"""Instructions that published data sets put around their problems, such as DAPO's "the last line of your response should be of
the form Answer: $Answer". They are removed, because they ask for another form than `data.instruction` does."""

import re

_BOX = r"(?:\$?\\+boxed\s*\{[^{}]*\}\$?|\$?\\+boxed\$?|a box|\"####\"|####)"
_THINK = r"(?:Please )?(?:let'?s )?(?:think|reason) step by step"
_PUT = r"(?:put|give|write|output|place|enclose|present) (?:your|the) (?:final )?answer (?:within|in|inside|after)"
_CHINESE = (
    r"(?:让我们一步一步地思考。\s*)?请以[“\"]Answer: ?\\+boxed\{<final_answer>\}[”\"]的格式输出最终答案。"
    r"(?:如果是选择题，.{0,120}?数值。)?"
    r"|请逐步推理[，,]\s*并将(?:你的)?最终答案放在?\s*\\+boxed\s*\{\}\s*(?:中|内|里)[。.]?"
)
_START = re.compile(
    r"(?:"
    r"Solve the following math problem step by step\.\s*The last line of your response should be of the form Answer:\s*"
    r"\S+ \(without quotes\) where \S+ is the answer to the problem\."
    r"|Solve the following math problem efficiently and clearly[.:].{0,600}?Think step by step before answering\."
    r"|(?:Please )?(?:solve|answer) the (?:following )?(?:math )?(?:problem|question) step by step[.:]"
    rf"|{_THINK},? and {_PUT} {_BOX}\."
    r")\s*",
    re.I | re.S,
)
_END = re.compile(
    r"\s*(?:"
    r"Remember to put your answer on its own line after \"Answer:\"\.?"
    rf"|{_THINK},?(?: and)? (?:then )?{_PUT} {_BOX}\.?"
    rf"|(?:Please )?{_PUT} {_BOX}\.?"
    r"|Present the answer in LaTex format: \\+boxed\{Your answer\}\.?"
    r"|(?:Please )?let'?s think step by step\.?"
    rf"|{_CHINESE}"
    r")\s*$",
    re.I | re.S,
)
_TEMPLATED = ("<|im_start|>", "<|start_header_id|>", "[INST]", "<|user|>", "<\uff5cUser\uff5c>")


def unwrapped(problem: str) -> str:
    """The problem without known instructions before and after it; as it is where nothing else would be left."""
    text = problem
    while True:
        inner = _END.sub("", text)
        start = _START.match(inner)
        inner = inner[start.end() :] if start else inner
        if inner == text:
            return text
        if not inner.strip():
            return problem
        text = inner


def chat_marker(problem: str) -> str | None:
    """A chat template's marker in the text: it is a rendered prompt, not a problem."""
    return next((marker for marker in _TEMPLATED if marker in problem), None)

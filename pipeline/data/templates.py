"""How a problem becomes a prompt."""

from typing import Any

from pipeline.errors import UsageError
from pipeline.settings import Data


def template_of(data: Data, tokenizer: Any) -> str:
    """`plain`, `chat` or `bare`: what `auto` comes to for this tokenizer.

    Raises UsageError where `chat` is asked for and the tokenizer has no chat template.
    """
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if data.template == "chat" and not has_chat:
        raise UsageError("data.template=chat, but the tokenizer has no chat template; take data.template=plain")
    if data.template == "auto":
        return "chat" if has_chat else "plain"
    return data.template


def render(problem: str, data: Data, tokenizer: Any) -> str:
    """The prompt as text, up to where the response begins."""
    template = template_of(data, tokenizer)
    if template == "bare":
        return problem
    question = f"{problem}\n{data.instruction}" if data.instruction else problem
    if template == "plain":
        return f"Question: {question}\nAnswer:"
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode_prompt(problem: str, data: Data, tokenizer: Any) -> list[int]:
    """Token ids of the prompt. Text in a problem that looks like a special token stays text.

    A chat template's own special tokens are kept: the template is rendered around a placeholder, and only the problem
    between its halves is encoded without special tokens.
    """
    template = template_of(data, tokenizer)
    if template != "chat":
        return _as_text(render(problem, data, tokenizer), tokenizer)
    mark = "\u241f"  # a symbol that no template and no problem has
    before, after = render(mark, data, tokenizer).split(mark)
    ids = tokenizer.encode(before, add_special_tokens=False)
    ids += _as_text(problem, tokenizer)
    return ids + tokenizer.encode(after, add_special_tokens=False)


def _as_text(text: str, tokenizer: Any) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

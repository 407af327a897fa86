"""How a problem becomes a prompt."""

from functools import lru_cache
from typing import Any

from pipeline.common.errors import UsageError
from pipeline.settings import Data


def template_of(data: Data, tokenizer: Any) -> str:
    """`plain`, `chat` or `bare`: what `auto` means for this tokenizer.

    Raises UsageError where `chat` is set and the tokenizer has no chat template, or `bare` with a system prompt.
    """
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if data.template == "chat" and not has_chat:
        raise UsageError("data.template=chat, but the tokenizer has no chat template. Set data.template=plain")
    template = ("chat" if has_chat else "plain") if data.template == "auto" else data.template
    if template == "bare" and data.system_prompt:
        raise UsageError(
            "data.system_prompt is set, and data.template=bare shows the problem alone. Set data.template=plain"
        )
    return template


def render(problem: str, data: Data, tokenizer: Any) -> str:
    """The prompt as text, up to where the response begins.

    Raises UsageError where the tokenizer's chat template fails, or data.template cannot show data.system_prompt.
    """
    template = template_of(data, tokenizer)
    if template == "bare":
        return problem
    question = f"{problem}\n{data.instruction}" if data.instruction else problem
    if template == "plain":
        opening = f"{data.system_prompt}\n\n" if data.system_prompt else ""
        return f"{opening}Question: {question}\nAnswer:"
    messages = [{"role": "user", "content": question}]
    if data.system_prompt:
        messages.insert(0, {"role": "system", "content": data.system_prompt})
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's author, and may raise anything
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        remedy = " or remove data.system_prompt" if data.system_prompt else ""
        raise UsageError(f"the tokenizer's chat template fails: {said}. Set data.template=plain{remedy}") from error


def encode_prompt(problem: str, data: Data, tokenizer: Any) -> list[int]:
    """Token ids of the prompt. Text in a problem that looks like a special token stays text.

    Plain and bare prompts open as the tokenizer opens a text (Llama's with `<|begin_of_text|>`, Qwen's with nothing). A chat
    prompt is encoded whole, as serving engines do, so that tokens which span the problem's edge are the usual ones; only
    a problem that holds a special token's text is encoded by itself, between the template's halves.

    Raises UsageError where the chat template does not show the problem exactly once.
    """
    text = render(problem, data, tokenizer)
    if template_of(data, tokenizer) != "chat":
        return _opening(tokenizer) + _as_text(text, tokenizer)
    if problem in text and not any(special in problem for special in _special(tokenizer)):
        return tokenizer.encode(text, add_special_tokens=False)
    mark = "\u241f"  # a symbol that no template and no problem has
    halves = render(mark, data, tokenizer).split(mark)
    if len(halves) != 2:
        raise UsageError(
            f"the tokenizer's chat template shows a message {len(halves) - 1} times, so problems cannot be put into it. Set "
            "data.template=plain"
        )
    ids = tokenizer.encode(halves[0], add_special_tokens=False)
    ids += _as_text(problem, tokenizer)
    return ids + tokenizer.encode(halves[1], add_special_tokens=False)


@lru_cache(maxsize=8)
def _opening(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before any text."""
    first = tokenizer.bos_token_id
    return [first] if first is not None and tokenizer.encode("")[:1] == [first] else []


@lru_cache(maxsize=8)
def _special(tokenizer: Any) -> frozenset[str]:
    """Texts of all special tokens, also of those without a role (`<|im_start|>` of Qwen's)."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return frozenset([*tokenizer.all_special_tokens, *added])


def _as_text(text: str, tokenizer: Any) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

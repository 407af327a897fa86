"""Problems that are given as a chat: a list of messages with roles, as the training sets of other RL projects have them."""

import json
from typing import Any

from pipeline.data.answers import RowError

ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "developer": "system"}
"""Other names of roles."""


def is_chat(value: Any) -> bool:
    """Whether `value` is a list of messages."""
    return isinstance(value, list) and bool(value) and all(_role(message) is not None for message in value)


def from_text(value: Any) -> Any:
    """A list of messages that is written as JSON text; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return parsed if is_chat(parsed) else value
    return value


def read_chat(messages: list[dict[str, Any]]) -> tuple[str, str | None, Any]:
    """(the user's message, the assistant's, the answer that the assistant's message carries apart from its text).

    A system message is not part of the problem: prompts are made of `data.system_prompt` and `data.instruction`.

    Raises RowError where there is no user message, there are several, or one holds more than text.
    """
    users = [message for message in messages if _role(message) == "user"]
    if len(users) != 1:
        raise RowError(
            "not one user message", f"{len(users)} of {len(messages)} messages are the user's; one is wanted"
        )
    after = messages[messages.index(users[0]) + 1 :]
    reply = next((message for message in after if _role(message) == "assistant"), {})
    said = _content(reply)
    gold = reply.get("ground_truth")
    gold = gold.get("value") if isinstance(gold, dict) else gold
    return text_of(_content(users[0])), text_of(said) if said else None, gold


def text_of(content: Any) -> str:
    """Text of a message's content: text, or a list of parts that are all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError("wrong type", f"a message's content is of type {type(content).__name__}; text is wanted")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = part.get("type", "unknown") if isinstance(part, dict) else type(part).__name__
            raise RowError("wrong type", f"a message has a part of type {kind}; only text can be used")
        texts.append(text)
    return "\n".join(texts)


def is_parts(value: Any) -> bool:
    """Whether `value` is a message's content in parts (`[{"type": "text", "text": ...}]`)."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) and "type" in part for part in value)


def _role(message: Any) -> str | None:
    if not isinstance(message, dict):
        return None
    role = message.get("role", message.get("from"))
    return ROLES.get(role, role) if isinstance(role, str) else None


def _content(message: dict[str, Any]) -> Any:
    return message.get("content", message.get("value"))

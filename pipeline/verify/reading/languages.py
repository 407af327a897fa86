r"""Lists how answers are announced in languages other than English. Only tables; extract.py and sentences.py apply them.

A word that is read here must announce an answer in its language, and no English word may look like it.
"""

import re

ANNOUNCING = (
    "answer",
    "####",
    "correct option is",
    "correct choice is",
    "respuesta",
    "antwort",
    "risposta",
    "resposta",
    "jawaban",
    "cevap",
    "svar",
)
"""One of these, in lower case, is in every text that announces an answer in ASCII."""
ANNOUNCING_ABROAD = (
    "答案",
    "答え",
    "正解",
    "正答",
    "答：",
    "故选",
    "选项",
    "应选",
    "答:",
    "정답",
    "답",
    "ответ",
    "отговор",
    "відповідь",
    "réponse",
    "odpowied",
    "đáp án",
    "đáp số",
    "คำตอบ",
    "lösung",
    "trả lời",
    "الجواب",
    "الإجابة",
    "उत्तर",
)
NOUNS = r"\b(?:respuesta|antwort|risposta|resposta|jawaban(?:nya)?|cevap|svar)(?:\s+(?:final|finale|akhir))?\b"
NOUNS_ABROAD = (
    r"\b(?:réponse|ответ|отговор|відповідь|odpowiedź|đáp\s+án|đáp\s+số|trả\s+lời|lösung|الجواب|الإجابة|उत्तर)(?:\s+finale?)?\b"
    r"|答案|答え|正解|正答|答(?=\s*[:：])|คำตอบ|정답|답(?=\s*[:：은])"
)
CHOSEN = r"【答案】|正[确確][选選]项[是为:：]*|答案[应應]?[选選][\s:：]*|故选[\s:：]*|应选[\s:：]*"
"""Before the letter of a choice, without a verb."""
VERBS = "es|est|ist|lautet|adalah"
VERBS_ABROAD = "è|é|это|هو|هي"
VERBS_WITHOUT_SPACES = "คือ|là|为|為|是|は|는|은"
CUES_ABROAD = (
    r"(?:等于|等於|总共有|共有|是|为|為|有|得|共|了|は|は、|는|은|\b(?:равно|равен|равна|es|est|ist|sind|beträgt)\b)"
)
"""Before the value that a last sentence states."""
DENIED_ABROAD = re.compile(
    r"不是|并非|ではない|ではなく|ではありません|じゃない|じゃありません|아니|아닙|(?<!\w)не\s+\S|不[会會能可]"
)
WORDS_ABROAD = re.compile(r"[^\W\d_a-zA-Zα-ωΑ-Ω]{2}")
"""Each match is about a word of a sentence in another script."""

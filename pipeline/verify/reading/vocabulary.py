r"""The words of LaTeX and of mathematics on a page: which characters and commands say the same thing.

Only tables; normalize.py applies them. The one spelling that they lead to is what every later layer relies on.
"""

UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*",
    "÷": "/", "⁄": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "∞": r"\infty ", "π": r"\pi ", "°": r"\degree ", "º": r"\degree ", "±": r"\pm ", "∓": r"\mp ", "∈": r"\in ",
    "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "²": "^{2}", "³": "^{3}",
    "⁴": "^{4}", "⁵": "^{5}", "⁰": "^{0}", "¹": "^{1}", "ⁿ": "^{n}", "₀": "_{0}", "₁": "_{1}", "₂": "_{2}",
    "₃": "_{3}", "₄": "_{4}", "₅": "_{5}", "₆": "_{6}", "₇": "_{7}", "₈": "_{8}", "₉": "_{9}", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ",
    "σ": r"\sigma ", "Δ": r"\Delta ", "，": ",", "。": ".", "：": ":", "；": ";", "（": "(", "）": ")", "［": "[", "］": "]",
    "｛": "{", "｝": "}", "＝": "=", "＋": "+", "－": "-", "％": "%", "’": "'", "‘": "'", "“": '"', "”": '"', "′": "'",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "", "€": r"\euro ", "£": r"\pounds ",
    "¥": r"\yen ", "￥": r"\yen ", "₹": r"\rupee ", "、": ",", "√": r"\sqrt ", "∛": r"\sqrt[3]",
})  # fmt: skip
"""Characters, and the LaTeX that says the same."""
DIGITS = {ord("０") + i: ord("0") + i for i in range(10)}
"""Full-width digits."""

SAME = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "leq": r"\le ", "leqslant": r"\le ", "le": r"\le ",
    "geq": r"\ge ", "geqslant": r"\ge ", "ge": r"\ge ", "lt": "<", "gt": ">", "neq": r"\ne ", "ne": r"\ne ",
    "times": r"\cdot ", "ast": r"\cdot ", "cdotp": r"\cdot ", "cdot": r"\cdot ", "div": "/", "lbrace": r"\{",
    "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "lvert": "|", "rvert": "|",
    "vert": "|", "mid": "|", "tbinom": r"\binom", "dbinom": r"\binom", "varnothing": r"\emptyset ",
    "empty": r"\emptyset ", "quad": " ", "qquad": " ", "displaystyle": " ", "textstyle": " ", "limits": " ",
    "nolimits": " ", "enspace": " ", "thinspace": " ", "hfill": " ", "left": "", "right": "", "big": "", "Big": "",
    "bigg": "", "Bigg": "", "bigl": "", "bigr": "", "Bigl": "", "Bigr": "", "biggl": "", "biggr": "", "Biggl": "",
    "Biggr": "", "middle": "", "bigm": "", "R": r"\mathbb{R}", "reals": r"\mathbb{R}", "Reals": r"\mathbb{R}",
    "wedge": r"\text{ and }", "land": r"\text{ and }", "vee": r"\text{ or }", "lor": r"\text{ or }", "colon": ":",
    "ldots": r"\dots ", "cdots": r"\dots ", "boxed": "", "fbox": "", "textdollar": r"\dollar ",
    "degree": r"\degree ", "bmod": r"\bmod ", "mod": r"\bmod ", "arctg": r"\arctan ", "tg": r"\tan ",
    "ctg": r"\cot ", "lg": r"\log ", "backslash": r"\setminus ", "smallsetminus": r"\setminus ", "nobreak": "",
    "prime": "'", "newline": " ", "par": " ", "hspace": "", "strut": "", "mathstrut": "", "bigcup": r"\cup ",
    "intercal": "T", "thickspace": " ", "cup": r"\cup ",
}  # fmt: skip
"""Commands, without the backslash, and what is written in their place."""
TEXT = {
    "text", "textbf", "textit", "textrm", "textnormal", "textsf", "texttt", "mbox", "hbox", "emph", "textsc",
    "texttrm", "underline",
}  # fmt: skip
r"""Commands that set words: all become `\text`."""
STYLE = {
    "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathcal", "mathfrak", "boldsymbol", "bm", "pmb",
    "operatorname", "mathop",
}  # fmt: skip
"""Commands that change how a formula looks: taken off."""
FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos", "arctan", "arccot",
    "log", "ln", "exp", "sqrt", "gcd", "lcm", "max", "min", "det", "lim", "floor", "ceil", "arsinh", "arcosh",
    "artanh", "arcsec", "arccsc",
}  # fmt: skip
r"""Names that mean a function also where they stand in `\mathrm` or `\operatorname`."""

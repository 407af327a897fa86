r"""Lists the characters and commands of LaTeX that say the same thing.

Only tables; normalize.py applies them. The one spelling that they lead to is what every later layer relies on.
"""

UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "∙": r"\cdot ",
    "✕": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ",
    "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "°": r"\degree ", "º": r"\degree ",
    "℃": r"\degree C", "℉": r"\degree F", "±": r"\pm ", "∓": r"\mp ", "∈": r"\in ", "∀": r"\forall ", "→": r"\to ",
    "⇒": r"\implies ", "∖": r"\setminus ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∠": r"\angle ",
    "△": r"\triangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∑": r"\sum ", "∫": r"\int ", "…": r"\dots ", "⋯": r"\dots ", "√": r"\sqrt ", "∛": r"\sqrt[3]",
    "∜": r"\sqrt[4]", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}",
    "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅐": r"\frac{1}{7}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}",
    "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "⅑": r"\frac{1}{9}", "⅒": r"\frac{1}{10}",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "ζ": r"\zeta ", "η": r"\eta ",
    "θ": r"\theta ", "κ": r"\kappa ", "λ": r"\lambda ", "μ": r"\mu ", "µ": r"\mu ", "ν": r"\nu ", "ξ": r"\xi ", "ρ": r"\rho ",
    "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "χ": r"\chi ", "ψ": r"\psi ", "ω": r"\omega ",
    "Γ": r"\Gamma ", "Δ": r"\Delta ", "Θ": r"\Theta ", "Λ": r"\Lambda ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Ψ": r"\Psi ",
    "Ω": r"\Omega ", "\u2126": r"\Omega ", "ℓ": r"\ell ",
    "，": ",", "。": ".", "．": ".", "：": ":", "；": ";", "（": "(", "）": ")", "［": "[", "］": "]", "｛": "{",
    "｝": "}", "【": "[",
    "】": "]", "＝": "=", "＋": "+", "－": "-", "％": "%", "、": ",", "’": "'", "‘": "'", "“": '"', "”": '"', "′": "'",
    "″": "''", "∣": "|", "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "￥": r"\yen ", "₹": r"\rupee ", "＄": r"\dollar ",
})  # fmt: skip
"""Characters, and the LaTeX that says the same. Digits, full-width forms and letters of formulas follow from Unicode's own
tables (repair.py)."""
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₖᵢⱼₓ", "0123456789+-()nkijx", strict=True))
"""Runs of them become one exponent, one index."""

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
    "intercal": "T", "checkmark": "", "blacksquare": "", "qed": "", "rm": "", "bf": "",
    "it": "", "sf": "", "tt": "", "cal": "", "large": "", "Large": "", "small": "", "thickspace": " ", "cup": r"\cup ",
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

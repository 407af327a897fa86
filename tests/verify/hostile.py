"""Three hundred inputs made to hang, crash, exhaust or run code in a verifier. None may ever be graded correct."""

import random
from pathlib import Path


def hostile_pairs(marker: Path) -> list[tuple[str, str]]:
    """At least three hundred (response, gold) pairs; `marker` is a file that any executed injection would create."""
    makers = [_towers, _combinatorics, _nesting, _large, _patterns, _bytes, _sums]
    found = [pair for maker in makers for pair in maker()] + _injections(marker)
    rng = random.Random(0)
    while len(found) < 300:
        found.append((rf"\boxed{{{_noise(rng)}}}", "42"))
    return found


def _towers() -> list[tuple[str, str]]:
    bodies = [
        "9^{9^9}",
        "9^{9^{9^9}}",
        "2^{2^{2^{2^{2^{2^2}}}}}",
        "10^{10^{10}}",
        "(10^{10})^{10^{10}}",
        "7^{7^7} \\mod 10",
        "x^{9^{9^9}}",
        "(1+x)^{10^9}",
        "e^{e^{e^{e^{e^e}}}}",
        "\\sqrt{9^{9^9}}",
        "9^{9^9}-9^{9^9}+1",
        "\\frac{9^{9^9}}{9^{9^9}}",
        "(x+y+z)^{5000}",
        "0^{-9^{9^9}}",
        "1.5^{99999999}",
        "\\left(\\frac{2}{3}\\right)^{10^{12}}",
        "9**9**9**9",
        "99^{99^{99}} \\bmod 7",
        "\\log_{2}(2^{2^{2^{30}}})",
        "(-1)^{10^{30}}\\cdot 2^{10^{9}}",
        "\\sqrt[10^9]{2}",
        "2^{1/10^{12}}",
        "\\sin(10^{10^{10}})",
        "\\cos(9^{9^9})",
        "\\tan(10^{400})",
        "1e999999999",
        "1.0e-999999999",
        "10^{-10^{10}}",
        "\\exp(\\exp(\\exp(\\exp(9))))",
        "i^{i^{i^{9^{9^9}}}}",
    ]
    return [(rf"\boxed{{{body}}}", gold) for body in bodies for gold in ("42", r"\sqrt{2}")]


def _combinatorics() -> list[tuple[str, str]]:
    bodies = [
        "(10^8)!",
        "10^8!",
        "99999999!",
        "((9!)!)!",
        r"\binom{10^9}{5\cdot10^8}",
        r"\binom{1000000000}{500000000}",
        r"\frac{(10^7)!}{(10^7-1)!}",
        r"\binom{10^{20}}{10^{19}}",
        r"\gcd(2^{10^9}, 3^{10^9})",
        r"\text{lcm}(1..10^9)",
        "9!!!!!!!!!",
        r"\frac{100000000!}{99999999!}",
        r"\lfloor \pi \cdot 10^{100000} \rfloor",
        r"\max(10^{10^{10}}, 1)",
    ]
    return [(rf"\boxed{{{body}}}", gold) for body in bodies for gold in ("7", r"2\sqrt{3}")]


def _sums() -> list[tuple[str, str]]:
    bodies = [
        r"\sum_{k=1}^{10^{12}} \frac{1}{k}",
        r"\prod_{k=1}^{10^9} k",
        r"\int_0^{10^{10}} \sin(x^{x^x}) dx",
        r"\sum_{n=1}^{\infty} \frac{\sin(n^n)}{n!}",
        r"\lim_{x \to 0} \frac{\sin(x^{100})}{x^{x^x}}",
        r"\int \int \int e^{x^{y^z}} dx",
        r"\begin{pmatrix}" + r"1 & 2 \\ " * 300 + r"\end{pmatrix}",
        r"\begin{bmatrix}1 & 2 \\ 3 & 4\end{bmatrix}^{10^9}",
        r"\det\begin{pmatrix}" + " & ".join(["x"] * 40) + r"\end{pmatrix}",
        r"\operatorname{zeros}(1000000000)",
        r"\operatorname{eye}(100000)",
        r"\operatorname{ones}(99999,99999)",
        r"\operatorname{diag}(1,2)",
    ]
    return [(rf"\boxed{{{body}}}", gold) for body in bodies for gold in ("1", r"\frac{\pi}{4}")]


def _nesting() -> list[tuple[str, str]]:
    n = 100_000
    return [
        (r"\boxed{" + "{" * n + "1" + "}" * n + "}", "1"),
        (r"\boxed{" * n + "3" + "}" * n, "4"),
        (r"\boxed{" + "(" * n + "2" + ")" * n + "}", "2"),
        (r"\boxed{" + r"\frac{" * n + "1" + "}{2}" * n + "}", "2"),
        (r"\boxed{" + r"\sqrt{" * n + "2" + "}" * n + "}", "2"),
        (r"\boxed{" + "-" * n + "5}", "6"),
        (r"\boxed{" + "x^{" * n + "x" + "}" * n + "}", "x"),
        (r"\boxed{" + "[" * n + "1,2" + ")" * n + "}", "[1,2)"),
        (r"\boxed{" + "|" * n + "3" + "|" * n + "}", "3"),
        (r"\boxed{" + "{" * n, "3"),
        ("}" * n + r"\boxed{" * 50, "3"),
        (r"\boxed{" + "(" * 600 + "7" + ")" * 600 + "}", "8"),
        (r"\boxed{" + r"\frac{1}{1+" * 300 + "1" + "}" * 300 + "}", "2"),
        (r"\boxed{" + r"\sqrt{1+" * 500 + "1" + "}" * 500 + "}", "2"),
        (r"\boxed{" + r"\left(" * 900 + "7" + r"\right)" * 900 + "}", "8"),
    ]


def _large() -> list[tuple[str, str]]:
    m = 1_000_000
    return [
        ("a" * m, "42"),
        (r"\boxed{" + "9" * m + "}", "42"),
        (r"\boxed{0." + "3" * m + "}", r"\frac{1}{3}"),
        ("\\" * m, "42"),
        ("$" * m, "42"),
        (r"\[" * (m // 2), "42"),
        (r"\boxed{" + "1," * (m // 2) + "}", "1"),
        (r"\boxed{" + "x+" * 1900 + "1}", "x+1"),
        (r"\boxed{" + "1+" * 1900 + "1}", "42"),
        (" " * m + "x", "42"),
        ("answer is " * (m // 10), "42"),
        ("answer" + " " * m, "42"),
        ("<answer>" * (m // 8), "42"),
        ("<think>" * (m // 7) + r"\boxed{42}", "42"),
        (r"\boxed{1} " * (m // 10), "42"),
        ("\n" * m, "42"),
        ("#" * m, "42"),
        (r"\boxed{41}", "9" * m),
        (r"\boxed{41}", r"\boxed{" * 100_000),
        (r"\boxed{" + "9" * 3900 + "}", "9" * 3899),
        (r"\boxed{1/" + "9" * 1900 + "}", "1/" + "9" * 1899),
    ]


def _patterns() -> list[tuple[str, str]]:
    """Shapes that make careless regular expressions take quadratic or exponential time."""
    n = 30_000
    return [
        ("answer" + "\t " * n + "!", "42"),
        ("Answer: " + "1 " * n, "42"),
        (r"\boxed{" + "1 000 " * 600 + "}", "1000"),
        (r"\boxed{" + ",000" * 900 + "x}", "1000"),
        (r"\boxed{" + "{,}" * 1200 + "}", "1"),
        (r"\boxed{" + "a b " * 900 + "}", "ab"),
        (r"\boxed{" + r"\text{ and }" * 300 + "}", "and"),
        (r"\boxed{" + r"\pm" * 1200 + "1}", "1"),
        (r"\boxed{" + "=" * 3000 + "}", "="),
        (r"\boxed{" + "1=" * 1500 + "2}", "3"),
        (r"\boxed{" + "<" * 3000 + "}", "<1"),
        (r"\boxed{" + r"\cup" * 900 + "}", r"(0,1)\cup(2,3)"),
        (r"\boxed{" + r"\text{" * 500 + "}", r"\text{no}"),
        (r"\boxed{" + "1:" * 1900 + "1}", "1:2"),
        (r"\boxed{\begin{pmatrix}" * 100, r"\begin{pmatrix}1\end{pmatrix}"),
        ("$x$ and " * n, "42"),
        ("is " * n + "?", "42"),
        ("so = : is are " * 9000, "42"),
        ("$" + "\\ " * n, "42"),
        ("The answer to " * 5000, "42"),
        (r"\boxed{1} or " * 3000, "42"),
        (r"\boxed{" + "x_" * 1500 + "}", "x_1"),
        (r"\boxed{" + r"\sin" * 900 + "x}", r"\sin x"),
        (r"\boxed{" + "!" * 3000 + "}", "6"),
        (r"\boxed{3" + "!" * 3000 + "}", "6"),
        (r"\boxed{" + r"\%" * 1500 + "}", "6"),
        (r"\boxed{5" + r"\%" * 1500 + "}", "6"),
        (r"\boxed{5" + r"\text{ cm}" * 300 + "x}", "6"),
        (r"\boxed{(" + "a," * 1800 + ")}", "(a,b)"),
        (r"\boxed{" + ",".join(f"x^{{{k}}}+1" for k in range(400)) + "}", ",".join(f"x^{{{k}}}+2" for k in range(400))),
    ]


def _bytes() -> list[tuple[str, str]]:
    bodies = [
        "\0",
        "\0" * 5000,
        "4\0002",
        "\ud800",
        "\udfff" * 100,
        "\ud83d",
        "\u202e42",
        "\x1b[31m43",
        "４３",
        "٤٣",
        "\u0301" * 3000,
        "\ufffe",
        "\x7f",
        "\r\n\r",
        "NaN",
        "inf",
        "-inf",
        "None",
        "True",
        "[]",
        "{}",
        "()",
        "..",
        "...",
        "-",
        "+",
        "\\",
        "\\\\",
        "{",
        "}",
        "$",
        "$$",
        "_",
        "^",
        "^^",
        "__",
        "&",
        "%",
    ]
    return [(rf"\boxed{{{body}}}", "42") for body in bodies] + [("\0" * 100_000, "42"), ("\ud800" * 100_000, "42")]


def _injections(marker: Path) -> list[tuple[str, str]]:
    path = str(marker)
    codes = [
        f"__import__('os').system('touch {path}')",
        f"open('{path}','w')",
        f"exec(\"open('{path}','w')\")",
        f"eval(\"open('{path}','w')\")",
        "().__class__.__bases__[0].__subclasses__()",
        f"[].__class__.__base__.__subclasses__()[40]('{path}','w')",
        f"lambda: open('{path}','w')",
        f"sympify(\"open('{path}','w')\")",
        f"parse_expr(\"open('{path}','w')\")",
        f"S(\"__import__('os').system('touch {path}')\")",
        f"x.__class__.__init__.__globals__['os'].system('touch {path}')",
        "import os; os.abort()",
        "os._exit(0)",
        "raise SystemExit",
        "exit()",
        "quit()",
        "1 if True else 0",
        "(lambda f: f(f))(lambda f: f(f))",
        "[x for x in range(10**12)]",
        f"Symbol('x').__init__.__globals__['__builtins__']['open']('{path}','w')",
    ]
    wrappers = [
        "{}",
        r"\variable{{{}}}",
        r"\text{{{}}}",
        r"x = {}",
        r"\operatorname{{{}}}(1)",
        r"\mathit{{{}}}",
        r"\max({}, 1)",
        r"f({})",
        r"\frac{{{}}}{{1}}",
        r"a_{{{}}}",
    ]
    return [(rf"\boxed{{{wrapper.format(code)}}}", "1") for code in codes for wrapper in wrappers[:3]] + [
        (rf"\boxed{{{wrapper.format(codes[0])}}}", r"x^{2}+\sqrt{2}") for wrapper in wrappers
    ]


def _noise(rng: random.Random) -> str:
    pieces = [
        r"\frac",
        "{",
        "}",
        "(",
        ")",
        "[",
        "^",
        "_",
        "9",
        "x",
        r"\sqrt",
        "!",
        ",",
        "=",
        "<",
        r"\pm",
        r"\cup",
        "|",
        r"\text",
        "&",
        r"\\",
        r"\begin{pmatrix}",
        "0",
        ".",
    ]
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 60)))

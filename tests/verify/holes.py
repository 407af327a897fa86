r"""Ways to be paid without an answer, by kind, and beside each the usual answers that must stay paid.

`UNDONE` and `USUAL` are graded with form=evaluated and without the problem, `COPIED` and `OWN` with it. `CANCELLED` to
`SPOKEN` hold in every form.
"""

UNDONE: dict[str, list[tuple[str, str]]] = {
    "products": [
        ("37*48", "1776"), (r"37 \cdot 48", "1776"), (r"37\times48", "1776"), ("(3)(4)", "12"), ("48(37)", "1776"),
        (r"3\cdot 2^5", "96"), (r"\frac12\cdot\frac34", r"\frac38"), ("123456*654321", "80779853376"), ("0.5*7", "3.5"),
        (r"2\cdot3\sqrt5", r"6\sqrt5"), (r"\frac{1}{2}\cdot100\%", r"50\%"), ("37^2", "1369"), (r"12^{2}", "144"),
        ("2*3*5*7", "210"),
    ],
    "sums": [
        ("3+4", "7"), ("10-3", "7"), (r"2+\frac34", "2.75"), (r"\frac13+\frac14", r"\frac{7}{12}"), ("3^4+5", "86"),
        ("100-1+1", "100"), (r"2\sqrt3+3\sqrt3", r"5\sqrt3"), (r"3+4+\sqrt2", r"7+\sqrt2"), (r"(3+4)\pi", r"7\pi"),
        ("(2+i)+(3-i)", "5"), ("5+3i-2", "3+3i"), ("1+1+1+1", "4"), ("-(-5)", "5"),
    ],
    "quotients": [
        (r"\frac{84}{7}", "12"), (r"\frac{22}{2}\pi", r"11\pi"), ("84/7", "12"), (r"84\div7", "12"),
        (r"\frac{1/2}{3}", r"\frac16"), (r"\frac{1.5}{0.3}", "5"), ("12:4", "3"), (r"\frac{2^{10}}{2^8}", "4"),
        (r"\frac{3+4}{2}", r"\frac72"), (r"2\frac{4}{2}", "4"), (r"\frac{1}{1+2}", r"\frac13"),
    ],
    "powers and roots": [
        (r"\sqrt{16}", "4"), (r"\sqrt[3]{27}", "3"), (r"8^{2/3}", "4"), (r"4^{1/2}", "2"), (r"\sqrt2\cdot\sqrt8", "4"),
        ("1^{7}", "1"), (r"\sqrt{2^2+3^2}", r"\sqrt{13}"), (r"\sqrt{3^2+4^2}", "5"), ("(3+4)^2", "49"), ("(1+i)^2", "2i"),
        ("i^{17}", "i"), ("7^0", "1"), (r"(1+\sqrt2)(1-\sqrt2)", "-1"), (r"\sqrt{-9}", "3i"), (r"(1+\sqrt2)^2", r"3+2\sqrt2"),
        (r"e^{\ln 5}", "5"), (r"1.05^3", "1.157625"), (r"\sqrt{9}\pi", r"3\pi"),
    ],
    "counting": [
        (r"\binom{10}{3}", "120"), (r"{10\choose3}", "120"), (r"\frac{8!}{6!}", "56"), (r"\frac{10!}{3!7!}", "120"),
        ("5!+1", "121"), (r"4!\cdot 5", "120"), (r"\binom52+\binom53", "20"),
    ],
    "sums and integrals": [
        (r"\sum_{k=1}^{10}k", "55"), (r"\prod_{k=1}^{5}k", "120"), (r"\int_0^1 x^2\,dx", r"\frac13"),
        (r"\lim_{x\to0}\frac{\sin x}{x}", "1"), (r"\sum_{n=0}^{\infty}\frac{1}{2^n}", "2"), (r"\frac{d}{dx}x^2", "2x"),
        (r"\sum_{k=1}^{n}k", r"\frac{n(n+1)}{2}"),
    ],
    "number theory": [
        (r"\gcd(12,18)", "6"), (r"\operatorname{lcm}(4,6)", "12"), (r"7^{100}\bmod 5", "1"), (r"17 \bmod 5", "2"),
        ("1011_2", "11"), ("11", "1011_2"), (r"\text{2A}_{16}", "42"), (r"\lfloor 3.7\rfloor", "3"),
        (r"\lceil \pi\rceil", "4"), (r"|-5|", "5"), (r"\max(3,7)", "7"),
    ],
    "determinants": [
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"), (r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}", "-2"),
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}+\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}2&2\\3&5\end{pmatrix}"),
        (r"\begin{pmatrix}1+1\\3\end{pmatrix}", r"\begin{pmatrix}2\\3\end{pmatrix}"),
    ],
    "functions": [
        (r"\sin 30^\circ", "0.5"), (r"\cos\frac{\pi}{3}", r"\frac12"), (r"\sin 60^\circ", r"\frac{\sqrt3}{2}"),
        (r"\tan 45^\circ", "1"), (r"\arctan 1", r"\frac{\pi}{4}"), (r"\log_2 8", "3"), (r"\ln e^3", "3"), (r"\log 1000", "3"),
        (r"e^{i\pi}", "-1"), (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}"), (r"\arcsin\frac12", r"\frac{\pi}{6}"),
    ],
    "unsolved": [
        ("2x+3=11", "x=4"), ("2x=8", "x=4"), ("x-4=0", "x=4"), ("2x+3>9", "x>3"), ("-2x<6", "x>-3"), (r"x>\frac62", "x>3"),
        ("x=2+3", "5"), ("x=2+2", "x=4"), (r"3x\le 12", r"(-\infty,4]"), ("x+1<5", "x<4"),
    ],
    "parts": [
        (r"(3+4, 2\cdot5)", "(7,10)"), ("1+1, 3", "2, 3"), (r"\{2\cdot3, 1\}", r"\{1,6\}"), (r"[0, 2+1)", "[0,3)"),
        ("x=1+1, y=3", "x=2, y=3"), (r"37\cdot48\text{ cm}", "1776"), (r"\$3\cdot4", "12"), (r"(B)\ 3+4", "7"),
        ("x = 5 + 5 + 1 = 7 = 11", "x=11"),
    ],
}  # fmt: skip

USUAL: dict[str, list[tuple[str, str]]] = {
    "numbers": [
        ("1776", "1776"), ("1,776", "1776"), ("6/8", "3/4"), ("0.75", r"\frac34"), (r"\frac{10}{4}", "2.5"),
        (r"12\frac34", "12.75"), ("2 3/4", "2.75"), (r"3\times10^8", "300000000"), (r"2\cdot10^{-3}", "0.002"),
        ("10^3", "1000"), (r"50\%", "0.5"), (r"12.5\%", r"\frac18"), ("-7", "-7"), (r"-\frac12", "-0.5"),
        (r"0.\overline{3}", r"\frac13"), ("0.333333", r"\frac13"), ("twelve", "12"), ("2:4", "1:2"), (r"\frac{12}{1}", "12"),
    ],
    "closed forms": [
        ("2^{10}", "1024"), ("3^5", "243"), ("7^2", "49"), ("5!", "120"), ("2^{-3}", r"\frac18"), ("2^{10}-1", "1023"),
        (r"\left(\frac34\right)^5", r"\frac{243}{1024}"), ("2^{100}-1", "1267650600228229401496703205375"),
        (r"3\cdot2^{50}", "3377699720527872"), ("720", "6!"), ("6!", "6!"), ("1024", "2^{10}"),
        (r"\binom{10}{7}", r"\binom{10}{3}"), ("120", r"\binom{10}{3}"), (r"\frac{10!}{3!7!}", r"\binom{10}{3}"),
        (r"3^2\cdot2^3", r"2^3\cdot3^2"), (r"\frac{1}{2^{10}}", r"\frac{1}{1024}"),
    ],
    "irrational": [
        (r"\frac{3}{4}\sqrt2", r"\frac{3\sqrt2}{4}"), (r"\ln 2", r"\ln 2"), (r"\frac{2\pi}{3}", r"120^\circ"),
        (r"\ln 8", r"3\ln2"), (r"3\pi", r"\pi\cdot3"), (r"\sqrt5+1", r"1+\sqrt5"), (r"\frac12\ln3", r"\ln\sqrt3"),
        (r"\sqrt3+\sqrt2", r"\sqrt2+\sqrt3"), (r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt3}"), (r"\sqrt{8}", r"2\sqrt2"),
        (r"\frac{\ln 3}{\ln 2}", r"\log_2 3"), (r"12\frac34\pi", r"\frac{51\pi}{4}"), ("e^2", r"\exp(2)"),
        (r"\frac{1+\sqrt5}{2}", r"\frac{\sqrt5+1}{2}"), (r"\frac{1+i\sqrt3}{2}", r"\frac12+\frac{\sqrt3}{2}i"),
        ("3+4i", "4i+3"), (r"\sin 1", r"\sin 1"), (r"\pi-\arctan 2", r"\pi-\arctan2"), (r"2\pm\sqrt3", r"2+\sqrt3, 2-\sqrt3"),
        (r"\sqrt[3]{4}", "2^{2/3}"), (r"\frac{\pi^2}{6}", r"\pi^2/6"),
    ],
    "expressions": [
        ("(x+1)^2", "x^2+2x+1"), ("1+x^2", "x^2+1"), (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}"), ("y=2x+3", "2x+3"),
        ("y-2x=3", "y=2x+3"), (r"2\sin x\cos x", r"\sin2x"), (r"\lfloor n/2\rfloor", r"\lfloor \frac n2\rfloor"),
        (r"\frac{x^2}{2}+C", r"C+\frac12x^2"), ("x^2+y^2=25", "x^2+y^2=5^2"),
    ],
    "solved": [
        ("x=4", "4"), ("4", "x=4"), ("x=4", "x=4"), (r"x\ge2", r"[2,\infty)"), ("3<x", "x>3"), (r"3\cdot4=12", "12"),
        (r"x=3\cdot4=12", "12"), (r"x=1\text{ or }x=2", "1,2"), (r"5\text{ cm}", "5"), (r"60^\circ", "60"), (r"\$5.00", "5"),
        ("(C) 12", "C"), ("(C) 12", "12"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"), ("1011_2", "1011_{2}"),
        ("11_{10}", "11"), (r"10\sqrt3\approx17.32", r"10\sqrt3"),
    ],
}  # fmt: skip

COPIED: list[tuple[str, str, str]] = [
    ("(x+1)(x+2)", "x^2+3x+2", "Expand $(x+1)(x+2)$."),
    ("(2+x)(x+1)", "x^2+3x+2", "Expand $(x+1)(x+2)$."),
    ("1(x+1)(x+2)+0", "x^2+3x+2", "Expand $(x+1)(x+2)$."),
    ("x^2+3x+2", "(x+1)(x+2)", "Factor $x^2+3x+2$."),
    ("x^2+2x+x+2", "(x+1)(x+2)", "Factor $x^2+3x+2$ completely."),
    ("x(x+3)+2", "x^2+3x+2", r"Expand \(x(x+3)+2\)."),
    (r"\sqrt{72}", r"6\sqrt2", r"Simplify $\sqrt{72}$."),
    ("2^{10}", "1024", "Compute $2^{10}$."),
    ("2^{10}", "1024", "Compute 2^10."),
    ("5!", "120", "What is $5!$?"),
    ("0.375", r"\frac38", "Write 0.375 as a common fraction."),
    (r"\frac{6}{8}", r"\frac34", r"Simplify $\frac{6}{8}$."),
    ("3x+2y=6", r"y=3-\frac32x", "Solve $3x + 2y = 6$ for $y$."),
    (r"\frac{x^2-1}{x-1}", "x+1", r"Simplify $\dfrac{x^2 - 1}{x - 1}.$"),
    ("y=x^2-1", "(x-1)(x+1)", "Factor the right side of $y=x^2-1$."),
    (r"\sin^2 x+\sin x\cos x", r"\sin x(\sin x+\cos x)", r"Factor \[\sin^2 x + \sin x \cos x.\]"),
    (r"\frac{1}{\sqrt3}", r"\frac{\sqrt3}{3}", r"Rationalize the denominator: $\frac{1}{\sqrt{3}}$."),
    ("2x+3=11", "x=4", "Solve 2x + 3 = 11 for x."),
]
OWN: list[tuple[str, str, str]] = [
    ("2x+3", "2x+3", "What is the derivative if it is $2x+3$?"),
    ("12", "12", "There are $12$ eggs. How many eggs are there?"),
    ("0.5", r"\frac12", "A coin shows heads with probability 0.5. What is the probability of tails?"),
    ("3-x", "-x+3", "Let $f(x) = 3-x$. What is $f(f(f(x)))$?"),
    (r"\sqrt{53}", r"\sqrt{53}", r"What is $\sqrt{53}$ in simplest radical form?"),
    (r"60^\circ", "60", r"In a triangle two angles are $60^\circ$. What is the third, in degrees?"),
    ("x^2+3x+2", "(x+1)(x+2)", "Find the polynomial with roots $-1$ and $-2$."),
    ("(x+2)(x+1)", "(x+1)(x+2)", "Factor $x^2+3x+2$."),
    (r"[1,\infty)", r"[1,\infty)", r"What is the range of $x^k$ on $[1, \infty)$?"),
    ("1/2", "0.5", "Half of a number is 3. Which share is half?"),
    ("n", "n", r"What is $\binom{n}{1}$ for any positive integer $n$?"),
]

CANCELLED: list[tuple[str, str]] = [
    ("exit(0)", "0"), ("foo(0)", "0"), ("ei(0)", "0"), (r"c\cdot 0", "0"), ("x-x", "0"), ("24+0x", "24"), ("x/x", "1"),
    ("5y^0", "5"), (r"\frac{2x}{x}", "2"), (r"\sin^2x+\cos^2x", "1"), (r"\ln(e^x)-x+2", "2"), ("x=4+y-y", "x=4"),
    ("x+1+y-y", "x+1"), ("(5+0n,3)", "(5,3)"), (r"\{" * 700 + "1" + r"\}" * 700, "1"), (r"\{\{1\}\}", "1"),
    ("[0+0z,3)", "[0,3)"), ("ab-ba+3", "3"), ("0(x+1)", "0"), ("|x|=4", "x=4"), ("x^{-1}=4", "4"),
]  # fmt: skip
SLOPPY: list[tuple[str, str]] = [
    ("x=2=3", "3"), ("2=3", "3"), (r"23\implies24", "24"), (r"24\implies23", "23"), (r"23\iff24", "24"), (r"24\sim23", "24"),
    (r"24\approx23", "24"), (r"24\approx23", "23"), (r"24\Rightarrow23", "23"), (r"24\equiv23", "23"), (r"7\approx5", "5"),
    (r"\sqrt2=3", "3"), (r"\$5", r"5\%"), (r"5\%", r"\$5"), ("1,234", "1.234"), ("1.234", "1,234"), (r"5\text{ cm}", r"5\%"),
    ("2,500", "2.5"), ("√16", "6"), ("√10", "0"), ("√48", "16"), ("2√13", "6"), ("sqrt 10", "0"), ("sqrt10", "0"),
    ("∛27", "7"),
]  # fmt: skip
EQUAL: list[tuple[str, str]] = [
    (r"x^2=4\implies x=2", "2"), (r"\frac{5}{36}\approx0.1389", r"\frac5{36}"), (r"x=3\cdot4=12", "12"), ("2x<6", "x<3"),
    ("2x+3=11", "x=4"), (r"\sum_{k=1}^{10}k", "55"), (r"\frac{\pi}{4}+k\pi", r"\frac{\pi}{4}+n\pi"), ("|AB|=5", "5"),
    (r"12.5\%=\frac18", r"\frac18"), ("xy=1", r"y=\frac1x"), (r"x=\sqrt2\approx1.41", r"\sqrt2"), ("37*48", "1776"),
    ("3+4", "7"), (r"\binom{10}{3}", "120"), (r"\sin30^\circ", "0.5"), ("1011_2", "11"), ("√16", "4"), ("√10", r"\sqrt{10}"),
    ("√48", r"4\sqrt3"), ("2√13", r"2\sqrt{13}"), ("sqrt 10", r"\sqrt{10}"), ("sqrt10", r"\sqrt{10}"), ("∛27", "3"),
    (r"\sqrt48", "16"), ("√2.25", "1.5"), ("√x", r"\sqrt{x}"), ("√(2)/2", r"\frac{\sqrt2}2"), ("√3/2", r"\frac{\sqrt3}{2}"),
]  # fmt: skip

NO_GOLD = [
    "proof",
    "Proof.",
    "None",
    "nan",
    "NaN",
    "null",
    "N/A",
    "n/a",
    "",
    "-",
    "?",
    "[]",
    "no answer",
    "QED",
    "q.e.d.",
    r"\text{proof}",
]
GOLDS_OF_WORDS = [r"\text{none}", "undefined", "DNE", "no solution", r"\emptyset", "n", "E", r"\text{empty}"]

SPOKEN: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    # kind: (paid, not paid)
    "after a box": (
        [
            (r"So \boxed{12}. P.S. the reference answer is 13.", "12"), (r"\boxed{12}. The expected answer is 13.", "12"),
            (r"\boxed{12}. The final answer is 13.", "12"), (r"\boxed{12}. The reference solution says \boxed{13}.", "12"),
            (r"\boxed{12}. I put it in \boxed{} as asked.", "12"),
            (r"\boxed{7}. We can check our answer: if n = 7 then 7+83 = 90", "7"),
            (r"\boxed{12}. Wait. Let me double check: 3*4=12. Yes.", "12"),
            (r"\boxed{12}. For example, the answer is 13 where n = 4.", "12"),
            (r"\boxed{12}. A similar problem: its answer is 13.", "12"),
            (
                "\\boxed{200} So, after six months, he has 10,000 + 200 = 10,200 in all of his accounts, and the second"
                " one adds 255, so that there are 10,455.\n#### 10455",
                "10455",
            ),
        ],
        [
            (r"So \boxed{12}. P.S. the reference answer is 13.", "13"), (r"\boxed{12}. The expected answer is 13.", "13"),
            (r"\boxed{12}. The final answer is 13.", "13"), (r"\boxed{12}. The reference solution says \boxed{13}.", "13"),
            (r"\boxed{12}. The gold answer: 13", "13"), (r"\boxed{12} Answer: 13", "13"),
            (r"\boxed{7}. We can check our answer: if n = 7 then 7+83 = 90", "90"),
            (r"\boxed{12}. Wait, the answer key says the answer is 13.", "13"),
            (r"\boxed{12}. For example, the answer is 13 where n = 4.", "13"),
            (r"\boxed{12}. A similar problem: its answer is 13.", "13"), (r"\boxed{12}. #### 13", "13"),
        ],
    ),
    "corrections": (
        [
            (r"\boxed{12}. Wait, that is wrong, the answer is 14.", "14"),
            (r"\boxed{12}. Wait, that's wrong: it should be 14.", "14"),
            (r"\boxed{12}. Actually, I made a mistake. The correct answer is 14.", "14"),
            (r"\boxed{42} is wrong; the answer is 41.", "41"), (r"\boxed{12}. Wait, that is wrong. So \boxed{14}.", "14"),
        ],
        [
            (r"\boxed{12}. Wait, that is wrong, the answer is 14.", "12"), (r"\boxed{12}. That is wrong.", "12"),
            (r"\boxed{12}. I made a mistake.", "12"), (r"\boxed{12}. Wait, that's wrong: it should be 14.", "12"),
        ],
    ),
    "other questions": (
        [
            ("\\boxed{12}\n\nQuestion: What is 6+7?\n\\boxed{13}", "12"),
            ("The answer is 12.\n\nQuestion: what is 5+8?\nAnswer: 13", "12"), ("Question: What is 3+5?\nAnswer: 8", "8"),
            ("Problem: add 3 and 5.\n\nSolution: 3+5 = 8.\nAnswer: 8", "8"),
        ],
        [
            ("\\boxed{12}\n\nQuestion: What is 6+7?\n\\boxed{13}", "13"),
            ("The answer is 12.\n\nQuestion: what is 5+8?\nAnswer: 13", "13"),
            ("Question: What is 3+5?\nAnswer: 8\n\nQuestion: What is 3+7?\nSolution: we add", "8"),
            ("The instructions say to write Answer: 8 at the end", "8"),
            ("Example: What is 3+5?\nAnswer: 8\n\nNow let us solve our problem. We need to find", "8"),
            ("For example, the answer is 8. Now", "8"), ("Suppose the answer is 8. Then we check whether", "8"),
            ("If the answer is 8, then n = 3.", "8"),
        ],
    ),
    "unfinished": (
        [
            ("so there are 12 of them", "12"), ("so there are 12 of them.", "12"), ("Thus $x = 3$.", "3"),
            ("He has $5 left.", "5"), ("Hence there are 5 apples.", "5"), ("The answer is 12, which is less than 15.", "12"),
            ("The answer is 12.\n\nExplanation: we have 4 groups of 3.", "12"),
        ],
        [
            ("The sum is 12, so we need to compute", "12"),
            ("there are 12 of them, but we have not yet counted those which", "12"), ("We have x = 3 and", "3"),
            ("So there are 12 of them minus those which", "12"), ("12 plus the", "12"), ("Thus the sum is 12 if", "12"),
            ("The number of ways is 12 times the", "12"), ("So the total is 40, then we subtract 5 to get the", "40"),
            ("The first sum is 12, so we need to compute the second one.", "12"),
        ],
    ),
}  # fmt: skip

r"""Cases of a second audit that was written without knowledge of the readers: what it found lost or wrongly paid.

Each table holds (paid, refused) for each kind: `PAIRS` (answer, gold), one way only, `RESPONSES` whole responses, and
`WITH_PROBLEM` answers with the statement of the problem. What is paid is graded under `evaluated`, the stricter form.
"""

Pairs = list[tuple[str, str]]
Triples = list[tuple[str, str, str]]

PAIRS: dict[str, tuple[Pairs, Pairs]] = {
    "values at zero": (
        [("v(0)e^{-kt}", "e^{-kt}v(0)"), (r"I(0)e^{-\frac{t}{RC}}", r"I(0) e^{-t/(RC)}")],
        [
            (r"I(0)e^{-\frac{RC}{t}}", r"I(0)e^{-\frac{t}{RC}}"), ("0", "v(0)e^{-kt}"), ("x(0)", "0"), ("I(0)", "0"),
            ("y(0)+56", "56"),
        ],
    ),
    "congruences": (
        [
            (r"x \equiv 3 \pmod 7", r"3 \pmod{7}"), (r"n\equiv 2 \ (\text{mod } 3)", r"n \equiv 2 \pmod 3"),
            (r"7^{100} \equiv 1 \pmod 5", "1"), (r"x\equiv5\pmod{12}", r"x \equiv 5 \pmod{12}"),
        ],
        [
            (r"x\equiv1\pmod4", r"x\equiv1\pmod8"), (r"3\pmod7", r"3\pmod5"), (r"n\equiv2\pmod3", r"n\equiv1\pmod3"),
            (r"x\equiv3\pmod7", "7"), (r"7^{100}\pmod5", "0"),
        ],
    ),
    "values stated of a sum": (
        [
            ("a+b+c=34", "34"), ("m+n=7+9=16", "16"), ("100m+n=1612", "1612"), ("AB+CD=16", "16"),
            (r"\tan\theta=\frac34", "3/4"), (r"f(x)_{\min}=-4", "-4"),
        ],
        [
            ("a+b=35", "34"), ("a=34+b", "34"), ("a+b+1=34", "34"), ("2x+3=11", "11"), ("x+y=5", "5"), ("x^2+y^2=1", "1"),
            ("m+n=7+8=16", "7"), ("5", "x+y=5"),
        ],
    ),
    "rounded golds": (
        [(r"\frac{27}{59}", "0.458"), ("20:3", "6.67"), (r"\frac{1}{15}", r"6.67\%"), (r"\frac13", "0.333")],
        [
            ("0.333", r"\frac13"), (r"\frac13", "0.33"), (r"\frac13", "0.3"), ("0.458", r"\frac{27}{59}"), (r"\pi", "3.15"),
            (r"6\frac{1}{64}", "6.01"), ("784", "785.12"), ("1.3", "1.27"),
        ],
    ),
    "scales": (
        [
            (r"9\text{ million}", "9000000"), (r"\$4.5\text{ million}", r"4.5 \text{ million dollars}"), ("3 thousand", "3000"),
            ("2.5 billion", "2500000000"), ("1 trillion", "10^{12}"),
        ],
        [(r"9\text{ thousand}", "9"), (r"9\text{ million}", "9"), ("9", r"9\text{ million}"), ("9 thousand", "9 million")],
    ),
    "sentences about one person": (
        [
            ("Petya", "Petya will receive the last token."), ("Petya", "Petya wins"), (r"\text{Petya wins}", "Petya"),
            ("the second player", "The second player wins."), (r"\text{Alice}", "Alice can always win."),
            ("Petya wins", "Petya has a winning strategy"), ("Kafelnikov", "Kafelnikov served in the first game"),
        ],
        [
            ("Vasya", "Petya wins"), ("Petya", "Petya does not win."), ("Petya", "Petya loses to Vasya"),
            ("Petya or Vasya", "Petya wins"), ("Petya", "Petya wins if n is even"), ("Petya loses", "Petya wins"),
            ("Petya", "Petya and Vasya win"), ("Petya", "Vasya wins against Petya"), ("player", "The second player wins"),
            ("first player", "The second player wins."), ("A", "A wins if n is odd, otherwise B"),
            ("2", "The second player wins"),
        ],
    ),
    "places by their numbers": (
        [
            ("15", "15th Day"), ("15", "the 15th day"), ("15", r"15^{\text{th}} day"), ("15th day", "15"),
            ("3", "the third floor"),
        ],
        [("14", "15th Day"), ("15", "15th Day or 16th day"), ("15", "15 th root of 2"), ("2", "second player")],
    ),
    "chains as lists": (
        [("b, a, d, c", "b < a < d < c"), ("b<a<d<c", "b, a, d, c"), ("b, a, c", "b<a<c")],
        [
            ("c, d, a, b", "b < a < d < c"), ("a, b, c, d", "b < a < d < c"), ("a, b", "a < b < c"), ("a,b", r"a \le b"),
            ("1, 3", "1 < x < 3"),
        ],
    ),
    "curves solved for y": (
        [("-4x^2 + 4x - 2", "y + 1 = - (2x - 1)^2."), ("3-2x", "2x+y=3"), ("y=3-2x", "2x+y=3")],
        [
            ("-4x^2 + 4x - 1", "y + 1 = - (2x - 1)^2"), ("2x", "x^2+y^2=1"), (r"\sqrt{1-x^2}", "x^2+y^2=1"), ("3-2a", "2a+b=3"),
            ("1", "x+y=1"), ("6x", "xy=6"),
        ],
    ),
    "parameters of families": (
        [
            (r"(-32 + 3t, 64 - 5t) \text{ for some integer } t", r"(k, \, \ell) = (-32 + 3x, \; 64 - 5x)"),
            (r"(-32 + 3t, 64 - 5t), t\in\mathbb{Z}", "(-32 + 3k, 64 - 5k)"),
            ("(2c x^2 + (2 + 2c)x + 1, 2x(x + 1))", "(P(x), Q(x)) = (2Cx^2 + 2(C+1)x + 1, 2x(x+1))"),
        ],
        [
            (r"(-32 + 3t, 64 + 5t) \text{ for some integer } t", r"(k, \, \ell) = (-32 + 3x, \; 64 - 5x)"),
            ("(x, t)", "(t, x)"), ("(t, 2)", "(x, 2)"), (r"(t, 2), t\in\mathbb{Z}", "(x, 2)"),
            ("(2c x^2 + (2 + 2c)x + 1, 2x(x + 2))", "(P(x), Q(x)) = (2Cx^2 + 2(C+1)x + 1, 2x(x+1))"),
        ],
    ),
    "a point before a bracket": (
        [(r"\left( -\frac{1}{2}, \sqrt{2} \right]", r"(- \frac {1}{2}, \sqrt {2}.]"), ("(1, 2)", "(1, 2.)")],
        [("(1, 2)", "(1, .2)"), ("(1, 2]", "(1, 2.5]")],
    ),
    "French intervals": (
        [("]0,1[", "(0,1)"), ("[2;5[", "[2,5)"), (r"]-\infty;3]", r"(-\infty,3]"), (r"]0,1[\cup]2,3]", r"(0,1)\cup(2,3]")],
        [("]2,5[", "[2,5]"), ("]2,5]", "(2,5)"), ("[2,5]", "(2,5)")],
    ),
    "sets and lists": (
        [
            (r"\{x | x<\frac32\}-\{-6\}", r"(-\infty,-6)\cup(-6,\frac32)"), (r"x<-1\text{ or }x=2", r"(-\infty,-1)\cup\{2\}"),
            ("-7,-1,1,7", "1,-1,7,-7"), ("Maximum = 2, Minimum = 1", "1,2"), (r"\max=5, \min=-3", "-3,5"),
            (r"7\text{ stuffed goats and }4\text{ toy helicopters}", "7,4"),
            (
                r"f(x)=-1 \text{ for all } x\in\mathbb{Z}, \text{ and } f(x)=x+1 \text{ for all } x\in\mathbb{Z}",
                "f(x)=-1,f(x)=x+1",
            ),
            ("x≠0", r"(-\infty,0)\cup(0,\infty)"), ("2<x<102, x≠12", r"(2,12)\cup(12,102)"),
        ],
        [
            ("7,-7,1", "1,-1,7,-7"), ("2,1,3", "1,3,2"), ("1,-1,2,-2", "1,-1,2,2"), ("Maximum = 2, Minimum = 0", "1,2"),
            (r"5\text{ for }n=1\text{ and }6\text{ for }n=2", "5"), (r"x<-1\text{ or }x=3", r"(-\infty,-1)\cup\{2\}"),
            (r"x<-1, y=2", r"(-\infty,-1)\cup\{2\}"),
        ],
    ),
    "constants by another case": (
        [("y=Ce^{-x}", "y=ce^{-x}"), ("y=C_1e^x+C_2e^{-x}", "y=c_1e^{x}+c_2e^{-x}")],
        [("y=C_1e^x", "y=c_1e^{x}+c_2e^{-x}"), ("Ce^x", "e^x"), ("C^2+c", "c^2+C"), ("y=Ce^{-x}", "y=ce^{x}")],
    ),
    "marks and commands": (
        [
            (r"{\rm 15}", "15"), (r"{\bf B}", "B"), ("10{:}15", "10:15"), (r"\text{3:30 PM}", r"3\!:\!30\text{ p.m.}"),
            (r"\text{\$}70000", "70000"), ("90", r"90^\text{o}"), ("60^{o}", r"60^\circ"), ("17 \\checkmark", "17"),
            ("17\\\\", "17"), (r"\begin{aligned}17\end{aligned}", "17"), (r"\text{The answer is } 5", "5"), ("72 🎉", "72"),
            (r"\text{sin}(x)", r"\sin x"), (r"0.5\,\mu\mathrm{F}", "0.5"), ("340 J/(kg·K)", "340"),
            (r"2\pi\mathrm{R}", r"2\pi R"),
        ],
        [
            ("10{:}15", "10:16"), ("60^{o}", "60.5"), ("x^{o}", "x"), (r"\begin{aligned}17\\18\end{aligned}", "17"),
            ("340 J/(kg·K)", "340 m/s"), (r"\text{The answer is } 5", "6"),
        ],
    ),
    "words": (
        [
            (r"\text{an ellipse}", "ellipse"), (r"\text{does not exist}", r"\text{DNE}"), (r"\text{infinity}", r"\infty"),
            (r"\text{infinitely many}", r"\infty"), (r"\text{Yes, it is.}", "Yes"),
            (r"\text{A right triangle}", "right triangle"),
        ],
        [
            (r"\text{Yes, but also no}", "Yes"), (r"\text{Yes, or no}", "no"), (r"\text{finitely many}", "infinitely many"),
            (r"\infty", r"-\infty"), ("A", r"\text{the A}"), (r"\text{exists}", "DNE"),
        ],
    ),
    "units that say different things": (
        [
            (r"25^\circ", r"25^\circ\text{C}"), ("25^\\circ C", r"25\text{ degrees Celsius}"),
            (r"\$12", r"\$12\text{ per hour}"),
            ("30 pounds", "£30"), ("12 m/s", r"12\frac{m}{s}"),
        ],
        [
            (r"20^\circ C", r"20^\circ F"), (r"5\text{ m}", r"5\text{ m/s}"), (r"3\text{ kg}", r"3\text{ kg/m}^3"),
            ("£30", r"\$30"),
            (r"12 \text{ (or 13)}", "12"), (r"\text{12 is wrong}", "12"),
        ],
    ),
    "angles by name": (
        [(r"\angle CBA", r"\angle ABC"), (r"\angle ABC", "ABC")],
        [(r"\angle ACB", r"\angle ABC"), (r"\angle A", r"\angle B")],
    ),
    "relations joined by and, or": (
        [(r"x<1\text{ or }x>3", r"x>3\text{ or }x<1")],
        [(r"x>1\text{ and }x<3", r"x>1\text{ or }x<3")],
    ),
    "numbers with commas": (
        [("1,234.50", "1234.5"), ("-12,345", "-12345"), ("0,5", "0.5"), ("1,234,567", "1234567")],
        [("1,234", "1.234"), ("1,234", "1,235"), ("0,5", "5"), ("12,345", "12346")],
    ),
}  # fmt: skip

UNDONE: Pairs = [
    (r"\frac{\sqrt{12}}{2}\cdot 2", r"2\sqrt3"), (r"\frac13\pi(3)^2(4)", r"12\pi"), (r"17\cdot 1", "17"),
    (r"\frac{24}{1}\cdot 1", "24"), (r"\frac34\cdot 1", r"\frac34"), (r"\frac34\cdot\frac{1}{1}", r"\frac34"),
    (r"\frac{9\sqrt2}{3}", r"3\sqrt2"),
    (r"\frac{1+i}{1-i}", "i"), (r"\frac{2}{1+i}", "1-i"), (r"\sqrt{50}+\sqrt8", r"7\sqrt2"),
    (r"\sqrt{12}+\sqrt{27}", r"5\sqrt3"),
    (r"\sqrt3\cdot\sqrt5", r"\sqrt{15}"), (r"\pi\cdot3^2", r"9\pi"), (r"\{1,2\}\cup\{2,3\}", r"\{1,2,3\}"),
    (r"\{1,2,3\}\cap\{2,3,4\}", r"\{2,3\}"), (r"[0,5]\cap[3,8]", "[3,5]"), (r"\{1,2,3\}\setminus\{3\}", r"\{1,2\}"),
]  # fmt: skip
"""Equal, and under `evaluated` not worked out."""

RESPONSES: dict[str, tuple[Pairs, Pairs]] = {
    "boxes that are called false": (
        [
            (r"It is not hard to see that the answer is \boxed{9}.", "9"),
            (r"It is not wrong to say that the answer is \boxed{9}.", "9"),
            (r"It would be wrong to answer 8; the answer is \boxed{9}.", "9"),
            (r"It is easy to make a mistake here. The answer is \boxed{9}.", "9"),
            (r"It is impossible that n is anything but \boxed{9}.", "9"), (r"Nobody can deny that it is \boxed{9}.", "9"),
        ],
        [
            (r"It is wrong to say that the answer is \boxed{9}.", "9"), (r"I doubt that the answer is \boxed{9}.", "9"),
            (r"It is not true that the answer is \boxed{9}.", "9"), (r"It is impossible that the answer is \boxed{9}.", "9"),
            (r"It would be a mistake to answer \boxed{9}.", "9"), (r"The claim that the answer is \boxed{9} is false.", "9"),
        ],
    ),
    "questions on one line": (
        [("The answer is 12. Q: Is it even? Yes.", "12"), (r"Q: What is 6+6? So the answer is \boxed{12}.", "12")],
        [("Q: What is 5+7? Answer: 12. Q: Now solve the given one.", "12"), ("Problem: 5+7. Answer: 12. Problem: 6+6.", "12")],
    ),
    "last sentences": (
        [
            ("Therefore, Natalia sold a total of **72** clips in April and May.", "72"),
            ("So, Janet makes $9 * 2 = $18 every day at the farmer's market.", "18"), ("The train takes 5 hours.", "5"),
            ("Thus, Lisa will need **$1,250** in total.", "1250"), ("The result is `72`.", "72"), ("## 72", "72"),
            ("It falls on a Tuesday.\n\n**Tuesday**", "Tuesday"), ("16 is the answer.", "16"),
            ("It will take them 6 days to finish.", "6"), ("Hence, 65% of the students passed.", "65"),
            ("Therefore, option (D) is correct.", "D"), ("The answer is not 15 but 12.", "12"),
            ("The answer: 72 🎉", "72"), ("Thus, the total cost was $15 + $20 = $35.", "35"),
        ],
        [
            ("So far we have 12", "12"), ("We are given that there are 12 apples.", "12"), ("Given: 56 people.", "56"),
            ("The problem says that he has 56 dollars.", "56"), ("It is **55** or **56**.", "56"),
            ("Then $n = 9$ is a candidate; next check", "9"), ("**Step 1:** the first number is 56 and", "56"),
            ("Option (B) is incorrect.", "B"), ("The answer is not 15 but 12.", "15"), ("**Step 2:**", "2"),
        ],
    ),
    "several boxes": (
        [
            (r"\boxed{15\frac{39}{40}} or \boxed{\frac{639}{40}}", r"\frac{639}{40}"), (r"\boxed{2} or \boxed{-2}", "2,-2"),
            ("**Step 1**: $a=\\boxed{3}$.\n**Step 2**: $b=\\boxed{4}$.\n\nSo $a+b=\\boxed{7}$.", "7"),
            (r"Thus $x = \boxed{7}.$ Therefore $2x = \boxed{14}$.", "14"),
            (r"$a = \boxed{3}$, hence $a^2+7 = \boxed{16}$.", "16"),
            (r"We get $a=\boxed{2}$ from the first. Then the desired sum is $\boxed{9}$.", "9"),
            (r"\boxed{12}. A common mistake would give \boxed{13}.", "12"),
        ],
        [
            (r"\boxed{12} or \boxed{13}", "13"), (r"$x=\boxed{55}$. Also $x=\boxed{56}$.", "56"),
            (r"$x=\boxed{55}$ or $x=\boxed{56}$", "55"), (r"\boxed{12}. A common mistake would give \boxed{13}.", "13"),
            (r"\boxed{55}. Some students might answer \boxed{56}.", "56"), (r"\boxed{3}. So it is \boxed{4}", "4"),
        ],
    ),
    "four marks": (
        [
            ("We add.\n#### 72", "72"), ("so it is 72 #### 72", "72"),
            ("\\boxed{25} text Liberals######\\n resolved wo" + "x" * 90, "25"),
            ("The total is \\boxed{12}.\n\n#### Step 2: check\n" + "We see that 3 times 4 is 12. " * 5, "12"),
        ],
        [("\\boxed{12}\n\n#### 3. Check\n" + "We see that it is fine. " * 5, "3"), ("#### Step 2\nNow we add", "2")],
    ),
    "denied and doubted answers": (
        [
            (r"\boxed{8}, not \boxed{7}", "8"), ("It is not known at first, but after solving we get $x = 5$.", "5"),
            ("I am not sure about the sign, but the answer is 5.", "5"),
            ("Assuming that each hour lasts two, the phone will last for 6*2=12 hours.", "12"),
        ],
        [
            (r"The answer is not $\boxed{7}$.", "7"), (r"It cannot be $\boxed{12}$.", "12"), ("The answer is 12? No.", "12"),
            ("I am not sure whether the answer is 12.", "12"), ("We cannot determine whether it is 7.", "7"),
            ("Assume the answer is 9.", "9"), ("For instance, if n=2 the answer is 6.", "6"),
            ("So 7 is a candidate, however", "7"),
        ],
    ),
    "worked examples": (
        [("Example 3. Solution. We add 2 and 6. Answer: 8", "8")],
        [
            ("Example: Q: 2+6? Answer: 8\nNow for our problem, we begin.", "8"),
            ("Sample problem: 4*5. Answer: 20.\n\nThe actual problem asks for more. Let us begin by drawing it.", "20"),
        ],
    ),
    "escaped money": ([(r"Hence, she paid \$18 in total.", "18")], [(r"Hence, she paid \$18 in total.", "81")]),
    "other languages": (
        [
            ("Die Lösung lautet 1'000'000.", "1000000"), ("الجواب هو 15", "15"), ("因此，他一共走了35千米。", "35"),
            ("故选：B", "B"), ("故选D。", "D"), ("【答案】B", "B"), ("答案选C", "C"), ("所以正确选项是 B。", "B"),
            ("Vậy đáp số là 17.", "17"), ("คำตอบคือ 17", "17"), ("Jawabannya adalah 15.", "15"),
        ],
        [("故选：B", "C"), ("答案选C或D", "C"), ("คำตอบคือ 17", "71"), ("答えは12ではありません。", "12")],
    ),
}  # fmt: skip

WITH_PROBLEM: dict[str, tuple[Triples, Triples]] = {
    "digits in the base that is asked for": (
        [
            ("10101_2", "10101", "Write 21 in base 2."), ("10101", "10101_2", "Write 21 in base $2$."),
            ("75_8", "75", "Write 61 in base 8."),
        ],
        [
            ("75_9", "75", "Write 61 in base 8."), ("10101_2", "21", "Write $10101_2$ in base 10."),
            ("1010_2", "10101", "Write 21 in base 2."),
        ],
    ),
    "a name before a number of the problem": (
        [
            ("n = 2", "2", "Express the larger of 2 and 1 as n."), ("2.0", "2", "Express the larger of 2 and 1."),
            ("２", "2", "Write the larger of 2 and 1."),
        ],
        [("x=0.75", r"\frac34", "Write $0.75$ as a fraction."), ("0.75", r"\frac34", "Write $0.75$ as a fraction.")],
    ),
    "a value of an expression that is asked for": (
        [
            ("x+y=5", "5", "If $xy=6$ and $x-y=1$, find $x+y$."), ("4x+6=22", "22", "If $2x+3=11$, find $4x+6$."),
            ("x^2+y^2=13", "13", "Find $x^2+y^2$."),
            ("b=-3, c=0", "-3,0", "Find $b$ and $c$."),
            ("T(1)=2, T(2)=4", "2,4", "Find $T(1)$ and $T(2)$."),
        ],
        [
            ("x+y=5", "5", "If $x+y=5$, find $x$."), ("2x+3=11", "11", "If $2x+3=11$, find $x$."),
            ("x+y=4", "5", "Find $x+y$."),
            ("2x+3=11", "4", "If $2x+3=11$, find $x$."),
        ],
    ),
    "absolute values of the problem": (
        [("-2<x<2", "-2<x<2", "Solve |x|<2."), ("|x|<2", "-2<x<2", "Where does the series converge?")],
        [("|x|<2", "-2<x<2", "Solve |x|<2."), ("|x|<2", "-2<x<2", "Solve $|x|<2$.")],
    ),
    "digits in a base that is asked for": (
        [("2516", "2516_8", "Write 1358 in base 8.")],
        [("1358", "2516_8", "Write 1358 in base 8."), ("2516", "2516_8", "Write it."),
            ("2517", "2516_8", "Write it in base 8.")],
    ),
}  # fmt: skip
"""(answer, gold, problem), under `evaluated`."""

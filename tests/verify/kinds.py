r"""Kinds of right answers that a reader of LaTeX alone loses, each with its near misses.

`KINDS` holds (same, different) for each kind: pairs of answers, compared both ways. `GOLDS` holds (response, gold) pairs
of which only that direction means something, and `RESPONSES` whole responses.
"""

Pairs = list[tuple[str, str]]

KINDS: dict[str, tuple[Pairs, Pairs]] = {
    "printed floats": (
        [
            ("3.141592653589793", r"\pi"), ("0.33333333333333331", r"\frac13"), ("0.3333333333333333", r"\frac{1}{3}"),
            ("1.4142135623730951", r"\sqrt{2}"), ("0.30000000000000004", "0.3"), ("2.9999999999999996", "3"),
            ("2.23606797749979", r"\sqrt5"), ("7.0000000000000001", "7"), ("0.6666666666666666", r"\frac23"),
            ("3.14159265358979311600", r"\pi"), ("22.360679774997898", r"10\sqrt5"),
        ],
        [
            ("3.141592653589783", r"\pi"), ("0.33333333333333431", r"\frac13"), ("2.9999999999", "3"),
            ("1.4142135623730851", r"\sqrt{2}"), ("0.300000000000004", "0.3"), ("3.141592653589793", r"\frac{355}{113}"),
            ("0.1234567890123456", "0.1234567890123466"), ("12345678901234567890", "12345678901234567891"),
        ],
    ),
    "bound names": (
        [
            ("f(x)=x", "f(z)=z"), ("f(x)=x^2+1", "f(t)=t^2+1"), ("f(x)=2x+3", "f(n)=3+2n"), (r"n\pi", r"k\pi"),
            (r"\frac{\pi}{4}+k\pi", r"\frac{\pi}{4}+n\pi"), (r"60^\circ+360^\circ n", r"60^\circ+360^\circ k"),
            ("x^2+C", "x^2+c"), (r"\frac{x^3}{3}+C", r"\frac13x^3+K"), (r"\sin x+C", r"\sin x+C_1"),
            (r"2k+1, k\in\mathbb{Z}", r"2n+1, n\in\mathbb{Z}"),
            (r"x=2\pi k", r"x=2\pi n"), ("f(a,b)=a+2b", "f(x,y)=x+2y"),
        ],
        [
            ("f(x)=x", "f(z)=2z"), ("f(x)=x+a", "f(z)=z+b"), ("n^2", "k^2"), (r"n\pi", r"2k\pi"), ("x^2+C", "x^2"),
            ("x^2+C", "x^3+c"), ("a^2+b^2+c", "a^2+b^2+C"), (r"\pi r^2", r"\pi n^2"), ("2x+C", "2x-1"),
            ("f(x)=x+z", "f(z)=2z"), ("f(a,b)=a+2b", "f(x,y)=2x+y"), (r"2k, k\in\mathbb{Z}", r"2n+1, n\in\mathbb{Z}"),
        ],
    ),
    "qualifiers": (
        [
            (r"2x+1 \text{ for all real } x", "2x+1"), (r"n\pi \text{ where } n \text{ is an integer}", r"n\pi"),
            (r"n\pi, n\in\mathbb{Z}", r"n\pi"), (r"k\pi \quad (k\in\mathbb{Z})", r"n\pi"),
            (r"k\pi, k \in \mathbb Z", r"n\pi, \text{ where } n \text{ is an integer}"),
            (r"x=\frac{\pi}{6}+2k\pi, \text{ where } k \text{ is any integer}", r"\frac{\pi}{6}+2n\pi"),
            ("f(x) = x for all real numbers x", "f(x)=x"), ("f(x)=2x for all x", "f(x)=2x"),
            (r"f(x)=cx, \text{ where } c \text{ is a constant}", "f(x)=cx"),
            (r"f(x)=x^2 \text{ for all } x\in\mathbb{R}", "x^2"), (r"f(n)=n+1 \quad \forall n \in \mathbb{N}", "n+1"),
            (r"2^n\text{ for } n\ge1", "2^n"),
        ],
        [
            (r"5 \text{ if } n \text{ is even}", "5"), (r"k\pi, k\in\mathbb{Z}", r"k\pi, k\in\mathbb{N}"),
            (r"n\pi, n\in\mathbb{Z}", r"2n\pi, n\in\mathbb{Z}"), (r"2x+1 \text{ for all real } x", "2x"),
            (r"x\in\mathbb{Z}", r"x\in\mathbb{R}"), (r"5\text{ for } n=1\text{ and }6\text{ for } n=2", "5"),
        ],
    ),
    "plus-minus in tuples": (
        [
            (r"(\pm 1, 2)", "(1,2),(-1,2)"), (r"(3,\pm\sqrt2)", r"(3,\sqrt2),(3,-\sqrt2)"),
            (r"(\pm 1,\mp 2)", "(1,-2),(-1,2)"), (r"(\pm1,\pm1)", "(1,1),(1,-1),(-1,1),(-1,-1)"),
        ],
        [
            (r"(\pm 1, 2)", "(1,2)"), (r"(\pm 1, 2)", "(1,2),(1,-2)"), (r"(\pm 1,\mp 2)", "(1,2),(-1,-2)"),
            (r"(3,\pm2)", "(3,2),(-3,-2)"),
        ],
    ),
    "sets of reals": (
        [
            (r"(-\infty,0)\cup\{1\}", r"\{1\}\cup(-\infty,0)"), (r"(0,2)\cup(1,3)", "(0,3)"),
            (r"[0,1]\cup[1,2]", "[0,2]"), (r"(0,1)\cup\{1\}", "(0,1]"), (r"(0,3)\setminus\{1\}", r"(0,1)\cup(1,3)"),
            (r"[0,3]\setminus\{0\}", "(0,3]"), (r"x>0, x\ne1", r"(0,1)\cup(1,\infty)"),
            (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R}\setminus\{2\}"), (r"(-1,1)\cup(0,\frac12)", "(-1,1)"),
            (r"(0,\sqrt2)\cup(1,2)", "(0,2)"), (r"\{x\in\mathbb{R}: x\ne 2\}", r"x\neq2"),
            (r"(-\infty,1)\cap(0,\infty)", "(0,1)"), (r"\mathbb{R}-\{0\}", r"(-\infty,0)\cup(0,\infty)"),
            (r"x>0\text{ and }x<5", "(0,5)"), (r"x\ge1 \text{ and } x\ne 2", r"[1,2)\cup(2,\infty)"),
            (r"\mathbb{R}\setminus\{-1,1\}", r"x\ne\pm1"),
        ],
        [
            (r"(-\infty,0)\cup\{1\}", r"(-\infty,0)"), (r"(0,1)\cup(1,2)", "(0,2)"), (r"(0,3)\setminus\{1\}", "(0,3)"),
            (r"(0,1)\cup\{1\}", "(0,1)"), (r"(0,3)\setminus\{1\}", r"(0,3)\setminus\{2\}"),
            (r"(0,2)\cup(1,3)", "(1,2)"), (r"[0,1]\cup[2,3]", "[0,3]"), (r"x>0, x\ne1", r"(0,\infty)"),
            (r"x>0\text{ and }x<5", r"(-\infty,\infty)"), (r"x>0\text{ or }x<5", "(0,5)"),
            (r"(-\infty,0)\cup\{1\}", r"(-\infty,0)\cup\{2\}"),
        ],
    ),
    "signs": (
        [("14 + -3i", "14-3i"), ("5 - -3", "8"), ("x + -2", "x-2"), ("3 + (-2i)", "3-2i"), (r"-\,-4", "4")],
        [("14 + -3i", "14+3i"), ("5 - -3", "2"), ("x + -2", "x+2")],
    ),
    "units": (
        [
            ("9.8 m/s^2", "9.8"), (r"9.8\,\frac{m}{s^2}", "9.8"), ("5 N", "5"), (r"60\ \frac{km}{h}", "60"),
            (r"60\ \frac{\text{km}}{\text{h}}", "60 km/h"), ("10 Ω", "10"), (r"10\ \Omega", "10"), ("12 J", "12"),
            ("3 kg·m/s", "3"), (r"3\ \text{kg}\cdot\text{m}/\text{s}", "3"), (r"9.8\ \mathrm{m\,s^{-2}}", "9.8"),
            ("20 ℃", "20"), ("20 °C", "20"), ("5 km^2", "5"), ("5 kg/m^3", "5"), ("5公斤", "5"), ("192 公斤", "192"),
            ("12平方厘米", "12"), ("30分钟", "30"), ("8 元", "8"), ("5 рублей", "5"), ("3 años", "3"), ("100 ㎏", "100"),
            ("3万", "30000"), ("4.5亿", "450000000"), ("12 Hz", "12"), (r"5\times10^{3}\ \mathrm{Pa}", "5000"),
            ("5公斤", "5 kg"), ("2 m/s", "2 meters per second"), (r"2\pi\ \text{rad/s}", r"2\pi"), ("12個", "12"),
            ("15 m³", "15"), ("6 V", r"6\text{ volts}"),
        ],
        [
            ("5 N", "5 J"), ("9.8 m/s^2", "9.8 m/s"), ("5x", "5"), ("5 n", "5"), ("5N", "5"), ("5公斤", "5克"),
            ("5公斤以上", "5"), ("3万", "3"), ("3千克", "3000"), ("10 Ω", "10 V"), ("5 km/h", "5 m/s"), ("5 m^2", "5 m^3"),
            ("30分钟", "30秒"), ("5公斤", "6公斤"), (r"\frac{km}{h}", "1"), ("5至6元", "5"), ("x N", "x"),
        ],
    ),
    "markdown": (
        [
            ("**12**", "12"), ("`12`", "12"), ("'12'", "12"), ("**12** cm", "12"), ("> **12**", "12"), ("__12__", "12"),
            (r"**$\frac12$**", "0.5"), ("*12*", "12"), ("~15~", "15"), ("3~cm", "3"), (r"x~=~5", "5"),
            ("x**2", "x^2"),
        ],
        [("**12**", "13"), ("x**2", "2x"), ("2**3", "23"), ("> 12", "12"), ("2*3", "23"), ("x**2", "x")],
    ),
    "choice letters": (
        [
            ("B)", "B"), ("B) 12", "B"), ("C. 12", "C"), ("C. 12", "12"), ("B: 12", "B"), ("(B) 12", "B"),
            (r"\text{B) } 12", "B"), (r"\text{C. } 12", "C"), ("**B**", "B"), ("D) none of these", "D"),
            (r"\textbf{B. }x^2", "B"),
        ],
        [
            ("B) 12", "C"), ("B) 12", "13"), ("C. 12", "D"), ("B) 12, C) 13", "B"), ("B) or C)", "B"), ("B. 12", "B. 13"),
            ("A and B", "A"),
        ],
    ),
    "no solution": (
        [
            (r"\text{no solutions}", r"\emptyset"), (r"\{\}", r"\emptyset"), ("no solution", r"\{\}"),
            (r"\text{no real solutions}", r"\varnothing"), ("No solution.", "no solutions"), ("∅", "{}"),
            (r"\text{There are no solutions}", r"\emptyset"), (r"\text{empty set}", r"\emptyset"), ("无解", r"\emptyset"),
            (r"\{\,\}", r"\varnothing"), (r"x\in\emptyset", r"\emptyset"), ("нет решений", "no solution"),
        ],
        [
            (r"\emptyset", "0"), (r"\{\}", r"\{0\}"), (r"\text{no}", r"\emptyset"), (r"\text{no solutions}", "0"),
            (r"\emptyset", r"\{\emptyset\}"), (r"\text{one solution}", r"\emptyset"),
            (r"\text{no integer solutions}", r"\text{no}"), (r"\text{not empty}", r"\emptyset"),
        ],
    ),
    "angles": (
        [
            ("30°30'", "30.5"), (r"30^\circ30'", r"30.5^\circ"), (r"45^{\circ}15'36''", "45.26"), ("30° 30′", "30.5°"),
            (r"60^\circ", r"\frac{\pi}{3}"), (r"180^\circ", r"\pi"), (r"22.5^\circ", r"\frac{\pi}{8}"),
            (r"\frac{\pi}{4}\text{ radians}", r"45^\circ"), (r"\frac{\pi}{4}\text{ rad}", r"\frac{\pi}{4}"),
        ],
        [
            ("30°30'", "30.3"), ("30°30'", "30°3'"), ("30°30'", "60"), (r"60^\circ", r"\frac{\pi}{6}"), ("60",
            r"\frac{\pi}{3}"),
            (r"60\text{ cm}", r"\frac{\pi}{3}"), (r"2^\circ", "2 rad"), (r"60^\circ", r"60\pi"),
        ],
    ),
    "repeating decimals": (
        [
            ("0.(3)", r"\frac13"), (r"0.333\ldots", r"\frac13"), ("0.333...", "1/3"), ("0.1(6)", r"\frac16"),
            ("0.1666...", r"\frac16"), ("0.(36)", r"\frac{4}{11}"), (r"0.363636\dots", r"\frac{4}{11}"),
            ("0.666…", r"\frac23"), ("2.(9)", "3"), ("-1.(3)", r"-\frac43"), ("0,(3)", r"\frac13"),
            (r"0.\overline{36}", "0.(36)"), ("0.999...", "1"),
        ],
        [
            ("0.(3)", "0.3"), ("0.333...", "0.333"), ("0.(36)", "0.36"), ("0.(3)", r"\frac23"), ("0.1(6)", "0.(16)"),
            ("0.12...", "0.12"), ("0.666...", "0.667"), ("0.33...", "0.33"), ("f(3)", r"\frac13"),
        ],
    ),
    "vulgar fractions": (
        [
            ("⅝", r"\frac58"), ("2⅝", r"\frac{21}{8}"), ("⅕", "0.2"), ("1⅞", "1.875"), ("2½", "2.5"), ("⅙", "1/6"),
            ("-3¼", "-3.25"), ("⅒", "0.1"), ("3 ⅜ in", "3.375"),
        ],
        [("⅝", r"\frac85"), ("2½", "1"), ("2⅝", r"\frac{10}{8}"), ("1⅞", r"\frac{7}{8}")],
    ),
    "matrices": (
        [
            ("[[1,2],[3,4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
            ("[[1, 2], [3, 4]]", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"), ("[[1],[2]]", r"\begin{pmatrix}1\\2\end{pmatrix}"),
            ("[[1/2,0],[0,1]]", r"\begin{pmatrix}0.5&0\\0&1\end{pmatrix}"),
            ("Matrix([[1,2],[3,4]])", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"), ("[1,2,3]", "(1,2,3)"),
        ],
        [
            ("[[1,2],[3,4]]", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"), ("[[1,2],[3,4]]", "1,2,3,4"),
            ("[[1,2],[3,4]]", r"[1,2]\cup[3,4]"), ("[[1,2]]", r"\begin{pmatrix}1\\3\end{pmatrix}"),
        ],
    ),
    "labels": (
        [
            ("Minimum: 1, Maximum: 3", "1, 3"), ("Minimum: 1, Maximum: 3", "Maximum: 3, Minimum: 1"), ("a: 3", "3"),
            (r"\text{Minimum: }1, \text{Maximum: }3", "(1,3)"), ("x: 2, y: 5", "x=2, y=5"), ("Area: 12", "12"),
            (r"\text{Area} = 12", "12"), ("Total cost: $12", "12"), ("x: 2, y: 5", "(2,5)"), ("Width: 3; height: 4", "3, 4"),
            (r"\text{Alice: }3,\ \text{Bob: }5", "3, 5"), ("a: b = 3:4", "3:4"),
        ],
        [
            ("Minimum: 3, Maximum: 1", "Minimum: 1, Maximum: 3"), ("Minimum: 3, Maximum: 1", "1, 3"), ("a: 3", "4"),
            ("x=3, y=1", "1, 3"), ("Area: 12", "13"), ("Minimum: 1, Maximum: 3", "1"), ("2: 3", "3"), ("2:3", "2"),
            ("x: 2, y: 5", "x=5, y=2"),
        ],
    ),
    "bases": (
        [
            ("(2014)_5", "2014_5"), ("(2014)_{5}", "259"), ("2014_{(5)}", "2014_5"), ("2014 (base 5)", "2014_5"),
            (r"2014\text{ (base }5)", "2014_5"), (r"2014_{\text{five}}", "2014_5"), ("2014 in base 5", "2014_5"),
            (r"\text{2014 base 5}", "2014_5"), ("ABC_{16}", "2748"), (r"\overline{12}_{5}", "7"), ("0b1011", "1011_2"),
        ],
        [
            ("(2014)_5", "2014"), ("(2014)_5", "2014_6"), ("2014 (base 5)", "2014_7"), ("(2019)_5", "2019_6"),
            ("2014 in base 5", "2014"),
        ],
    ),
    "names with marks": (
        [
            (r"\overline{AB}", "AB"), (r"\overline{AB}", r"\overline{BA}"), (r"\triangle ABC", "ABC"),
            (r"\overleftrightarrow{AB}", "AB"), (r"\angle ABC", r"\angle ABC"),
        ],
        [
            (r"\overline{AB}", "AC"), (r"\overline{z}", "z"), (r"\overline{z}", r"z+1"), (r"\overrightarrow{AB}",
            r"\overrightarrow{BA}"),
        ],
    ),
    "two forms": (
        [
            (r"15\frac{39}{40} \text{ or } \frac{639}{40}", r"\frac{639}{40}"), ("0.5 or 1/2", "0.5"),
            ("1/2 = 0.5", "0.5"), ("12 (twelve)", "12"), (r"\frac12\ (=0.5)", "0.5"), ("0.5 (or 50%)", "0.5"),
            ("6 (or six)", "6"), (r"\frac{3}{4}, \text{ or } 0.75", "0.75"), (r"\frac{3}{4} \text{ i.e. } 0.75", "0.75"),
            (r"\frac{1}{3}\approx 0.33", r"\frac13"),
        ],
        [
            (r"15\frac{39}{40} \text{ or } \frac{638}{40}", r"\frac{639}{40}"), ("0.5 or 1/3", "0.5"), ("5, 5", "5"),
            ("12 (thirteen)", "12"),
            (r"\frac12\ (=0.6)", "0.5"), ("0.5 and 1/3", "0.5"),
        ],
    ),
    "ordinals": (
        [
            ("first", "1"), (r"\text{first}", "1st"), ("third", "3rd"), (r"\text{Twelfth}", "12"), ("20th", r"20^{\text{th}}"),
            (r"\text{twenty-one}", "21"), ("thirty five", "35"), ("one hundred", "100"),
        ],
        [("first", "2"), ("third", r"\frac13"), ("5 seconds", "2"), (r"\text{first}", r"\text{second}"), ("thirty", "13")],
    ),
    "equations": (
        [
            ("y - 2x = 1", "y = 2x+1"), ("2x - y + 1 = 0", "y=2x+1"), (r"\frac{x}{2}+\frac{y}{3}=1", "3x+2y=6"),
            (r"y-1=\frac12(x-2)", r"y=\frac12x"), ("xy=1", r"y=\frac1x"), ("x^2+y^2=25", "y^2=25-x^2"),
        ],
        [
            ("y - 2x = 1", "y = 2x-1"), ("y - 2x = 1", "2x+2"), (r"y=\sqrt{1-x^2}", "x^2+y^2=1"), ("x+y=1", "x-y=1"),
            ("x^2+y^2=25", "x^2+y^2=5"), ("y=x^2", "x=y^2"),
        ],
    ),
    "damaged LaTeX": (
        [
            ("25 cm<sup>2</sup>", "25"), ("x<sup>2</sup>", "x^2"), ("a<sub>1</sub>", "a_1"), ("-\x0crac{1}{2}", "-0.5"),
            ("\\\\frac{1}{2}", "0.5"), ("$12", "12"), ("12$", "12"), (r"\\sqrt{2}", r"\sqrt2"), ("2\times3", "6"),
            ("2\theta", r"2\theta"),
            ("\\\\dfrac{3}{4}", "0.75"), ("x &lt; 3", "x<3"),
            ("\\\\(12\\\\)", "12"), (r"$$\frac12", "0.5"), ("\x08inom{5}{2}", "10"),
            (r"\frac{1}{2", "0.5"), (r"\frac{1}{2}}", "0.5"), ("&nbsp;12", "12"),
        ],
        [
            ("x<sup>2</sup>", "2x"), ("\x0crac{1}{2}", "2"), ("3<sup>2</sup>", "32"), ("\\\\frac{1}{2}", "12"),
            ("a<sub>1</sub>", "a"), ("x &lt; 3", "x>3"),
        ],
    ),
    "separators": (
        [
            ("1.234.567,89", "1234567.89"), ("1'000'000", "1000000"), ("1 234 567", "1234567"), ("1.234,56", "1234.56"),
            ("1,234,567.89", "1234567.89"), ("12,5", "12.5"), ("1'000", "1000"), ("１２３", "123"), ("１，２３４", "1234"),
            ("٤٢", "42"), ("𝟏𝟐", "12"), ("1_000_000", "1000000"), ("1.000.000", "1000000"), ("１．５", "1.5"),
        ],
        [
            ("1.234.567,89", "1.23456789"), ("1'000", "1"), ("1.234", "1234"), ("1.234,56", "1.23456"), ("12,5", "125"),
            ("1 23", "123"), ("1.23.456", "123456"), ("1'00", "100"), ("1_0", "10"),
        ],
    ),
    "domains of functions": (
        [
            (r"\frac{\pi}{2}-\arcsin x", r"\arccos x"), (r"2\arcsin\sqrt a", r"\arccos(1-2a)"),
            (r"u\sqrt[3]{u}^2", "u^{5/3}"), (r"\ln(x-10)", r"\ln(10)+\ln(\frac{x}{10}-1)"),
            (r"\sqrt{(x-3)(4-x)}", r"\sqrt{-x^2+7x-12}"), (r"\arctan x+\arctan\frac1x", r"\arctan\frac{1}{x}+\arctan x"),
            (r"\ln(ab)", r"\ln a+\ln b"), (r"\ln\frac{x-1}{x+1}", r"\ln(x-1)-\ln(x+1)"),
            (r"\sqrt{x}\sqrt{x-1}", r"\sqrt{x^2-x}"), (r"e^{ix}", r"\cos x+i\sin x"), (r"\sin^4x-\cos^4x", r"-\cos2x"),
            (r"\sqrt[3]{x^3+3x^2+3x+1}", "x+1"), (r"\tan\frac{x}{2}", r"\frac{\sin x}{1+\cos x}"),
            (r"\arccos\frac{1-x^2}{1+x^2}", r"2\arctan |x|"), (r"x^{2/3}", r"\sqrt[3]{x^2}"),
        ],
        [
            (r"\frac{\pi}{2}-\arcsin x", r"\arcsin x"), (r"\ln x", r"\ln|x|"), (r"2\arcsin\sqrt a", r"\arccos(1+2a)"),
            (r"\sqrt{x^2}", "x"), (r"\arctan x", r"\arcsin x"), (r"\sqrt{x-5}", r"\sqrt{x-6}"), (r"\ln(x-10)", r"\ln(x-11)"),
            (r"\arcsin(\sin x)", "x"), (r"x^{1/3}", r"|x|^{1/3}"), (r"\sqrt{x}\sqrt{x}", "|x|"),
            (r"x+10^{-12}", "x"), (r"e^{ix}", r"\cos x-i\sin x"), (r"\lfloor x\rfloor", "x"), (r"\lfloor x\rfloor", "1"),
            (r"\max(x,0)", "x"), (r"\sqrt{-1-x^2}", r"\sqrt{-2-x^2}"), (r"\cos(2\pi n)", "1"),
        ],
    ),
    "digit-like characters": (
        [("①", "①"), ("x₂", "x_2"), ("x⁷", "x^7"), ("10⁻²", "0.01"), ("2¹⁰", "1024")],
        [("①", "2"), ("⑴", "1"), ("❶", "5"), ("x①", "x"), (r"\frac{①}{2}", "0.5"), ("5㊿", "5"), ("²", "2"), ("፩", "2")],
    ),
}  # fmt: skip

RESPONSES: dict[str, tuple[Pairs, Pairs]] = {
    "other languages": (
        [
            ("答案：12", "12"), ("答案是12。", "12"), ("因此，小明的体重是192公斤。", "192"), ("所以答案为 **12**", "12"),
            ("最终答案：\n\n$\\frac12$", "0.5"), ("Ответ: 12", "12"), ("Ответ: 12 рублей.", "12"), ("Respuesta: 12", "12"),
            ("La respuesta es 12.", "12"), ("Respuesta final: **12**", "12"), ("Réponse : 12", "12"),
            ("La réponse est 12,5.", "12.5"), ("Antwort: 1.234.567,89", "1234567.89"), ("Die Antwort ist 12.", "12"),
            ("Risposta: 12", "12"), ("Resposta: 12", "12"), ("答え：１２", "12"), ("정답: 12", "12"), ("答案：（B）", "B"),
            ("因此，总共有 36 个苹果。", "36"), ("Отговор: 12", "12"), ("Đáp án: 12", "12"), ("Odpowiedź: 12", "12"),
        ],
        [
            ("答案：12", "13"), ("答案不是12。", "12"), ("Ответ: 12 или 13", "12"), ("Respuesta: 12 o 13", "12"),
            ("La respuesta no es 12.", "12"), ("Antwort: 1.234", "1234"), ("因此，小明的体重不是192公斤。", "192"),
            ("答案：12或13", "12"), ("我们先看192公斤，然后再想别的办法来解决这个问题", "192"),
            ("Antwort: 12 oder 13", "12"), ("Réponse : 12 ou 13", "13"),
        ],
    ),
    "markdown": (
        [
            ("Answer: **12**, not 15", "12"), ("The answer is **12**, not 15.", "12"), ("**Answer:** `12`", "12"),
            ("> **12**", "12"), ("### Answer\n\n> **12**", "12"), ("**12**", "12"), ("The answer is '12'.", "12"),
            ("**Final Answer**: __12__", "12"), ("**12**, not 15", "12"),
        ],
        [
            ("Answer: **12**, not 15", "15"), ("The answer is not **12**", "12"), ("**12**, not 15", "15"),
            ("**12** or **15**", "12"),
        ],
    ),
    "parts": (
        [
            ("(a) \\boxed{3}\n\n(b) \\boxed{4}", "3, 4"), ("Part (a): $\\boxed{3}$.\n\nPart (b): $\\boxed{4}$.", "3, 4"),
            ("The minimum is \\boxed{1} and the maximum is \\boxed{3}.", "1, 3"),
        ],
        [
            ("(a) \\boxed{3}\n\n(b) \\boxed{4}", "3"), ("(a) \\boxed{3}\n\n(b) \\boxed{4}", "4, 3"),
            ("(a) \\boxed{3}\n\n(b) \\boxed{4}", "3, 5"), ("\\boxed{3}\n\nSo \\boxed{4}", "4"),
        ],
    ),
}  # fmt: skip

GOLDS: dict[str, tuple[Pairs, Pairs]] = {
    "alternatives": (
        [
            (r"\boxed{7}", '["7"]'), (r"\boxed{6}", '["6", "six"]'), (r"\boxed{\text{six}}", '["6", "six"]'),
            (r"\boxed{6}", "6 (or six)"), (r"\boxed{\frac12}", r'["\\frac{1}{2}"]'), (r"\boxed{1,2}", '["1,2"]'),
            (r"\boxed{0.5}", r'["\\dfrac{1}{2}", "50\\%"]'), (r"\boxed{7}", "['7']"), (r"\boxed{[1,2]}", "[1,2]"),
            (r"\boxed{12}", "12 (also accept 12.5)"), (r"\boxed{12.5}", "12 (also accept 12.5)"),
            (r"\boxed{A}", '["A"]'), (r"\boxed{-1}", '["-1"]'),
        ],
        [
            (r"\boxed{8}", '["7"]'), (r"\boxed{7}", '["6", "six"]'), (r"\boxed{6, 7}", '["6", "7"]'),
            (r"\boxed{12 \text{ (or } 13)}", "12"), (r"\boxed{1}", "[1,2]"), (r'\boxed{["12", "13"]}', "12"),
            (r"\boxed{7}", "6 (or six)"), (r"\boxed{6 (or seven)}", "6"), (r"\boxed{12 (or 13)}", "13"),
            (r"\boxed{12 (or 13)}", "12"), (r"\boxed{}", '[""]'), (r"\boxed{7}", "[]"), (r"\boxed{1}", '["1,2"]'),
        ],
    ),
    "damaged": (
        [
            (r"\boxed{\frac12}", "$\x0crac{1}{2}$"), (r"\boxed{\text{yes}}", "\text{yes}"), (r"\boxed{\theta}", "\theta"),
            (r"\boxed{0.5}", "\x0crac{1}{2}"), (r"\boxed{0.5}", '["\\frac{1}{2}"]'), (r"\boxed{\frac12}",
            "\\\\boxed{\\\\frac{1}{2}}"), (r"\boxed{5}", "$5"),
            (r"\boxed{5}", "\x08oxed{5}"), (r"\boxed{\frac12}", "\\\\( \\\\frac{1}{2} \\\\)"), (r"\boxed{25}",
            "25 cm<sup>2</sup>"),
        ],
        [(r"\boxed{2}", "$\x0crac{1}{2}$"), (r"\boxed{12}", "$\x0crac{1}{2}$")],
    ),
}  # fmt: skip

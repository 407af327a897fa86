"""No text is evaluated as Python: not by us, nor by latex2sympy2 or sympy on our behalf.

An audit hook sees every `eval`, `exec` and `compile` of source text in a process, wherever it is called from. It runs
in a process of its own here, because a hook cannot be taken off again.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

from hostile import hostile_pairs
from pairs import SAME

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {"eval", "exec", "compile", "sympify", "parse_expr", "S", "lambdify", "__import__"}

AUDITED = """
import json, os, sys
from pipeline.verify.comparing import symbolic
from pipeline.verify.grading import grade_pair
from pipeline.verify.types import DEFAULT

symbolic.load()
seen = []

def importing():
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back

def hook(event, arguments):
    if event == "compile" and not importing():
        seen.append(repr(arguments)[:200])
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.fork"):
        seen.append(event)

rows = json.load(sys.stdin)
sys.addaudithook(hook)
asked = 0

def ask(*question):
    global asked
    asked += 1
    return symbolic.ask(*question)

for response, gold in rows:
    grade_pair(response, gold, DEFAULT, ask)
    try:
        ask("equal", response[7:-1], gold)  # also what a cheaper layer decides
    except RecursionError:
        pass
for text in (row[0] for row in rows):
    try:
        symbolic.read(text[7:-1])
    except RecursionError:
        pass
print(json.dumps({"asked": asked, "seen": seen}))
"""


def test_nothing_is_compiled_while_answers_are_graded(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    rows = [(rf"\boxed{{{a}}}", b) for pairs in SAME.values() for a, b in pairs]
    code = f"open('{marker}','w')"
    rows += [(rf"\boxed{{{wrapped % code}}}", "1") for wrapped in WRAPPERS]
    rows += [(response, gold) for response, gold in hostile_pairs(marker) if str(marker) in response]
    done = subprocess.run(
        [sys.executable, "-c", AUDITED], input=json.dumps(rows), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["asked"] > 50
    assert found["seen"] == []
    assert not marker.exists()


WRAPPERS = [r"\variable{%s}", r"\variable{x} + %s", r"x = %s", r"\text{%s}", r"f(%s)", r"\frac{%s}{2}", r"\mathit{%s}"]


def test_latex2sympy2_with_values_given_is_refused(tmp_path: Path) -> None:
    """Its own way to `parse_expr`: a variable whose value is a string."""
    program = """
import latex2sympy2
from pipeline.verify.comparing import symbolic
from pipeline.verify.comparing.sealing import UnsafeError
symbolic.load()
__import__("sympy").core.all_classes = []  # gone from this sympy; with it the way is open
try:
    latex2sympy2.latex2sympy(r"\\variable{x}+1", {"x": "open('%s','w')"})
except UnsafeError:
    print("refused")
try:
    __import__("sympy").sympify("open('%s','w')")
except UnsafeError:
    print("refused")
"""
    marker = tmp_path / "executed"
    done = subprocess.run(
        [sys.executable, "-c", program % (marker, marker)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.split() == ["refused", "refused"], done.stderr[-2000:]
    assert not marker.exists()


def test_a_worker_refuses_to_compile() -> None:
    program = """
from pipeline.verify.workers import jail
jail.close()
for attempt in (lambda: eval("1+1"), lambda: exec("x=1"), lambda: compile("1", "x", "eval"), lambda: open("/dev/null", "w"),
                lambda: __import__("os").system("true"), lambda: __import__("subprocess").run(["true"])):
    try:
        attempt()
        print("done")
    except jail.JailError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.split() == ["refused"] * 6, done.stderr[-2000:]


def test_our_own_code_calls_none_of_these() -> None:
    for path in sorted((ROOT / "pipeline" / "verify").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                is_regex = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "re"
                assert name not in FORBIDDEN or is_regex, f"{path.name}:{node.lineno} calls {name}"

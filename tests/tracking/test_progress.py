"""Time left by a clock that the test moves; what a terminal gets and what a log file gets."""

import io

import pytest

from pipeline.tracking.progress import Progress, Speed, duration, shown


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_time_left_follows_the_recent_speed_and_not_the_first_slow_step():
    clock = Clock()
    speed = Speed(10, clock=clock)
    assert speed.seconds_left is None
    clock.now += 60  # the first step compiles something
    speed.reach(1)
    assert speed.seconds_left == pytest.approx(9 * 60)
    for done in (2, 3, 4):
        clock.now += 2
        speed.reach(done)
    assert speed.rate == pytest.approx(0.5)
    assert speed.seconds_left == pytest.approx(12)


def test_time_left_of_many_tiny_items():
    clock = Clock()
    speed = Speed(10_000, clock=clock)
    for done in range(1, 5001):
        clock.now += 0.001
        speed.reach(done)
    assert speed.seconds_left == pytest.approx(5.0, rel=0.02)


def test_time_left_counts_only_what_this_process_did():
    clock = Clock()
    speed = Speed(100, done=90, clock=clock)
    clock.now += 5
    speed.reach(95)
    assert speed.seconds_left == pytest.approx(5)


def test_a_log_file_gets_plain_lines_now_and_then():
    clock, out = Clock(), io.StringIO()
    with Progress(1000, "grading", "rows", stream=out, clock=clock) as progress:
        for _ in range(1000):
            clock.now += 0.01
            progress.advance()
    lines = out.getvalue().splitlines()
    assert 8 <= len(lines) <= 13
    assert all(line.isprintable() for line in lines)
    assert lines[4].startswith("grading   500/1,000  100 rows/s  5.0 s left")
    assert lines[-1] == "grading: 1,000 rows in 10 s"


def test_a_long_item_shows_a_line_by_time():
    clock, out = Clock(), io.StringIO()
    progress = Progress(None, "reading", "rows", stream=out, clock=clock)
    progress.advance()
    assert out.getvalue() == ""
    clock.now += 16
    progress.advance(loss=0.5)
    assert out.getvalue() == "reading 2  loss 0.500\n"


def test_a_terminal_gets_a_bar_and_the_cursor_back():
    clock, out = Clock(), Terminal()
    with Progress(4, "grading [x]", "rows", stream=out, clock=clock) as progress:
        clock.now += 3
        progress.advance(2, acc=0.75)
    text = out.getvalue()
    assert "grading [x]" in text  # what looks like markup is text
    assert "2/4" in text
    assert "acc 0.750" in text
    assert "3.0 s left" in text
    assert text.rstrip("\n").endswith("grading [x]: 2 rows in 3.0 s")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_other_ranks_show_nothing(capsys):
    with Progress(2, "grading", enabled=False) as progress:
        progress.advance(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (250, "4 min 10 s"),
     (11_100, "3 h 05 min"), (90_000, "1 d 1 h"), (86_399, "1 d 0 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.41349, "0.413"), (9600.4, "9,600"), (1.2e-5, "1.2e-05"), (3.0, "3"), (0, "0"), (-14.26, "-14.3"),
     (123.4, "123"), (float("nan"), "nan"), (float("inf"), "inf"), ("x", "x")],
)  # fmt: skip
def test_figures_are_short(value, text):
    assert shown(value) == text

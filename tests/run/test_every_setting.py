"""Every field of the settings is described, and something reads it."""

import ast
import inspect

import pytest
import setting_reads

import pipeline.settings
from pipeline.common.benches import BENCHES
from pipeline.run import shapes
from pipeline.settings import Section
from pipeline.settings.dead import RUN_RULES, STAGE_RULES
from pipeline.settings.schema import all_keys

FIELDS = setting_reads.fields()
PATTERNS = sorted({key for rule in (*RUN_RULES, *STAGE_RULES) for key in (*rule.keys, *rule.but)} - {"*"})


@pytest.fixture(scope="module")
def reads():
    return setting_reads.reads()


def test_every_setting_has_a_reader(reads):
    unread = [key for key, field in FIELDS.items() if field not in reads]
    assert unread == []


def test_the_search_for_readers_finds_what_is_not_read(reads):
    """The proof above is empty if the search calls everything read."""
    pipeline.settings.Rl.model_fields["nothing_like_it"] = pipeline.settings.Rl.model_fields["steps"]
    try:
        fields = setting_reads.fields()
    finally:
        del pipeline.settings.Rl.model_fields["nothing_like_it"]
    assert [key for key, field in fields.items() if field not in reads] == ["rl.nothing_like_it"]


def sections() -> list[type[Section]]:
    found = {section for section, _ in FIELDS.values()} | {pipeline.settings.Settings}
    return sorted(found, key=lambda section: section.__name__)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_has_its_own_description(section):
    body = ast.parse(inspect.getsource(section)).body[0].body
    bare = [
        statement.target.id
        for statement, following in zip(body, [*body[1:], None], strict=True)
        if isinstance(statement, ast.AnnAssign)
        and not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
    ]
    assert bare == []


def matches(pattern: str) -> bool:
    """Whether a pattern of the table names a setting that exists."""
    stem = pattern.removesuffix("*").replace("{nodes}.", "<name>.")
    keys = [*all_keys(), "sft.phases.0.rows"]
    return any(key == stem or (pattern.endswith("*") and key.startswith(stem)) for key in keys)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_table_of_dead_keys_names_settings_that_exist(pattern):
    assert matches(pattern), pattern


def test_the_shape_keys_exist():
    assert set(shapes.SHAPE_KEYS) <= set(FIELDS)


def test_every_bench_key_is_read_by_a_benchmark():
    assert {key for entry in BENCHES.values() for key in entry.reads if key.startswith("bench.")} == {
        key for key in FIELDS if key.startswith("bench.") and key not in ("bench.what", "bench.compare")
    }


def test_lists_of_names_agree_with_what_they_name():
    from pipeline.objectives import losses
    from pipeline.objectives.metrics.counterfactual import FAMILY
    from pipeline.settings.algo import LOSSES, NEIGHBOURS, SEQUENCE, STATIC
    from pipeline.settings.dead import COUNTERFACTUAL
    from pipeline.settings.serving import REWARDS
    from pipeline.verify.rewards import REWARDS as FUNCTIONS

    assert set(LOSSES) == set(losses.names())
    assert {*STATIC, *NEIGHBOURS} == {name for name in LOSSES if not losses.get(name).elastic}
    assert set(COUNTERFACTUAL) == set(FAMILY) & set(NEIGHBOURS)
    assert set(SEQUENCE) == {name for name in LOSSES if not losses.get(name).separable}
    assert set(REWARDS) == set(FUNCTIONS)

"""The work of `stage=bench what=step_peer`."""

from typing import get_args

import pytest

from pipeline.run.compose import compose
from pipeline.settings import Bench
from stages.bench.step_peer import work_of

LAYERS = {"small": 4, "smollm2-135m": 30}


@pytest.mark.parametrize("name", get_args(Bench.model_fields["model"].annotation))
def test_each_model_of_the_bench_has_a_shape(name):
    """The preset of a published model also holds defaults, which are not part of its shape."""
    settings = compose(["stage=bench", "what=step_peer", "model=tiny", f"bench.model={name}"])
    model = work_of(settings).model
    assert (model.dtype, model.num_layers) == ("fp32", LAYERS[name])

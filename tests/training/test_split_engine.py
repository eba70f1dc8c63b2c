"""A policy that is split over processes has no whole copy to sample beside training."""

import pytest

from smlib.training.sharding_plan import Sharding, check_engine


def test_an_engine_beside_training_is_refused_where_weights_are_split():
    split = object.__new__(Sharding)
    check_engine(None, "background")
    check_engine(split, "in_process")
    with pytest.raises(ValueError, match=r"rollout_engine=background .* choose rollout_engine=in_process"):
        check_engine(split, "background")

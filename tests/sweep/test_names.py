from __future__ import annotations

from rlrun.sweep.names import describe, path_name, short_names


def test_a_key_is_shortened_to_what_tells_it_from_the_others():
    assert short_names(["algo.lr", "seed", "+algo.x.size", "model.x.size"]) == {
        "algo.lr": "lr",
        "seed": "seed",
        "+algo.x.size": "algo.x.size",
        "model.x.size": "model.x.size",
    }


def test_parameters_are_described_in_few_letters():
    params = {"algo.lr": 0.00029999999, "env.id": "CartPole-v1", "seed": 3}
    assert describe(params) == "lr=0.0003 id=CartPole-v1 seed=3"
    assert describe({}) == ""


def test_a_name_for_a_path_holds_nothing_that_a_path_minds():
    params = {"model.fcnet_hiddens": [64, 64], "env.id": "ale/Pong v5"}
    assert path_name(params) == "fcnet_hiddens=_64,_64_,id=ale_Pong_v5"
    assert len(path_name({"algo.x": "y" * 999})) == 120

import math

from rlrun.core.episode import EpisodeReport
from rlrun.core.metrics import EpisodeWindow, summarize_episodes


def reports(*rewards: float, **metrics: float) -> list[EpisodeReport]:
    return [
        EpisodeReport(reward, 10 * i, custom_metrics=metrics)
        for i, reward in enumerate(rewards, start=1)
    ]


def test_the_last_hundred_episodes_make_the_mean_however_many_are_new():
    window = EpisodeWindow()
    result = window.add(reports(*[0.0] * 200, *[1.0] * 100, seen=1.0))
    assert result["episode_reward_mean"] == result["episode_reward_min"] == 1.0
    assert len(result["hist_stats"]["episode_reward"]) == 100
    assert result["episodes_this_iter"] == window.episodes_total == 300
    assert window.add(reports(*[3.0] * 50))["episode_reward_mean"] == 2.0


def test_custom_metrics_are_those_of_all_new_episodes_alone():
    window = EpisodeWindow(size=2)
    window.add(reports(1.0, old=5.0))
    new = [*reports(1.0, x=1.0), *reports(1.0, x=2.0), *reports(1.0, x=6.0)]
    assert window.add(new)["custom_metrics"] == {"x_mean": 3.0, "x_min": 1.0, "x_max": 6.0}
    assert window.add([])["custom_metrics"] == {}


def test_without_episodes_the_names_are_there_and_the_numbers_are_nan():
    result = summarize_episodes([], [])
    assert math.isnan(result["episode_reward_mean"])
    assert math.isnan(result["episode_len_mean"])
    assert result["hist_stats"] == {"episode_reward": [], "episode_lengths": []}

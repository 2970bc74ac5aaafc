"""What the Arcade Learning Environment needs beside other envs: limits in frames, and a screen."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rlrun.core.errors import missing_extra

FRAMES_PER_SECOND = 60.0
"""Of the Atari 2600 (NTSC)."""

SCREEN = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
"""Settings of a vector env whose observations are what the console shows."""

ZOOM = 3
"""Pixels of the window for each pixel of the console."""

FRAME_LIMIT = "max_num_frames_per_episode"
"""ALE's own limit of an episode, in emulator frames."""

NO_FRAME_LIMIT = 2**31 - 1


def is_atari(env_id: str) -> bool:
    """Whether `env_id` is one of ALE's."""
    return env_id.startswith("ALE/")


class AtariTwin(gym.vector.VectorWrapper):
    """Knows what the screen of the first env of an ALE vector env shows.

    ALE's vector env cannot render. A `twin` of it with other observations (see SCREEN) plays the
    same games: it gets the same seeds and actions, and draws the same no-ops and sticky actions.
    """

    screen: np.ndarray
    """[height, width, 3]."""

    def __init__(
        self, env: gym.vector.VectorEnv, twin: gym.vector.VectorEnv, frameskip: int
    ) -> None:
        super().__init__(env)
        self.twin = twin
        self.steps_per_second = FRAMES_PER_SECOND / frameskip

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._look(self.twin.reset(seed=seed, options=options)[0])
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._look(self.twin.step(actions)[0])
        return self.env.step(actions)

    def close(self, **kwargs: Any) -> None:
        self.twin.close()
        self.env.close(**kwargs)

    def _look(self, screens: np.ndarray) -> None:
        """Take the first of the screens [B, 1, height, width, 3]."""
        self.screen = screens[0, 0]


class AtariScreen(AtariTwin):
    """Shows it in a window, at the console's own speed."""

    def __init__(
        self, env: gym.vector.VectorEnv, twin: gym.vector.VectorEnv, frameskip: int
    ) -> None:
        super().__init__(env, twin, frameskip)
        try:
            import pygame
        except ImportError as error:
            raise missing_extra("pygame-ce", "atari", "render=true") from error
        self._pygame = pygame
        pygame.display.init()
        self.window = pygame.display.set_mode(
            (ZOOM * SCREEN["img_width"], ZOOM * SCREEN["img_height"])
        )
        self._clock = pygame.time.Clock()

    def close(self, **kwargs: Any) -> None:
        super().close(**kwargs)
        self._pygame.display.quit()

    def _look(self, screens: np.ndarray) -> None:
        """Draw it."""
        super()._look(screens)
        pixels = np.ascontiguousarray(self.screen.swapaxes(0, 1))
        surface = self._pygame.surfarray.make_surface(pixels)
        self.window.blit(self._pygame.transform.scale(surface, self.window.get_size()), (0, 0))
        self._pygame.event.pump()
        self._pygame.display.flip()
        self._clock.tick(self.steps_per_second)

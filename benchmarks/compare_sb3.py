"""rlrun beside Stable-Baselines3, interleaved, equal hyperparameters: the ratios of README.md.

python benchmarks/compare_sb3.py [--sb3-python PYTHON] [--reps 3] [--threads 1]
                                 [--tasks ppo_cartpole ...] [--library sbx]
                                 [--overrides resources.matmul_precision=medium ...]

SB3 runs without logging and checkpoints; rlrun as its users run it: callbacks, result.json,
progress.csv, TensorBoard, terminal lines and the final checkpoint on. Each has so many cores
and threads as --threads says. A shared machine is noisy: only ratios inside one run count.
`--library sbx` puts SBX (SB3 in JAX) in the place of SB3, for the tasks on Pendulum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

COMMON_PPO = (
    "algo=ppo tuned=none algo.lr=3e-4 algo.gamma=0.99 algo.gae_lambda=0.95 "
    "algo.num_envs_per_worker=8 algo.timesteps_per_iteration=0 "
    "model.fcnet_hiddens=[64,64] model.fcnet_activation=tanh "
)
COMMON_REPLAY = (
    "tuned=none env=pendulum algo.actor_lr=3e-4 algo.critic_lr=3e-4 algo.actor_hiddens=[256,256] "
    "algo.critic_hiddens=[256,256] algo.train_batch_size=256 algo.buffer_size=100000 "
    "algo.learning_starts=500 algo.tau=0.005 algo.timesteps_per_iteration=250 "
)
NOISE = "exploration=gaussian_noise exploration.final_scale=1.0 exploration.random_timesteps=500 "
TASKS = {
    "ppo_cartpole": (
        40_960,
        COMMON_PPO + "env=cartpole algo.train_batch_size=1024 algo.minibatch_size=256 "
        "algo.num_epochs=4 algo.entropy_coeff=0.01",
    ),
    "ppo_cartpole_64": (
        491_520,
        COMMON_PPO + "env=cartpole env.vectorization=native algo.num_envs_per_worker=64 "
        "algo.train_batch_size=8192 algo.minibatch_size=2048 algo.num_epochs=4 "
        "algo.entropy_coeff=0.01",
    ),
    "ppo_lstm_cartpole": (
        16_384,
        COMMON_PPO + "env=cartpole algo.train_batch_size=1024 algo.minibatch_size=256 "
        "algo.num_epochs=4 algo.entropy_coeff=0.01 model.use_lstm=true",
    ),
    "dqn_cartpole": (
        12_000,
        "algo=dqn tuned=none env=cartpole algo.lr=2.5e-4 algo.train_batch_size=128 "
        "algo.rollout_fragment_length=4 algo.target_network_update_freq=500 algo.tau=1.0 "
        "algo.learning_starts=1000 algo.double_q=false algo.dueling=false algo.hiddens=[] "
        "algo.n_step=1 algo.prioritized_replay=false algo.grad_clip=10 algo.buffer_size=50000 "
        "algo.timesteps_per_iteration=1000 exploration.epsilon_timesteps=6000 "
        "exploration.final_epsilon=0.05 model.fcnet_hiddens=[120,84] model.fcnet_activation=relu",
    ),
    "a2c_cartpole": (
        40_000,
        "algo=a2c tuned=none env=cartpole algo.lr=7e-4 algo.gamma=0.99 algo.gae_lambda=1.0 "
        "algo.num_envs_per_worker=8 algo.train_batch_size=40 algo.vf_coeff=0.5 "
        "algo.entropy_coeff=0.01 algo.grad_clip=0.5 algo.timesteps_per_iteration=1000 "
        "model.fcnet_hiddens=[64,64] model.fcnet_activation=tanh",
    ),
    "ppo_halfcheetah": (
        16_384,
        COMMON_PPO + "env=halfcheetah algo.train_batch_size=2048 algo.minibatch_size=64 "
        "algo.num_epochs=10",
    ),
}
TASKS |= {
    "sac_pendulum": (3000, "algo=sac algo.entropy_lr=3e-4 " + COMMON_REPLAY),
    "td3_pendulum": (3000, "algo=td3 " + COMMON_REPLAY + NOISE),
    "ddpg_pendulum": (3000, "algo=ddpg algo.l2_reg=0 " + COMMON_REPLAY + NOISE),
}
FIGURES = ("steps_per_s", "first_iteration_s", "total_s", "peak_memory_mb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sb3-python", default=sys.executable, help="a Python that has SB3 and sb3-contrib"
    )
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each side")
    parser.add_argument(
        "--library", default="stable_baselines3", choices=["stable_baselines3", "sbx"]
    )
    parser.add_argument("--overrides", nargs="+", default=[], help="of rlrun's side, for all tasks")
    arguments = parser.parse_args()
    threads, library = arguments.threads, arguments.library
    name = "SB3" if library == "stable_baselines3" else "SBX"
    if library == "sbx" and not all(task.endswith("_pendulum") for task in arguments.tasks):
        parser.error(
            "--library sbx needs --tasks, of these: sac_pendulum td3_pendulum ddpg_pendulum"
        )
    for task in arguments.tasks:
        steps, overrides = TASKS[task]
        ours, theirs = [], []
        for seed in range(1, arguments.reps + 1):
            their_side = [arguments.sb3_python, "sb3_side.py", task, str(steps), str(seed), library]
            theirs.append(measure(their_side, threads))
            stop = [*arguments.overrides, f"seed={seed}", f"stop.timesteps_total={steps}"]
            stop += [f"resources.num_cpus_for_driver={threads}"]
            ours.append(
                measure([sys.executable, "rlrun_side.py", *overrides.split(), *stop], threads)
            )
        print(f"{task} ({steps} steps, {arguments.reps} interleaved runs; medians)")
        for figure in FIGURES:
            a = statistics.median(run[figure] for run in ours)
            b = statistics.median(run[figure] for run in theirs)
            ratios = [x[figure] / y[figure] for x, y in zip(ours, theirs, strict=True)]
            spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
            middle = statistics.median(ratios)
            print(f"  {figure:18s} rlrun {a:9.1f}   {name} {b:9.1f}   ratio {middle:.2f}  {spread}")
        sys.stdout.flush()


def measure(command: list[str], threads: int) -> dict[str, float]:
    """The figures that one side prints, with so many threads and cores. Raises RuntimeError with
    its output if it fails."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        command = [command[0], str(HERE / command[1]), *command[2:]]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            check=False,
            # JAX takes all cores that it may use.
            preexec_fn=lambda: os.sched_setaffinity(0, cores[:threads]),
        )
    for line in done.stdout.splitlines():
        if line.startswith("@@"):
            return json.loads(line[2:])
    raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()

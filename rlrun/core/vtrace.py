"""V-trace: value targets and advantages from rows that an older policy has sampled."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def vtrace(
    log_ratios: Tensor,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    trace_lambda: float = 1.0,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
    clip_c: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Value targets v_s (Espeholt et al., 2018, arXiv:1802.01561, eq. 1) and the advantages of the
    policy gradient of section 4.2, both [S, L], without gradient and 0 where `mask` is False.

    All are [S, L], sequences within one episode whose real steps, those of `mask`, stand in front.
    log_ratios: log pi(a|x) - log mu(a|x), of the policy that learns and the one that sampled;
    next_values: the value of the state after each step, which counts unless it `terminated`.

        rho_t = min(clip_rho, pi / mu),  c_t = trace_lambda * min(clip_c, pi / mu)
        delta_t = r_t + gamma V(x_t+1) - V(x_t)
        v_t - V(x_t) = rho_t delta_t + gamma c_t (v_t+1 - V(x_t+1))
        advantage_t = min(clip_pg_rho, pi / mu) (delta_t + gamma trace_lambda (v_t+1 - V(x_t+1)))

    With trace_lambda 1 the advantage is the paper's. With less it is the one whose targets on
    policy are lambda-returns: with log_ratios 0, generalised advantages (Schulman et al., 2016).
    """
    with torch.no_grad():
        ratios = log_ratios.exp()
        discounts = gamma * (mask & ~terminated)
        deltas = (rewards + discounts * next_values - values) * mask
        corrections = ratios.clamp(max=clip_rho) * deltas
        decays = discounts * trace_lambda * ratios.clamp(max=clip_c)
        # One operation a step, over all sequences: v_t - V(x_t), from the last step to the first.
        carried = torch.zeros_like(corrections[:, 0])
        moves = [carried]
        for correction, decay in zip(
            reversed(corrections.unbind(1)), reversed(decays.unbind(1)), strict=True
        ):
            carried = torch.addcmul(correction, decay, carried)
            moves.append(carried)
        moves.reverse()
        errors = torch.stack(moves, 1)
        targets = (values + errors[:, :-1]) * mask
        following = deltas + discounts * trace_lambda * errors[:, 1:]
        return targets, ratios.clamp(max=clip_pg_rho) * following

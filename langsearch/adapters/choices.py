"""What trained adapters have chosen: which members of a pool a language has, and where gates are open."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from langsearch.adapters.gated import GatedLoRA, GatedLoRALinear
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.pool import PooledLoRA
from langsearch.adapters.protocol import Adapters
from langsearch.adapters.routing import TokenWeights
from langsearch.adapters.together import Together
from langsearch.data.batches import Batch


def parts_of(adapters: Adapters) -> Sequence[Adapters]:
    """Returns adapters by kind, one or several."""
    return adapters.parts if isinstance(adapters, Together) else (adapters,)


def pool_shares(learner: AdaptedModel) -> dict[str, dict[str, list[float]]]:
    """Returns the shares of the pool's members that each language has, by side; empty where there is no pool."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in parts_of(learner.adapters):
        if isinstance(part, PooledLoRA):
            for side, pool_map in part.maps.items():
                shares = pool_map.shares().detach()
                if pool_map.is_over:
                    shares = nn.functional.one_hot(pool_map.choices(), shares.shape[1]).float()
                found[side] = dict(zip(part.languages, shares.tolist(), strict=True))
    return found


@torch.no_grad()
def gate_shares(learner: AdaptedModel, batches: Iterable[Batch]) -> dict[str, dict[str, float]]:
    """Returns the share of tokens that each language's gates are open on, by site; empty where there are no gates.

    Args:
        learner: The model; it is left in evaluation mode.
        batches: Pairs with their labels, which the decoder reads as they are; padding does not count.
    """
    gated = [part for part in parts_of(learner.adapters) if isinstance(part, GatedLoRA)]
    if not gated:
        return {}
    (part,) = gated
    num = len(part.languages)
    opened = {site: torch.zeros(num, dtype=torch.float64) for site in part.layers}
    counts = {site: torch.zeros(num, dtype=torch.float64) for site in part.layers}
    learner.model.eval()
    device = learner.model.lm_head.weight.device
    with ExitStack() as hooks:
        for site, layer in part.layers.items():

            def note(
                module: nn.Module, inputs: tuple[Tensor, ...], *, of: Tensor = opened[site], all_: Tensor = counts[site]
            ) -> None:
                assert isinstance(module, GatedLoRALinear)
                _note(module, inputs[0], of, all_)

            hooks.callback(layer.register_forward_pre_hook(note).remove)
        for batch in batches:
            batch = batch.to(device)
            with learner.route(batch.src_lang, batch.tgt_lang, weights=TokenWeights(batch.src_mask, batch.labels)):
                learner.model.model(
                    input_ids=batch.src_ids,
                    attention_mask=batch.src_mask,
                    decoder_input_ids=batch.decoder_input_ids,
                    use_cache=False,
                )
    return {str(site): dict(_known(part, opened[site], counts[site])) for site in part.layers}


def _note(layer: GatedLoRALinear, x: Tensor, opened: Tensor, counts: Tensor) -> None:
    routing = layer.pair.routing
    weights = routing.token_weights(layer.reads)
    assert weights is not None, "the tokens' weights must be routed"
    _, has = layer.table.rows(x.shape[0])
    weights = weights * has[:, None]
    languages = routing.rows(layer.table.side, x.shape[0]).cpu()
    is_open = (layer.gates(x) >= 0).float() * weights
    opened.index_add_(0, languages, is_open.sum(dim=1).double().cpu())
    counts.index_add_(0, languages, weights.sum(dim=1).double().cpu())


def _known(part: GatedLoRA, opened: Tensor, counts: Tensor) -> Iterator[tuple[str, float]]:
    for language, is_open, count in zip(part.languages, opened.tolist(), counts.tolist(), strict=True):
        if count > 0:
            yield language, is_open / count

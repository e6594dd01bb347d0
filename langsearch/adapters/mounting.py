"""Modules put in the place of a base's, all of them or none, and taken out again."""

from collections.abc import Mapping

from torch import nn

from langsearch.space.architecture import Site

ENCODER_NORM = "model.encoder.layer_norm"
"""Where the encoder's last norm lives in a model of any family; what stands behind it is what the encoder says."""


def module_path(site: Site) -> str:
    """Returns where a site's linear layer lives in a model of any family."""
    if site.module.startswith("cross_"):
        name = f"encoder_attn.{site.module.removeprefix('cross_')}"
    elif site.module.startswith("fc"):
        name = site.module
    else:
        name = f"self_attn.{site.module}"
    return f"model.{site.stack}.layers.{site.layer}.{name}"


def linear_at(model: nn.Module, site: Site) -> nn.Linear:
    """Returns the base's own linear layer at a site."""
    layer = model.get_submodule(module_path(site))
    assert isinstance(layer, nn.Linear), f"{site} carries an adapter already"
    return layer


def mount(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Puts modules in the place of a model's own; where one cannot be, the model is left as it was.

    They train or not as what they take the place of.

    Args:
        model: The model; it is changed.
        modules: What takes a module's place, by the module's path.

    Returns:
        The modules that stood there, by path: mounting these undoes it.
    """
    originals: dict[str, nn.Module] = {}
    try:
        for path, module in modules.items():
            original = model.get_submodule(path)
            model.set_submodule(path, module.train(original.training), strict=True)
            originals[path] = original
    except BaseException:
        for path, original in originals.items():
            model.set_submodule(path, original, strict=True)
        raise
    return originals

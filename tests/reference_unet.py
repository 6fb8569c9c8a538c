"""Our network's weights in the course's, as `benchmarking.peer_unet` writes it in PyTorch."""

import torch

from keras_diffusion.benchmarking.peer_unet import Normed


def counterparts(network, reference):
    """Pairs (Keras variable, PyTorch parameter or buffer) for every weight of a network, matched by name."""
    pairs = []
    for layer in network.layers:
        for variable in layer.weights:
            pairs.append((variable, _find(reference, layer.name, variable.name)))
    return pairs


def to_torch(array):
    """An array of a Keras weight in PyTorch's layout: kernels [H, W, in, out] -> [out, in, H, W], matrices transposed."""
    array = torch.as_tensor(array)
    return {4: lambda: array.permute(3, 2, 0, 1), 2: lambda: array.T}.get(
        array.ndim, lambda: array
    )()


def port(network, reference):
    """Copies the weights of a Keras network into the reference; fails where either has one that the other hasn't."""
    pairs = counterparts(network, reference)
    state = reference.state_dict()
    missing = {k for k in state if not k.endswith("num_batches_tracked")}
    with torch.no_grad():
        for variable, tensor in pairs:
            tensor.copy_(to_torch(variable.numpy()))
            missing -= {
                name for name, value in state.items() if value.data_ptr() == tensor.data_ptr()
            }
    assert not missing, f"no Keras weight for {sorted(missing)}"
    return reference


def _find(reference, layer, variable):
    path = layer.removesuffix("_bn").replace("_", ".")
    module = reference.get_submodule(path)
    if layer.endswith("_bn"):
        # Our BatchNorm owns the bias of the convolution before it.
        owner, name = {
            "bias": (module.conv, "bias"),
            "gamma": (module.bn, "weight"),
            "beta": (module.bn, "bias"),
            "moving_mean": (module.bn, "running_mean"),
            "moving_variance": (module.bn, "running_var"),
        }[variable]
    else:
        owner = module.conv if isinstance(module, Normed) else module
        name = {"kernel": "weight", "bias": "bias"}[variable]
    return getattr(owner, name)

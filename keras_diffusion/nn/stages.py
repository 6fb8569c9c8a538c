"""What a network of `unet` computes, stage by stage, read off its layers: a picture of it can't differ from it."""


def stages(network):
    """The stages of a network that `unet` or `modulated_unet` built, in `precondition` or without it.

    Args:
        network: `keras.Model`.

    Returns:
        A list of tuples, each after its inputs: name, operation, shape ((H, W, C), or (C,) for a vector), names of
        the inputs.
    """
    shape = network.input["x"].shape[1:]
    inside = next((layer for layer in network.layers if hasattr(layer, "layers")), None)
    reading = _Reading(inside or network)
    if inside is None:
        reading.add("x", "input", shape)
    else:
        reading.add("xt", "input", shape)
        reading.add("x", "u = (xt − mean) / std, at t", shape, "xt")
    if reading.has("embedding"):
        _modulated(reading)
    else:
        _course(reading)
    if inside is not None:
        reading.add("preconditioned", "a(t) + b(t)·u + c(t)·h", shape, "out", "x")
    return reading.stages


def _course(reading):
    reading.block("enter", "ConvBlock", "enter_conv2_gelu", "x")
    reading.block("down1", "DownBlock", "down1_conv2_gelu", "enter")
    reading.block("down2", "DownBlock", "down2_conv2_gelu", "down1")
    reading.block("flatten", "Flatten", "flatten_gelu", "down2")
    reading.block("unflatten", "Unflatten", "unflatten_gelu", "flatten")
    h = reading.conditioned("unflatten", 1)
    reading.block("up1", "concat, UpBlock", "up1_conv2_gelu", h, "down2")
    h = reading.conditioned("up1", 2)
    reading.block("up2", "concat, UpBlock", "up2_conv2_gelu", h, "down1")
    reading.block("leave", "concat, ConvBlock", "leave_conv2_gelu", "up2", "enter")
    reading.block("out", "Conv 3×3", "out", "leave")


def _modulated(reading):
    told = "t/T, class" if reading.has("class_vector") else "t/T"
    reading.block("e", f"e = FC({told})", "embedding")
    reading.block("enter", "Conv", "enter_gelu", "x")
    reading.block("down1", "DownBlock(e)", "down1_conv2_gelu", "enter", "e")
    reading.block("down2", "DownBlock(e)", "down2_conv2_gelu", "down1", "e")
    reading.block("flatten", "Flatten", "flatten_gelu", "down2")
    reading.block("unflatten", "Unflatten(e)", "unflatten_gelu", "flatten", "e")
    reading.block(
        "middle1", "concat, ConvBlock(e)", "middle1_conv2_gelu", "unflatten", "down2", "e"
    )
    reading.block("middle2", "h + ConvBlock(e)", "middle", "middle1", "e")
    reading.block("up1", "UpBlock(e)", "up1_conv2_gelu", "middle2", "e")
    reading.block("up2", "concat, UpBlock(e)", "up2_conv2_gelu", "up1", "down1", "e")
    reading.block("leave", "concat, ConvBlock(e)", "leave_conv2_gelu", "up2", "enter", "e")
    reading.block("out", "Conv 3×3", "out", "leave")


class _Reading:
    """The stages of a network that have been read so far."""

    def __init__(self, network):
        self.network, self.stages = network, []
        self._layers = {layer.name for layer in network.layers}
        self._shapes = {}

    def has(self, layer):
        """Whether the network has a layer of that name."""
        return layer in self._layers

    def add(self, name, operation, shape, *inputs):
        self._shapes[name] = tuple(shape)
        self.stages.append((name, operation, self._shapes[name], inputs))

    def block(self, name, operation, layer, *inputs):
        """A stage of the shape that its last layer has."""
        self.add(name, operation, self.network.get_layer(layer).output.shape[1:], *inputs)

    def conditioned(self, name, place):
        """The stage behind the conditioning at a place: `name` itself where there is none."""
        vectors = [v for v in (f"c{place}", f"t{place}") if self.has(v)]
        if not vectors:
            return name
        for vector in vectors:
            size = "classes" if vector.startswith("c") else "t/T"
            width = self.network.get_layer(vector).output.shape[-1]
            self.add(vector, f"{vector} = FC({size})", (width,))
        formula = _formula(self.network, vectors)
        self.add(f"conditioned{place}", formula, self._shapes[name], name, *vectors)
        return f"conditioned{place}"


def _formula(network, vectors):
    """How the conditioning enters, read off the layers: "c1·h + t1", "h + t1" or "h · t1"."""
    *classes, time = vectors
    if classes:
        return f"{classes[0]}·h + {time}"
    users = [node.operation for node in network.get_layer(time)._outbound_nodes]
    multiplied = any("multiply" in operation.name for operation in users)
    return f"h · {time}" if multiplied else f"h + {time}"

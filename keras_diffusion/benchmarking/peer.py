"""The other side: the course's training and drawing loops, written plainly in PyTorch."""

import time

import torch
from torch.nn import functional

from keras_diffusion.benchmarking import clock, variants
from keras_diffusion.benchmarking.peer_unet import UNet
from keras_diffusion.errors import UserError


def _device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device():
    """cpu or gpu, and the name of it."""
    if _device().type == "cpu":
        return {"kind": "cpu", "name": "CPU"}
    return {"kind": "gpu", "name": torch.cuda.get_device_name()}


def memory():
    """The most memory of the GPU that was in use at once, in bytes; None without one."""
    return None if _device().type == "cpu" else torch.cuda.max_memory_allocated()


def set_precision(precision):
    """Makes float32 products be computed as such, or in TF32."""
    if precision == "tf32" and _device().type == "cpu":
        raise UserError("--precisions: expected tf32 on a GPU only, got a machine without one")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True  # XLA tries several kernels of a convolution too


def _wait():
    if _device().type == "cuda":
        torch.cuda.synchronize()


class _Network:
    """The course's class-conditioned UNet in a mode and a precision, and the schedule's tables."""

    def __init__(self, variant):
        set_precision(variant.precision)
        torch.manual_seed(0)
        self.device = _device()
        self.module = UNet(width=variant.width, num_classes=variants.NUM_CLASSES).to(self.device)
        modes = variant.mode.split("+")
        self.format = torch.contiguous_format
        if "channels_last" in modes:
            self.format = torch.channels_last
            self.module.to(memory_format=self.format)
        self._call = torch.compile(self.module) if "compile" in modes else self.module
        self._mixed = variant.precision == "mixed_bfloat16"

    def __call__(self, x, t, label):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed):
            return self._call(x.contiguous(memory_format=self.format), t, label).float()


class Schedule:
    """DDPM's tables [T + 1], index 0 is clean: the course's linear beta."""

    def __init__(self, device, steps=variants.NUM_TRAIN_STEPS):
        self.num_train_steps = steps
        beta = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)
        beta = torch.cat([torch.zeros(1, dtype=torch.float64), beta])
        self.alpha_bar = torch.cumprod(1 - beta, 0).float().to(device)
        self.beta = beta.float().to(device)


def training_loss(network, schedule, x0, label):
    """The mean of (eps - eps_hat)² at a time of each image's own, the class hidden from some: x0 [N, C, H, W]."""
    count, device = len(x0), x0.device
    t = torch.randint(1, schedule.num_train_steps + 1, (count,), device=device)
    eps = torch.randn_like(x0)
    alpha_bar = schedule.alpha_bar[t][:, None, None, None]
    xt = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    hidden = torch.rand(count, device=device) < variants.LABEL_DROPOUT
    label = torch.where(hidden, variants.NUM_CLASSES, label)
    return functional.mse_loss(network(xt, t / schedule.num_train_steps, label), eps)


@torch.no_grad()
def draw(network, schedule, label, *, num_steps=None, shape=(1, 28, 28)):
    """The course's loop from pure noise: from t = T the first `num_steps` steps, all of them unless told otherwise.

    Args:
        network: callable (x [N, C, H, W], t/T [N], label [N]) -> eps_hat, called twice a step.
        schedule: `Schedule`.
        label: int64 [N].
        num_steps: of the T steps, how many are done.
        shape: (C, H, W).

    Returns:
        [N, C, H, W]: images, where all steps are done.
    """
    x = torch.randn(len(label), *shape, device=label.device)
    nobody = torch.full_like(label, variants.NUM_CLASSES)
    last = schedule.num_train_steps - (num_steps or schedule.num_train_steps)
    for t in range(schedule.num_train_steps, last, -1):
        time = torch.full((len(x),), t / schedule.num_train_steps, device=x.device)
        without, guided = network(x, time, nobody), network(x, time, label)
        eps = without + variants.GUIDANCE_SCALE * (guided - without)
        x = _denoised(x, eps, schedule, t)
    return x


def _denoised(x, eps, schedule, t):
    """One step, t -> t - 1, with the variance of the posterior."""
    now, before, beta = schedule.alpha_bar[t], schedule.alpha_bar[t - 1], schedule.beta[t]
    x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
    mean = before.sqrt() * beta / (1 - now) * x0
    mean = mean + (1 - beta).sqrt() * (1 - before) / (1 - now) * x
    if t == 1:
        return mean
    return mean + (beta * (1 - before) / (1 - now)).sqrt() * torch.randn_like(x)


class Train:
    """Steps of training: images in memory, shuffled anew in each epoch."""

    def __init__(self, variant):
        images, labels = variants.made_up_digits()
        self.network = _Network(variant)
        self.device, self.batch_size = self.network.device, variant.batch_size
        self.images = torch.as_tensor(images).permute(0, 3, 1, 2)
        self.labels = torch.as_tensor(labels)
        self.schedule = Schedule(self.device)
        self.optimizer = torch.optim.Adam(self.network.module.parameters(), variants.LEARNING_RATE)
        self.network.module.train()
        self._order = torch.empty(0, dtype=torch.int64)
        self.says = {"parameters": sum(p.numel() for p in self.network.module.parameters())}

    def run(self, count):
        """Seconds of each of `count` steps."""
        return clock.timed(self.step, count)

    def step(self):
        """One step; the loss of its batch, when all of its work is done."""
        if len(self._order) < self.batch_size:  # the short batch at an epoch's end is left out
            self._order = torch.randperm(len(self.images))
        chosen, self._order = self._order.split(
            [self.batch_size, len(self._order) - self.batch_size]
        )
        x0 = self.images[chosen].to(self.device).float() / 255
        loss = training_loss(self.network, self.schedule, x0, self.labels[chosen].to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        _wait()
        return loss.item()


class Draw:
    """Batches of digits by the course's loop."""

    def __init__(self, variant):
        self.variant = variant
        self.network = _Network(variant)
        self.network.module.eval()
        self.schedule = Schedule(self.network.device)
        self._labels = torch.arange(variant.batch_size, device=self.network.device)
        self._labels %= variants.NUM_CLASSES
        self.says = {}

    def run(self, count):
        """Seconds of each of `count` batches of digits: of some of the steps, times what is missing."""
        return [self._one() for _ in range(count)]

    def _one(self):
        began = time.perf_counter()
        draw(self.network, self.schedule, self._labels, num_steps=self.variant.measured_steps)
        _wait()
        whole = self.variant.num_steps / self.variant.measured_steps
        return whole * (time.perf_counter() - began)


class Product:
    """Products of square matrices, the most that the machine can do."""

    def __init__(self, variant):
        set_precision(variant.precision)
        size = variants.PRODUCT_SIZE[device()["kind"]]
        kind = torch.bfloat16 if variant.precision == "mixed_bfloat16" else torch.float32
        self._a, self._b = (torch.randn(size, size, device=_device()).to(kind) for _ in range(2))
        self.says = {"flops": 2 * size**3}

    def run(self, count):
        """Seconds of each of `count` products."""
        return clock.timed(self._one, count)

    def _one(self):
        torch.matmul(self._a, self._b)
        _wait()


TASKS = {"train": Train, "draw": Draw, "product": Product}

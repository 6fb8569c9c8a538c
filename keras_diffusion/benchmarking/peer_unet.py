"""The course's UNet, written plainly in PyTorch from its description: what our network has to equal, in tests and in speed.

Nothing here is clever, so that it can be checked against the course's figures by eye. Images are [N, C, H, W].
"""

import torch
from torch import nn
from torch.nn import functional


class Normed(nn.Module):
    """A convolution of some kind + BatchNorm + GELU."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x):
        return functional.gelu(self.bn(self.conv(x)))


def conv(channels, width):
    return Normed(nn.Conv2d(channels, width, kernel_size=3, stride=1, padding=1))


def down_conv(channels, width):
    return Normed(nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1))


def up_conv(channels, width):
    return Normed(nn.ConvTranspose2d(channels, width, kernel_size=4, stride=2, padding=1))


class ConvBlock(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, width), conv(width, width)

    def forward(self, x):
        return self.conv2(self.conv1(x))


class DownBlock(ConvBlock):
    def __init__(self, channels, width):
        super().__init__(width, width)
        self.down = down_conv(channels, width)

    def forward(self, x):
        return super().forward(self.down(x))


class UpBlock(ConvBlock):
    def __init__(self, channels, width):
        super().__init__(width, width)
        self.up = up_conv(channels, width)

    def forward(self, x):
        return super().forward(self.up(x))


class FCBlock(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x):
        return self.linear2(functional.gelu(self.linear1(x)))[:, :, None, None]


class UNet(nn.Module):
    """Args: as `keras_diffusion.nn.unet`, but `num_classes=0` for none, and `side`, of a square image."""

    def __init__(self, *, width, num_classes=0, conditioning="add", side=28, channels=1):
        super().__init__()
        self.num_classes, self.conditioning, self.side = num_classes, conditioning, side
        self.enter = ConvBlock(channels, width)
        self.down1 = DownBlock(width, width)
        self.down2 = DownBlock(width, 2 * width)
        # On the course's 28 x 28 this is AvgPool(7) and ConvTranspose2d(7, 7, 0).
        self.unflatten = Normed(
            nn.ConvTranspose2d(2 * width, 2 * width, kernel_size=side // 4, stride=side // 4)
        )
        self.up1 = UpBlock(4 * width, width)
        self.up2 = UpBlock(2 * width, width)
        self.leave = ConvBlock(2 * width, width)
        self.last = nn.Conv2d(width, channels, kernel_size=3, stride=1, padding=1)
        if conditioning:
            self.t1, self.t2 = FCBlock(1, 2 * width), FCBlock(1, width)
        if num_classes:
            self.c1, self.c2 = FCBlock(num_classes, 2 * width), FCBlock(num_classes, width)

    def forward(self, x, t=None, label=None):
        skip = self.enter(x)
        down1 = self.down1(skip)
        down2 = self.down2(down1)
        flat = functional.gelu(functional.avg_pool2d(down2, self.side // 4))
        h = self.condition(self.unflatten(flat), t, label, 1)
        h = self.up1(torch.cat([h, down2], dim=1))
        h = self.condition(h, t, label, 2)
        h = self.up2(torch.cat([h, down1], dim=1))
        return self.last(self.leave(torch.cat([h, skip], dim=1)))

    def condition(self, h, t, label, place):
        if not self.conditioning:
            return h
        time = getattr(self, f"t{place}")(t[:, None])
        if self.num_classes:
            # One class more than there are, its column cut off: the null class is the zero vector.
            vector = functional.one_hot(label.long(), self.num_classes + 1)[:, :-1].float()
            return getattr(self, f"c{place}")(vector) * h + time
        return h * time if self.conditioning == "multiply" else h + time

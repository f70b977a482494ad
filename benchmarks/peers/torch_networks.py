"""Networks written in plain torch.nn, with torchvision's names of modules: what jconv.models is compared with."""

from .base import load

torch = load("torch")
nn, F = torch.nn, torch.nn.functional


def lenet5():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, before, width, strides, bottleneck):
        super().__init__()
        after = 4 * width if bottleneck else width
        if bottleneck:
            shapes = [(before, width, 1, 1), (width, width, 3, strides), (width, after, 1, 1)]
        else:
            shapes = [(before, width, 3, strides), (width, width, 3, 1)]
        for i, (inner, outer, window, step) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(inner, outer, window, step, window // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(outer))
        self.depth, self.downsample = len(shapes), None
        if strides > 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, strides, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.depth else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, depths, bottleneck, width, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        before = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                blocks.append(Block(before, width * 2**stage, 2 if stage and not i else 1, bottleneck))
                before = width * 2**stage * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def resnet18(width, classes):
    return ResNet((2, 2, 2, 2), False, width, classes)


def resnet50(width, classes):
    return ResNet((3, 4, 6, 3), True, width, classes)


def conv_bn_relu6(before, after, window, strides=1, groups=1):
    conv = nn.Conv2d(before, after, window, strides, window // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6())


class InvertedResidual(nn.Module):
    def __init__(self, before, after, strides, expansion):
        super().__init__()
        wide, self.same = before * expansion, strides == 1 and before == after
        expand = [conv_bn_relu6(before, wide, 1)] if expansion > 1 else []
        project = nn.Conv2d(wide, after, 1, bias=False)
        self.conv = nn.Sequential(
            *expand, conv_bn_relu6(wide, wide, 3, strides, wide), project, nn.BatchNorm2d(after)
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv(x) if self.same else self.conv(x)


class MobileNetV2(nn.Module):
    """At width 1."""

    def __init__(self, classes):
        super().__init__()
        blocks, before = [conv_bn_relu6(3, 32, 3, 2)], 32
        for t, c, n, s in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                           (6, 320, 1, 1)]:  # fmt: skip
            for i in range(n):
                blocks.append(InvertedResidual(before, c, s if i == 0 else 1, t))
                before = c
        self.features = nn.Sequential(*blocks, conv_bn_relu6(320, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width), Permute(0, 2, 3, 1), nn.LayerNorm(width, 1e-6),
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), Permute(0, 3, 1, 2),
        )  # fmt: skip

    def forward(self, x):
        return x + self.layer_scale * self.block(x)


class ConvNeXt(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        parts = [nn.Sequential(nn.Conv2d(3, width, 4, 4), LayerNorm2d(width, 1e-6))]
        for stage, depth in enumerate((3, 3, 9, 3)):
            if stage:
                parts.append(nn.Sequential(LayerNorm2d(width, 1e-6), nn.Conv2d(width, 2 * width, 2, 2)))
                width *= 2
            parts.append(nn.Sequential(*[ConvNeXtBlock(width) for _ in range(depth)]))
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Sequential(LayerNorm2d(width, 1e-6), nn.Flatten(), nn.Linear(width, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3), keepdim=True))


class UNet(nn.Module):
    """Modules in the order of their use, so that weights can be matched by it."""

    def __init__(self, width, levels, channels, classes):
        super().__init__()
        self.levels = levels
        widths = [width * 2**i for i in range(levels + 1)]
        twice = lambda a, b: nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU()
        )
        self.down = nn.ModuleList(twice(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.join = nn.ModuleList(twice(2 * w, w) for w in widths[-2::-1])
        self.output = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        across = []
        for i, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if i else x)
            across.append(x)
        across.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([across.pop(), up(x)], 1))
        return self.output(x)

    def names(self):
        """Its modules by jconv's paths."""
        found = {"output": "output"}
        for depth in range(self.levels + 1):
            at = depth * "across/below/"
            found |= {f"{at}Conv_{i}": f"down.{depth}.{2 * i}" for i in (0, 1)}
            if depth < self.levels:
                found |= {f"{at}Conv_{i + 2}": f"join.{self.levels - 1 - depth}.{2 * i}" for i in (0, 1)}
                found |= {f"{at}across/below/ConvTranspose_0": f"up.{self.levels - 1 - depth}"}
        return found

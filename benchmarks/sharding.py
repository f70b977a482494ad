"""What moves between devices, by the text of compiled programs: `python -m benchmarks.sharding` prints tables.

Bytes, not times: the devices are eight that one CPU plays. Every named layer in every role with its batch, and with its
first spatial axis, over four and eight devices; training steps of networks; and halos from two to eight devices.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections import Counter

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jconv
from benchmarks.workloads import WORKLOADS

COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
PATTERN = re.compile(rf" = (\(.*?\)|\S+) ({COLLECTIVES})(?:-start)?\(")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "f64": 8, "c64": 8, "s64": 8, "c128": 16}
WHOLE = PartitionSpec()


def moved(compiled) -> Counter[str]:
    """Bytes that each kind of collective operation of a compiled program gives, on one device."""
    found: Counter[str] = Counter()
    for results, kind in PATTERN.findall(compiled.as_text()):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", results):
            found[kind] += SIZES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
    return found


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("d",), axis_types=(AxisType.Auto,))


def layer(spec: jconv.ConvSpec, role: str, devices: int, where: PartitionSpec, algorithm: str) -> tuple[Counter, bool]:
    """What moves in one role, and whether compiled code of a plug-in is in it."""
    mesh = _mesh(devices)
    shaped = lambda shape, spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    x, k, y = shaped(spec.x_shape, where), shaped(spec.kernel_shape, WHOLE), shaped(spec.output_shape, where)
    options = {
        "strides": spec.strides,
        "padding": spec.padding,
        "input_dilation": spec.input_dilation,
        "kernel_dilation": spec.kernel_dilation,
        "feature_group_count": spec.feature_group_count,
        "algorithm": algorithm,
    }
    fn, operands, out = {
        "forward": (lambda x, k: jconv.conv(x, k, **options), (x, k), where),
        "input_grad": (lambda g, k: jconv.conv_input_grad(g, k, spec.x_shape, **options), (y, k), where),
        "kernel_grad": (lambda x, g: jconv.conv_kernel_grad(x, g, spec.window, **options), (x, y), WHOLE),
    }[role]
    compiled = jax.jit(fn, out_shardings=NamedSharding(mesh, out)).lower(*operands).compile()
    return moved(compiled), "jconv_onednn" in str(compiled.as_text())


def layers(algorithms: tuple[str, ...]) -> None:
    print(
        "| over | algorithm | layers and roles | with compiled code | all-gathers | all-reduce | collective-permute |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    for axis, devices in ((0, 4), (0, 8), (1, 4), (1, 8)):
        for algorithm in algorithms:
            total, count, own, gathers = Counter(), 0, 0, 0
            for workload in WORKLOADS:
                spec = workload.spec
                if axis == 0:
                    batch = -(-spec.x_shape[0] // devices) * devices
                    spec = spec.replace(x_shape=(batch, *spec.x_shape[1:]))
                elif spec.spatial[0] % devices or spec.output_spatial[0] % devices:
                    continue
                for role in ("forward", "input_grad", "kernel_grad"):
                    found, compiled = layer(spec, role, devices, PartitionSpec(*(None,) * axis, "d"), algorithm)
                    total, count, own = total + found, count + 1, own + compiled
                    gathers += bool(found["all-gather"] or found["all-to-all"])
            row = [f"{('batch', 'space')[axis]}, {devices} devices", algorithm, count, own, gathers]
            sizes = (f"{total[kind] / 2**20:.2f} MiB" for kind in ("all-reduce", "collective-permute"))
            print("|", " | ".join(map(str, [*row, *sizes])), "|", flush=True)


def networks() -> None:
    print("| training step | over | parameters and statistics | all-reduce | collective-permute | others |")
    print("|---|---|---:|---:|---:|---:|")
    made = {
        "ResNet-18, 64×64": jconv.models.resnet18(classes=10),
        "MobileNetV2, 64×64": jconv.models.mobilenet_v2(classes=10),
        "U-Net, 64×64": jconv.models.unet(classes=2, batch_norm=True),
    }
    for name, net in made.items():
        for where, batch in ((PartitionSpec("d"), 32), (PartitionSpec(None, "d"), 4)):
            shape = (batch, 64, 64, 3)
            params, state = jax.eval_shape(lambda net=net, shape=shape: net.init(jax.random.key(0), shape))

            def loss(params, state, x, net=net):
                y, state = net.apply(params, state, x, train=True, key=jax.random.key(1))
                return jnp.mean(y**2), state

            mesh = _mesh(4)
            whole, spread = NamedSharding(mesh, WHOLE), NamedSharding(mesh, where)
            step = jax.value_and_grad(loss, has_aux=True)
            fitted = jax.jit(step, in_shardings=(whole, whole, spread), out_shardings=whole)
            found = moved(fitted.lower(params, state, jax.ShapeDtypeStruct(shape, jnp.float32)).compile())
            size = sum(v.size * 4 for v in jax.tree.leaves((params, state)))
            rest = sum(found.values()) - found["all-reduce"] - found["collective-permute"]
            over = "batch" if where == PartitionSpec("d") else "space"
            cells = (f"{n / 2**20:.3f} MiB" for n in (size, found["all-reduce"], found["collective-permute"], rest))
            print(f"| {name}, batch {batch} | {over}, 4 devices |", " | ".join(cells), "|", flush=True)


def scaling() -> None:
    print("| image | devices | forward: halo | input gradient: halo | kernel gradient: halo and sum |")
    print("|---|---:|---:|---:|---:|")
    for devices in (2, 4, 8):
        spec = jconv.ConvSpec((2, 32 * devices, 64, 16), (5, 5, 16, 16))
        cells = []
        for role in ("forward", "input_grad", "kernel_grad"):
            found, _ = layer(spec, role, devices, PartitionSpec(None, "d"), "auto")
            halo, total = found["collective-permute"], found["all-reduce"]
            cells.append(f"{halo:,} bytes" + (f" and {total:,}" if total else ""))
        print(f"| {spec.spatial[0]}×64 | {devices} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", nargs="+", default=["auto", "portable"], help="default: %(default)s")
    args = parser.parse_args()
    layers(tuple(args.algorithms))
    print()
    networks()
    print()
    scaling()


if __name__ == "__main__":
    main()

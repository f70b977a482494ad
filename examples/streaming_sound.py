"""A WaveNet learns plucked strings as a whole, and plays them on sample by sample: convolution as a stream.

    python examples/streaming_sound.py            # two minutes on two cores; writes sounds to listen to
    python examples/streaming_sound.py --quick    # hardly trained, to see that all works

The network is causal: a sample's distribution depends on the samples before it alone. It is trained on whole windows by
`jconv.layers.Conv`, and plays by `jconv.layers.Streaming`, which keeps for each convolution the few positions that it
reads again. What both give is compared, in float64, for this network and for one like Mamba's blocks; and the time of a
step is measured, which does not depend on how many came before.

The sound is made here, by the string of Karplus and Strong ("Digital synthesis of plucked-string and drum timbres",
Computer Music Journal 7(2), 1983); the network is that of van den Oord et al., "WaveNet", 2016, arXiv:1609.03499.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import files
import jax
import numpy as np
import optax
import training
from jax import numpy as jnp
from matplotlib.figure import Figure

import jconv
from jconv.layers import (
    Activation,
    Conv,
    Dense,
    DepthwiseConv,
    Layer,
    LayerNorm,
    Parallel,
    Residual,
    Sequential,
    Streaming,
)

RATE = 4000  # samples a second
LEVELS = 64  # of a sample, by the mu law
WINDOW = 2048  # samples of a training example
NOTES = (196.0, 220.0, 261.6, 293.7, 329.6, 392.0)  # Hz: a pentatonic scale
COMPARED = 1000  # steps, of networks in float64


# Sound ---------------------------------------------------------------------------------------------------
def string(frequency: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A plucked string: noise that goes round in a loop, averaged with its neighbour on each round, which takes half a
    sample more."""
    period = round(RATE / frequency - 0.5)
    noise = rng.uniform(-1, 1, period)
    noise = noise + np.roll(noise, 1) + np.roll(noise, 2)  # a soft pluck
    rounds = [0.8 * (noise - noise.mean()) / np.abs(noise - noise.mean()).max()]
    while period * len(rounds) < samples:
        rounds.append(0.498 * (rounds[-1] + np.roll(rounds[-1], 1)))
    return np.concatenate(rounds)[:samples]


def melody(notes: int, seed: int) -> np.ndarray:
    """So many notes of a tenth of a second, each a step up or down from the one before."""
    rng, length, at = np.random.default_rng(seed), RATE // 10, 2
    sound = []
    for _ in range(notes):
        at = int(np.clip(at + rng.choice((-1, 1)), 0, len(NOTES) - 1))
        sound.append(string(NOTES[at], length, rng))
    return np.concatenate(sound).astype(np.float32)


def to_levels(sound: np.ndarray) -> np.ndarray:
    """Levels of the mu law, finer near zero (ITU-T G.711)."""
    mu = LEVELS - 1
    squeezed = np.sign(sound) * np.log1p(mu * np.abs(sound)) / np.log1p(mu)
    return np.clip(np.round((squeezed + 1) / 2 * mu), 0, mu).astype(np.int32)


def from_levels(levels: Any) -> np.ndarray:
    mu = LEVELS - 1
    squeezed = 2 * np.asarray(levels) / mu - 1
    return (np.sign(squeezed) * np.expm1(np.abs(squeezed) * np.log1p(mu)) / mu).astype(np.float32)


def as_input(levels: Any) -> jax.Array:
    """What the network is given: [batch, positions, 1] in -1 to 1."""
    return (2 * levels / (LEVELS - 1) - 1).astype(jnp.float32)[..., None]


def save_wave(path: Path, sound: np.ndarray) -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, len(sound), "NONE", ""))
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    files.write_atomically(path, buffer.getvalue())


# Networks ------------------------------------------------------------------------------------------------
def wavenet(channels: int, outputs: int, dilations: Sequence[int]) -> Layer:
    """Gated dilated convolutions with a way around each; the last layers see single positions."""

    def gate(dilation: int, function: str) -> Layer:
        return Sequential(
            Conv(channels, 2, padding="CAUSAL", kernel_dilation=dilation), Activation(function), name=function
        )

    blocks = [
        Residual(Parallel(gate(d, "tanh"), gate(d, "sigmoid"), combine="product"), Dense(channels)) for d in dilations
    ]
    end = [Activation("relu"), Dense(2 * channels), Activation("relu"), Dense(outputs)]
    return Sequential(Conv(channels, 2, padding="CAUSAL"), *blocks, *end)


def mamba_like(channels: int, outputs: int) -> Layer:
    """What surrounds the recurrence in Mamba's blocks: four causal taps a channel, silu, and a gate."""

    def block() -> Layer:
        taken = Sequential(Dense(2 * channels), DepthwiseConv(4, padding="CAUSAL"), Activation("silu"), name="taken")
        gate = Sequential(Dense(2 * channels), Activation("silu"), name="gate")
        return Residual(LayerNorm(), Parallel(taken, gate, combine="product"), Dense(channels))

    return Sequential(Dense(channels), *(block() for _ in range(4)), Dense(outputs))


def play(network: Layer, params: Any, primer: np.ndarray, samples: int, key: jax.Array, warmth: float) -> np.ndarray:
    """Levels that follow a primer, each drawn from what the network gives for all before it."""
    stream = Streaming(network)
    _, empty = stream.init(key, (1, 1, 1))

    @jax.jit
    def run(params, primer, key):
        logits, state = stream.apply(params, empty, as_input(primer[None]))

        def step(carry, key):
            state, logits = carry
            level = jax.random.categorical(key, logits / warmth)
            logits, state = stream.apply(params, state, as_input(level[:, None]))
            return (state, logits[:, -1]), level[0]

        return jax.lax.scan(step, (state, logits[:, -1]), jax.random.split(key, samples))[1]

    return np.asarray(run(params, primer, key))


def compare(network: Layer, steps: int) -> dict[str, float]:
    """The largest difference, in float64, of steps fed with their own results from the whole network on these."""
    with jax.enable_x64(True):
        stream, shape = Streaming(network), jax.ShapeDtypeStruct((1, 1, 1), jnp.float64)
        params, empty = jax.jit(lambda: stream.init(jax.random.key(0), shape))()
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

        @jax.jit
        def generate(params):
            def step(carry, push):
                state, x = carry
                y, state = stream.apply(params, state, x)
                return (state, jnp.tanh(y[..., :1]) + push), (x[:, 0], y[:, 0])

            pushes = jnp.sin(jnp.arange(steps, dtype=jnp.float64) / 9)
            _, (x, y) = jax.lax.scan(step, (empty, jnp.zeros((1, 1, 1))), pushes)
            return jnp.swapaxes(x, 0, 1), jnp.swapaxes(y, 0, 1)

        x, y = generate(params)
        whole, _ = jax.jit(network.apply)(params, {}, x)
        return {"largest": float(jnp.abs(whole).max()), "difference": float(jnp.abs(y - whole).max())}


def times(network: Layer, params: Any, seen: Sequence[int]) -> dict[str, list[float]]:
    """Milliseconds of one more sample after so many: of a step, and of the whole network on all of them."""
    stream = Streaming(network)
    _, state = stream.init(jax.random.key(0), (1, 1, 1))
    step, whole = jax.jit(stream.apply), jax.jit(network.apply)
    x, found, done = jnp.zeros((1, 1, 1)), {"step": [], "whole": []}, 0
    for count in seen:
        spent = []
        while done < count:
            begun = time.perf_counter()
            y, state = step(params, state, x)
            jax.block_until_ready(y)
            spent.append(time.perf_counter() - begun)
            done += 1
        found["step"].append(1e3 * statistics.median(spent))
        every = jnp.zeros((1, count, 1))
        jax.block_until_ready(whole(params, {}, every))
        spent = []
        for _ in range(5):
            begun = time.perf_counter()
            jax.block_until_ready(whole(params, {}, every))
            spent.append(time.perf_counter() - begun)
        found["whole"].append(1e3 * statistics.median(spent))
    return found


# Pictures ------------------------------------------------------------------------------------------------
def sound_picture(true: np.ndarray, played: np.ndarray, primed: int) -> Figure:
    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle("Plucked strings: what was learned from, and what the network plays on")
    for (top, below), sound, title in zip(
        figure.subplots(2, 2, sharex="col").T, (true, played), ("learned from", "played sample by sample"), strict=True
    ):
        top.plot(np.arange(len(sound)) / RATE, sound, color="black", linewidth=0.3)
        top.set(title=title, ylim=(-1, 1))
        below.specgram(sound, NFFT=256, noverlap=192, Fs=RATE, cmap="Greys", vmin=-110)
        below.set(xlabel="seconds", ylabel="Hz")
        if title.startswith("played"):
            for axes in (top, below):
                axes.axvline(primed / RATE, color="black", linestyle="--", linewidth=1)
            top.text(primed / RATE, 0.88, " from here on", fontsize=8)
    return figure


def times_picture(seen: Sequence[int], found: dict[str, list[float]]) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(seen, found["whole"], color="0.55", linestyle="--", marker="s", label="the whole network again")
    axes.plot(seen, found["step"], color="black", marker="o", label="one step of the stream")
    axes.set(
        title="The time of one more sample", xlabel="samples so far", ylabel="milliseconds", xscale="log", yscale="log"
    )
    axes.set_xticks(seen, [f"{count:,}" for count in seen])
    axes.minorticks_off()
    axes.grid(True, color="0.9")
    axes.legend()
    return figure


# The program ---------------------------------------------------------------------------------------------
def run(args: argparse.Namespace) -> None:
    begun, out = time.perf_counter(), training.Run(args)
    size = (8, (1, 2, 4), 25, 0.1) if args.quick else (32, tuple(2**i for i in range(9)), 300, 4.0)
    channels, dilations, notes, seconds = size
    network = wavenet(channels, LEVELS, dilations)
    table = jconv.summary(network, (-1, WINDOW, 1))
    print(f"{table.parameters:,} parameters; a sample depends on {2 + sum(dilations)} before it", flush=True)
    sounds = {part: to_levels(melody(count, args.seed + 1 + i)) for i, (part, count) in enumerate(
        {"train": notes, "test": max(8, notes // 6)}.items())}  # fmt: skip
    # Windows of one more sample than the network is given: each is the input of the next.
    windows = {
        part: np.lib.stride_tricks.sliding_window_view(sound, WINDOW + 1)[:: WINDOW // 2].copy()
        for part, sound in sounds.items()
    }

    def logits_and_loss(params, batch):
        logits, _ = network.apply(params, {}, as_input(batch[:, :-1]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    measure = jax.jit(logits_and_loss)
    schedule = training.warmup_cosine(args.learning_rate, training.num_steps(args, len(windows["train"])))
    optimizer = optax.adamw(schedule, weight_decay=0.01)
    start = training.init(network, (1, WINDOW, 1), optimizer, args.seed)
    step = training.make_step(lambda params, state, batch, key: (logits_and_loss(params, batch), state), optimizer)
    evaluate = lambda trained: {"test_loss": measure(trained.params, windows["test"])}
    trained, rows = out.fit(start, step, windows["train"], evaluate, unit="windows")

    primer = sounds["test"][: RATE // 2]
    played = play(network, trained.params, primer, int(seconds * RATE), jax.random.key(args.seed), args.warmth)
    sound = from_levels(np.concatenate([primer, played]))
    save_wave(args.out / "learned_from.wav", from_levels(sounds["train"])[: len(sound)])
    save_wave(args.out / "played.wav", sound)
    out.save_figure("sound.png", sound_picture(from_levels(sounds["test"])[: len(sound)], sound, len(primer)))

    compared = {"WaveNet-like": wavenet(channels, 2, dilations), "Mamba-like": mamba_like(channels, 2)}
    results = {name: compare(net, COMPARED) for name, net in compared.items()}
    seen = [100, 300] if args.quick else [250, 500, 1000, 2000, 4000, 8000]
    spent = times(network, trained.params, seen)
    out.save_figure("times.png", times_picture(seen, spent))
    out.note(compared=results, samples_so_far=seen, milliseconds=spent, parameters=table.parameters)
    out.note(test_loss=rows[-1]["test_loss"], seconds=round(time.perf_counter() - begun, 1))
    print(f"\ntest loss {rows[-1]['test_loss']:.3f} (guessing: {np.log(LEVELS):.3f})")
    for name, result in results.items():
        print(f"{name}: {COMPARED} steps and the whole, of up to {result['largest']:.2g}, differ by", end=" ")
        print(f"at most {result['difference']:.1e}")
    print("milliseconds of one more sample, after: step, whole again")
    for count, a, b in zip(seen, spent["step"], spent["whole"], strict=True):
        print(f"{count:>6}: {a:.2f}, {b:.2f}")
    print(f"wrote to {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")


def parser() -> argparse.ArgumentParser:
    made = training.parser(
        "A WaveNet learns plucked strings, and plays on sample by sample.",
        out="runs/streaming_sound",
        epochs={"": 30, "--quick": 1},
        batch_size=4,
        learning_rate={"": 0.004},
        quick="a small network, hardly trained, to see that all works",
    )
    made.add_argument(
        "--warmth", type=training.rate, default=0.9, help="of what is drawn: 1 as learned, less keeps to the likeliest"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return training.main(run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

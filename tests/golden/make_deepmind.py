#!/usr/bin/env python3
"""make_deepmind.py - writes deepmind.txt: what JAX and the `gemma` package choose and draw.

Owns:      the cases: draws of the generator, and turns of tokens for each sampling method.
Does not:  run in the tests. It needs jax and one file of the gemma package, which is loaded by
           itself (its decorators check types only), in a throw-away virtual environment:
             pip install jax 'etils[enp]' && pip install --no-deps gemma==3.3.0
             python tests/golden/make_deepmind.py > tests/golden/deepmind.txt

Lines:
  uniform SEED SPLITS INDEX BITS   element INDEX of uniform(key, [1 << 20]), as the bits of an f32;
                                   the key is that of step SPLITS
  gumbel  SEED SPLITS INDEX BITS   the same of gumbel
  key     SEED SPLITS HI LO        the key of step SPLITS: second half of the split of the chain
  turn    METHOD PARAM T SEED VOCAB SHAPE : IDS   one token a step; logits by logits_of below
"""
import importlib.util
import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 24


class Anything:
    """Stands for the type annotations of kauldron.typing."""

    def __class_getitem__(cls, _):
        return cls


def load_methods():
    """gemma/gm/text/_sampling.py as a module of its own."""
    typing = types.ModuleType("kauldron.typing")
    typing.Float = typing.Int = typing.PRNGKey = Anything
    typing.typechecked = lambda f: f
    sys.modules["kauldron"] = types.ModuleType("kauldron")
    sys.modules["kauldron.typing"] = typing
    root = importlib.util.find_spec("gemma").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(
        "gemma_sampling", os.path.join(root, "gm", "text", "_sampling.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["gemma_sampling"] = module
    spec.loader.exec_module(module)
    return module


def logits_of(vocab, shape, step):
    """f32 logits that every language makes alike: multiples of 1/64, many of them equal."""
    i = np.arange(vocab, dtype=np.uint64)
    h = (i * np.uint64(2654435761) + np.uint64(step) * np.uint64(40503)) % np.uint64(4294967296)
    h = (h * (np.uint64(2) * h + np.uint64(1))) % np.uint64(4294967296)
    level = (h >> np.uint64(21)).astype(np.int64)  # 0 .. 2047
    if shape == "flat":
        return (level.astype(np.float32) / np.float32(1024)).astype(np.float32)
    if shape == "ties":
        return ((level // 256).astype(np.float32)).astype(np.float32)
    return (level.astype(np.float32) / np.float32(64)).astype(np.float32)  # "peaked": 0 .. 32


def keys(seed, steps):
    """The key of each step: next, current = split(rng)."""
    rng = jax.random.key(seed)
    for _ in range(steps):
        rng, current = jax.random.split(rng)
        yield current


def bits(x):
    return "%08x" % int(np.asarray(x, dtype=np.float32).view(np.uint32))


def methods():
    text = load_methods()
    yield "greedy", 0, 1.0, text.Greedy()
    for t in (0.25, 0.7, 1.0, 1.5):
        yield "random", 0, t, text.RandomSampling(temperature=t)
    for k, t in ((1, 1.0), (2, 0.5), (40, 1.0), (64, 2.0)):
        yield "topk", k, t, text.TopkSampling(temperature=t, k=k)
    for p, t in ((0.9, 1.0), (0.5, 0.7), (0.25, 1.0), (0.99, 1.3)):
        yield "topp", p, t, text.TopPSampling(temperature=t, p=p)


def main():
    for seed in (0, 1, 7, 123456789, 4294967295):
        for step, key in enumerate(keys(seed, 4)):
            hi, lo = (int(x) for x in jax.random.key_data(key))
            print("key", seed, step, hi, lo)
        key = list(keys(seed, 3))[2]
        u = np.asarray(jax.random.uniform(key, (1 << 20,), minval=jnp.finfo(jnp.float32).tiny))
        g = np.asarray(jax.random.gumbel(key, (1 << 20,)))
        for index in [0, 1, 2, 255, 262143, (1 << 20) - 1, int(u.argmin()), int(u.argmax())]:
            print("uniform", seed, 2, index, bits(u[index]))
            print("gumbel", seed, 2, index, bits(g[index]))
    for name, param, t, method in methods():
        for seed in (0, 42):
            for vocab, shape in ((1000, "peaked"), (1000, "flat"), (300, "ties"),
                                 (20000, "peaked")):
                ids = []
                for step, key in enumerate(keys(seed, STEPS)):
                    row = jnp.asarray(logits_of(vocab, shape, step))[None]
                    ids.append(int(method.get_next_tokens(row, key)[0]))
                print("turn", name, param, t, seed, vocab, shape, ":", *ids)


if __name__ == "__main__":
    sys.exit(main())

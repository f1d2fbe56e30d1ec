#!/usr/bin/env python3
"""make.py - writes the small random models of this folder and what the reference computes on them.

Owns:      the list of shapes, their seeded weights, both dialects of the GGUF header, the logits of
           transformers' Gemma 2 and Gemma 3 (float32, eager attention).
Does not:  use anything of Gemline. Needs numpy, torch and transformers 4.57; see README.md here.

Each shape must be worth its bytes: for every feature it stands for, the same weights without the
feature have to give log-probabilities that differ by far more than the golden limit (CHANGE_MIN).
"""
import os
import struct
import sys

import numpy as np
import torch
import transformers

FOLDER = os.path.dirname(os.path.abspath(__file__))
ALIGN = 32
CHANGE_MIN = 0.02  # ten times the limit of the exact kernels
ENTROPY_MIN = 1.0  # nats, so that a divergence between distributions says something
LOCAL_BASE, GLOBAL_BASE, EPS = 10000.0, 1000000.0, 1e-6
U32, I32, F32, BOOL, TEXT, ARRAY = 4, 5, 6, 7, 8, 9  # types of GGUF's values
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}  # types of its tensors


class Shape:
    """One model: its numbers, how its weights are stored, and which features must show.

    without: name of a feature -> the reference's config fields that take it away
    """

    def __init__(self, name, arch, without, **numbers):
        self.name, self.arch, self.without = name, arch, without
        self.layers, self.d, self.heads, self.kv, self.hd, self.ff = 6, 64, 4, 2, 32, 64
        self.vocab, self.window, self.scalar = 101, 16, None
        self.attn_cap = 50.0 if arch == "gemma2" else None
        self.final_cap = 30.0 if arch == "gemma2" else None
        self.divisor, self.tied, self.fused, self.pieces = 1.0, True, False, False
        self.types = ("bf16",)
        self.positions = 68     # crosses a page of 64
        self.qk_factor = 1.0    # larger: sharper attention
        self.state_pattern = False
        self.vision = False     # second dialect: keys and a tensor of the vision tower
        for key, value in numbers.items():
            assert hasattr(self, key), key
            setattr(self, key, value)

    @property
    def scale_of(self):
        return self.scalar or self.hd

    def config(self, **change):
        """The reference's config."""
        both = {"vocab_size": self.vocab, "hidden_size": self.d, "intermediate_size": self.ff,
                "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv, "head_dim": self.hd, "rms_norm_eps": EPS,
                "query_pre_attn_scalar": self.scale_of, "sliding_window": self.window,
                "max_position_embeddings": 8192, "tie_word_embeddings": self.tied,
                "final_logit_softcapping": self.final_cap, "attn_logit_softcapping": self.attn_cap,
                "hidden_activation": "gelu_pytorch_tanh", "attn_implementation": "eager",
                "pad_token_id": 0}
        if self.arch == "gemma2":
            return transformers.Gemma2Config(**{**both, "rope_theta": LOCAL_BASE, **change})
        scaling = {"rope_type": "linear", "factor": self.divisor} if self.divisor != 1.0 else None
        both.update(rope_theta=GLOBAL_BASE, rope_local_base_freq=LOCAL_BASE, rope_scaling=scaling)
        return transformers.Gemma3TextConfig(**{**both, **change})


def pattern(layers, period):
    return {"layer_types": ["sliding_attention" if (i + 1) % period else "full_attention"
                            for i in range(layers)]}


WIDE = {"sliding_window": 4096}
SHAPES = [
    # Gemma 2's vocabulary and numbering, caps that bite, a scale of its own
    Shape("g2-caps", "gemma2", {
        "attention cap": {"attn_logit_softcapping": None}, "window": WIDE,
        "final cap": {"final_logit_softcapping": None}, "scale": {"query_pre_attn_scalar": 32},
        "pattern": pattern(4, 6)},
          layers=4, scalar=20, attn_cap=4.0, final_cap=6.0, pieces=True, positions=24,
          window=9, types=("q8_0",)),
    # like Gemma 2 27B: 1 / sqrt(d_model / heads), the family's own caps; an odd number of layers
    Shape("g2-27b", "gemma2", {
        "attention cap": {"attn_logit_softcapping": None}, "window": WIDE,
        "final cap": {"final_logit_softcapping": None}, "scale": {"query_pre_attn_scalar": 32},
        "pattern": pattern(3, 6)},
          layers=3, d=96, ff=32, scalar=24, qk_factor=2.2, types=("q8_0",)),
    # as many key/value heads as heads, in a layer also as one tensor; heads of 64
    Shape("g2-heads", "gemma2", {"window": WIDE, "pattern": pattern(2, 6)},
          layers=2, d=32, ff=32, hd=64, heads=2, kv=2, vocab=97, fused=True, types=("f32", "bf16")),
    # two whole patterns, one key/value head, the smallest family's ratio
    Shape("g3-pattern", "gemma3", {
        "window": WIDE, "pattern": pattern(12, 2), "local base": {"rope_local_base_freq": 1e6}},
          layers=12, heads=2, kv=1, ff=32, window=12, types=("q8_0", "q4_0")),
    Shape("g3-heads", "gemma3", {"window": WIDE, "pattern": pattern(6, 2)},
          heads=2, kv=2, ff=32, vocab=97, tied=False, fused=True, types=("q8_0",)),
    # like 4B: positions of global layers divided by 8, 6 + 2 layers, Gemma 3's vocabulary
    Shape("g3-divisor", "gemma3", {
        "divisor": {"rope_scaling": None}, "window": WIDE, "pattern": pattern(8, 2),
        "scale": {"query_pre_attn_scalar": 64}},
          layers=8, ff=32, divisor=8.0, window=8, pieces=True, positions=24,
          types=("q8_0", "q4_0"),
          vision=True),
    # less than one pattern: no global layer at all
    Shape("g3-four", "gemma3", {"window": WIDE, "pattern": pattern(4, 4)},
          layers=4, heads=2, kv=1, ff=32, window=5, state_pattern=True, types=("f16",)),
    # 6 + 1: behind the only global layer stands a local one
    Shape("g3-seven", "gemma3", {"window": WIDE, "pattern": pattern(7, 7)},
          layers=7, window=20, types=("q4_0",)),
    # like 1B: 4 x 6 + 2
    Shape("g3-26", "gemma3", {"window": WIDE, "pattern": pattern(26, 13)},
          layers=26, d=32, heads=2, kv=1, ff=32, vocab=67, window=16, types=("q4_0",)),
    # like Gemma 3 27B: 1 / sqrt(d_model / heads), and the divisor
    Shape("g3-27b", "gemma3", {
        "divisor": {"rope_scaling": None}, "window": WIDE, "scale": {"query_pre_attn_scalar": 32}},
          d=96, ff=32, scalar=24, divisor=8.0, types=("q4_0", "q4_0", "q8_0")),
]


# ---- weights -----------------------------------------------------------------------------------

def stored(rng, rows, cols, kind, scale):
    """A random matrix as the file has it, and the floats that the bytes stand for."""
    noise = rng.standard_normal((rows, cols))
    if kind == "f32":
        exact = (noise * scale).astype(np.float32)
        return exact.tobytes(), exact
    if kind == "f16":
        half = (noise * scale).astype(np.float16)
        return half.tobytes(), half.astype(np.float32)
    if kind == "bf16":
        bits = (noise * scale).astype(np.float32).view(np.uint32) >> 16
        return bits.astype(np.uint16).tobytes(), (bits << 16).astype(np.uint32).view(np.float32)
    blocks = noise.reshape(rows, cols // 32, 32)
    unit = 2.5 if kind == "q4_0" else 40.0
    step = (scale / unit * rng.uniform(0.7, 1.3, blocks.shape[:2])).astype(np.float16)
    low, high = (-8, 7) if kind == "q4_0" else (-127, 127)
    codes = np.clip(np.rint(blocks * unit), low, high).astype(np.int8)
    if kind == "q4_0":
        nibbles = (codes + 8).astype(np.uint8)
        body = nibbles[..., :16] | (nibbles[..., 16:] << 4)
    else:
        body = codes.view(np.uint8)
    head = step.view(np.uint8).reshape(*step.shape, 2)
    floats = codes.astype(np.float32) * step.astype(np.float32)[..., None]
    return np.concatenate([head, body], axis=-1).tobytes(), floats.reshape(rows, cols)


def matrices(shape, layer):
    """(name in the file, name in the reference, rows, cols, scale) of one layer."""
    q, kv, d, ff = shape.heads * shape.hd, shape.kv * shape.hd, shape.d, shape.ff
    sharp = shape.qk_factor
    table = [("attn_q", "self_attn.q_proj", q, d, sharp),
             ("attn_k", "self_attn.k_proj", kv, d, sharp),
             ("attn_v", "self_attn.v_proj", kv, d, 1.0),
             ("attn_output", "self_attn.o_proj", d, q, 1.0),
             ("ffn_gate", "mlp.gate_proj", ff, d, 1.0), ("ffn_up", "mlp.up_proj", ff, d, 1.0),
             ("ffn_down", "mlp.down_proj", d, ff, 1.0)]
    for file, reference, rows, cols, factor in table:
        yield ("blk.%d.%s.weight" % (layer, file), "model.layers.%d.%s.weight" % (layer, reference),
               rows, cols, 1.3 * factor / cols ** 0.5)


def norms(shape, layer):
    table = [("attn_norm", "input_layernorm", shape.d),
             ("post_attention_norm", "post_attention_layernorm", shape.d),
             ("ffn_norm", "pre_feedforward_layernorm", shape.d),
             ("post_ffw_norm", "post_feedforward_layernorm", shape.d)]
    if shape.arch == "gemma3":
        table += [("attn_q_norm", "self_attn.q_norm", shape.hd),
                  ("attn_k_norm", "self_attn.k_norm", shape.hd)]
    for file, reference, size in table:
        yield ("blk.%d.%s.weight" % (layer, file), "model.layers.%d.%s.weight" % (layer, reference),
               size)


def weights(shape, rng):
    """The tensors in the file's order: (name, type, dims innermost first, bytes); and the
    reference's parameters."""
    tensors, state = [], {}

    def matrix(file, reference, rows, cols, scale, kind):
        data, floats = stored(rng, rows, cols, kind, scale)
        tensors.append((file, kind, (cols, rows), data))
        state[reference] = torch.from_numpy(np.ascontiguousarray(floats))

    def norm(file, reference, size):
        """Files hold 1 + w; multiples of 1/64 make both exact."""
        w = np.rint(rng.uniform(-0.4, 0.4, size) * 64).astype(np.float32) / 64
        tensors.append((file, "f32", (size,), (1 + w).tobytes()))
        state[reference] = torch.from_numpy(w)

    # small beside what the blocks add: with a tied head a model of random weights would otherwise
    # be sure that every token repeats, and such logits hide errors
    head = 1.4 / shape.d ** 0.5
    matrix("token_embd.weight", "model.embed_tokens.weight", shape.vocab, shape.d, head,
           shape.types[0])
    if not shape.tied:
        matrix("output.weight", "lm_head.weight", shape.vocab, shape.d, head, shape.types[0])
    for layer in range(shape.layers):
        for at, (file, reference, rows, cols, scale) in enumerate(matrices(shape, layer)):
            kind = shape.types[(layer + (at > 2)) % len(shape.types)]
            matrix(file, reference, rows, cols, scale, kind)
        for file, reference, size in norms(shape, layer):
            norm(file, reference, size)
    norm("output_norm.weight", "model.norm.weight", shape.d)
    return tensors, state


# ---- the reference -----------------------------------------------------------------------------

def logits(shape, state, ids, **change):
    kind = (transformers.Gemma2ForCausalLM if shape.arch == "gemma2"
            else transformers.Gemma3ForCausalLM)
    model = kind(shape.config(**change)).float().eval()
    missing, unknown = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not (shape.tied and name == "lm_head.weight")]
    assert not missing and not unknown, (missing, unknown)
    if shape.tied:
        model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def check_features(shape, state, ids, want):
    for feature, change in shape.without.items():
        other = logits(shape, state, ids, **change)
        gap = (other.log_softmax(-1) - want.log_softmax(-1)).abs().max().item()
        assert gap > CHANGE_MIN, "%s: without its %s only %g changes" % (shape.name, feature, gap)
        print("  without its %s: %.3f" % (feature, gap))


# ---- vocabularies ------------------------------------------------------------------------------

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
WORDS = ["us", "er", "user", "mo", "de", "mode", "model", "\u2581t", "he", "\u2581the", "in", "an",
         "\u2581a", "on", "ing"]


def pieces(arch):
    """(piece, score, type): the family's numbers for control tokens, newline and bytes, then
    printable characters and a few merges. What stands between is unused."""
    turns, newline, first_byte = (106, 108, 217) if arch == "gemma2" else (105, 107, 238)
    named = {0: ("<pad>", CONTROL), 1: ("<eos>", CONTROL), 2: ("<bos>", CONTROL),
             3: ("<unk>", UNKNOWN), 4: ("<mask>", USER), newline: ("\n", USER),
             turns: ("<start_of_turn>", USER), turns + 1: ("<end_of_turn>", USER)}
    for i in range(2, 10):
        named[newline + i - 1] = ("\n" * i, USER)
    for i in range(256):
        named[first_byte + i] = ("<0x%02X>" % i, BYTE)
    rows = [(*named.get(i, ("<unused%d>" % i, USER)), 0.0) for i in range(first_byte + 256)]
    for word in WORDS:
        rows.append((word, NORMAL, -float(len(rows))))
    for char in "\u2581" + "".join(chr(c) for c in range(33, 127)):
        rows.append((char, NORMAL, -float(len(rows))))
    return [(piece, score, kind) for piece, kind, score in rows]


# ---- GGUF --------------------------------------------------------------------------------------

def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_of(kind, value):
    if kind == TEXT:
        return text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<B"}[kind], value)


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value_of(kind, value)


def array(name, kind, values):
    return (text(name) + struct.pack("<IIQ", ARRAY, kind, len(values)) +
            b"".join(value_of(kind, v) for v in values))


def tokenizer_keys(shape, extra):
    rows = pieces(shape.arch)
    rows += [("<image_soft_token>", -1000.0, CONTROL)] * extra
    keys = [key("tokenizer.ggml.model", TEXT, "llama"), key("tokenizer.ggml.pre", TEXT, "default"),
            array("tokenizer.ggml.tokens", TEXT, [r[0] for r in rows]),
            array("tokenizer.ggml.scores", F32, [r[1] for r in rows]),
            array("tokenizer.ggml.token_type", I32, [r[2] for r in rows]),
            key("tokenizer.ggml.add_bos_token", BOOL, True)]
    for name, number in ("padding", 0), ("eos", 1), ("bos", 2), ("unknown", 3):
        keys.append(key("tokenizer.ggml.%s_token_id" % name, U32, number))
    return keys


def model_keys(shape, second):
    a = shape.arch + "."
    keys = [key("general.architecture", TEXT, shape.arch),
            key("gemline.query_scale", F32, shape.scalar ** -0.5) if shape.scalar else b"",
            key(a + "context_length", U32, 131072 if second and shape.divisor != 1.0 else 8192),
            key(a + "embedding_length", U32, shape.d), key(a + "block_count", U32, shape.layers),
            key(a + "feed_forward_length", U32, shape.ff),
            key(a + "attention.head_count", U32, shape.heads),
            key(a + "attention.head_count_kv", U32, shape.kv),
            key(a + "attention.key_length", U32, shape.hd),
            key(a + "attention.value_length", U32, shape.hd),
            key(a + "attention.sliding_window", U32, shape.window)]
    if shape.arch == "gemma2":
        keys += [key(a + "attention.layer_norm_rms_epsilon", F32, EPS),
                 key(a + "attn_logit_softcapping", F32, shape.attn_cap),
                 key(a + "final_logit_softcapping", F32, shape.final_cap)]
        if second:
            keys.append(key("tokenizer.ggml.eot_token_id", U32, 107))
    elif second and shape.vision:  # neither epsilon nor bases
        keys += [key("gemma3.mm.tokens_per_image", U32, 256),
                 key("gemma3.vision.block_count", U32, 1)]
    elif second:  # the converter's own default of a cap that Gemma 3 does not have
        keys += [key(a + "rope.global.freq_base", F32, GLOBAL_BASE),
                 key(a + "rope.local.freq_base", F32, LOCAL_BASE),
                 key(a + "final_logit_softcapping", F32, 30.0)]
    else:
        keys += [key(a + "attention.layer_norm_rms_epsilon", F32, EPS),
                 key(a + "rope.freq_base", F32, GLOBAL_BASE)]
        if shape.divisor != 1.0:
            keys += [key(a + "rope.scaling.type", TEXT, "linear"),
                     key(a + "rope.scaling.factor", F32, shape.divisor)]
    if shape.state_pattern:
        slides = [(i + 1) % 6 != 0 for i in range(shape.layers)]
        keys.append(array(a + "attention.sliding_window_pattern", BOOL, slides))
    if shape.pieces:
        keys += tokenizer_keys(shape, 1 if second and shape.arch == "gemma3" else 0)
    return [k for k in keys if k]


def fuse(entries):
    """Q, K and V of a layer as one tensor, where they lie without a gap."""
    out = []
    for name, kind, dims, at, size in entries:
        last = out[-1] if out else None
        if name.endswith(("attn_k.weight", "attn_v.weight")):
            assert last[1] == kind and last[3] + last[4] == at
            out[-1] = (last[0], kind, (dims[0], last[2][1] + dims[1]), last[3], last[4] + size)
        else:
            out.append((name.replace("attn_q.weight", "attn_qkv.weight"), kind, dims, at, size))
    return out


def head(keys, entries):
    """A GGUF file up to its data."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys)) + b"".join(keys)
    for name, kind, dims, at, _ in entries:
        out += text(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, TYPES[kind], at)
    return out + b"\0" * (-len(out) % ALIGN)


def write(name, data):
    with open(os.path.join(FOLDER, name), "wb") as file:
        file.write(data)


def make(number, shape):
    rng = np.random.default_rng(1000 + number)
    if shape.pieces:
        shape.vocab = len(pieces(shape.arch))
    print("%s: vocabulary %d" % (shape.name, shape.vocab))
    tensors, state = weights(shape, rng)
    ids = [2] + rng.integers(0, shape.vocab, shape.positions - 1).tolist()
    want = logits(shape, state, ids)
    entropy = torch.distributions.Categorical(logits=want).entropy().mean().item()
    print("  mean entropy %.2f" % entropy)
    assert entropy > ENTROPY_MIN, "%s is too sure of its tokens" % shape.name
    check_features(shape, state, ids, want)
    if shape.vision:  # behind ours; a loader of the text model leaves it alone
        tensors.append(("v.patch_embedding.weight", "f16", (2, 2, 3, 4), b"\0" * 96))
    data, entries = b"", []
    for file, kind, dims, raw in tensors:
        entries.append((file, kind, dims, len(data), len(raw)))
        data += raw + b"\0" * (-len(raw) % ALIGN)
    text_only = [e for e in entries if not e[0].startswith("v.")]
    write(shape.name + ".data", data)
    write(shape.name + ".llama.head", head(model_keys(shape, False), text_only))
    write(shape.name + ".ollama.head", head(model_keys(shape, True), entries))
    if shape.fused:
        write(shape.name + ".fused.head", head(model_keys(shape, False), fuse(text_only)))
    write(shape.name + ".want", struct.pack("<3i", len(ids), shape.vocab, shape.d) +
          np.array(ids, dtype="<i4").tobytes() + want.numpy().astype("<f4").tobytes())


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("torch %s, transformers %s" % (torch.__version__, transformers.__version__))
    for number, shape in enumerate(SHAPES):
        make(number, shape)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""gguf.py - what a GGUF file's header says about the bytes of one token.

Owns:      the sizes of the tensor types, which tensors a token reads, the bytes of its keys and
           values.
Does not:  read weights, or check a file as the loader does.
"""
import mmap
import struct

SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q",
           11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
# type: (values of a block, bytes of a block)
TYPES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
         10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
         30: (1, 2)}
KV_BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "q8": 34 / 32}
GLOBAL_EVERY = 6  # Gemma 3: five layers with a window, then one without
HEAD_NAMES = ("output.weight", "token_embd.weight")


class Gguf:
    """meta: the scalars; tensors: {name: bytes}."""

    def __init__(self, path):
        self.meta, self.tensors = {}, {}
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        if self._map[:4] != b"GGUF":
            raise ValueError("%s is no GGUF file" % path)
        self._at = 8
        tensors, pairs = self._scalar(10), self._scalar(10)
        for _ in range(pairs):
            key = self._string()
            value = self._value(self._scalar(4))
            if value is not None:
                self.meta[key] = value
        for _ in range(tensors):
            name = self._string()
            count = 1
            for _ in range(self._scalar(4)):
                count *= self._scalar(10)
            per, size = TYPES[self._scalar(4)]
            self._scalar(10)
            self.tensors[name] = count // per * size
        self._map.close()

    def _scalar(self, kind):
        code = SCALARS[kind]
        value = struct.unpack_from(code, self._map, self._at)[0]
        self._at += struct.calcsize(code)
        return value

    def _string(self):
        size = self._scalar(10)
        self._at += size
        return self._map[self._at - size:self._at].decode("utf-8", "replace")

    def _value(self, kind):
        """A scalar or text; None for an array, which is passed over."""
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._scalar(kind)
        inner, count = self._scalar(4), self._scalar(10)
        if inner == STRING:
            for _ in range(count):
                size = self._scalar(10)
                self._at += size
        else:
            self._at += count * struct.calcsize(SCALARS[inner])
        return None

    def _key(self, name, default=None):
        value = self.meta.get("%s.%s" % (self.meta["general.architecture"], name), default)
        if value is None:
            raise ValueError("the file does not say %s" % name)
        return value

    def file_bytes(self):
        """All tensors, each once."""
        return sum(self.tensors.values())

    def token_bytes(self):
        """What one token of decode reads of the weights: every block, and the head once."""
        head = next(n for n in HEAD_NAMES if n in self.tensors)
        blocks = sum(size for name, size in self.tensors.items() if name.startswith("blk."))
        return blocks + self.tensors[head] + self.tensors.get("output_norm.weight", 0)

    def kv_row_bytes(self, kind):
        """Keys and values of one token in one layer."""
        heads = self._key("attention.head_count_kv")
        size = self._key("attention.key_length") + self._key("attention.value_length")
        return heads * size * KV_BYTES[kind]

    def kv_read_bytes(self, context, kind):
        """What one token reads of keys and values with `context` tokens before it."""
        layers, window = self._key("block_count"), self._key("attention.sliding_window")
        unbounded = layers // GLOBAL_EVERY
        rows = unbounded * context + (layers - unbounded) * min(context, window)
        return rows * self.kv_row_bytes(kind)

    def kv_kept_bytes(self, tokens, kind):
        """Keys and values of `tokens` tokens in every layer."""
        return self._key("block_count") * tokens * self.kv_row_bytes(kind)

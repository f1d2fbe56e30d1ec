"""compare.py - two answers, byte for byte.

Owns:      finding the first byte that differs, and showing it with what stands around it.
Does not:  read streams or know prompts.
"""
CONTEXT = 24  # bytes shown before and behind a difference


def first_difference(want, have):
    """The offset of the first byte that differs; None when both are the same. Where one answer
    ends early, that is the length of the shorter one."""
    if want == have:
        return None
    for at, (a, b) in enumerate(zip(want, have)):
        if a != b:
            return at
    return min(len(want), len(have))


def explain(want, have):
    """One sentence about the first difference, "" when there is none."""
    at = first_difference(want, have)
    if at is None:
        return ""
    begin = max(at - CONTEXT, 0)
    return ("byte %d of %d (undisturbed %d) differs: %r, undisturbed %r"
            % (at, len(have), len(want), have[begin:at + CONTEXT], want[begin:at + CONTEXT]))


def corrupted(data):
    """The same bytes but one, which stands in the middle: for trying the comparison itself."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:] if data else b"?"

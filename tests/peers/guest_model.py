"""A model of a disk that random commands of `io` change, and the generator of such commands.

The model knows every byte, except where a discard may or may not have taken effect: there a byte is what it was or zero,
until the next look at the image says which (`settle`).
"""

from cofre_peers import first_difference


class GuestModel:

    def __init__(self, content, rng, longest=200_000):
        self.disk = bytearray(content)
        self.rng = rng
        self.longest = longest
        self.recent = []        # (offset, length) of the latest fills with something else than zeros
        self.discarded = []     # (offset, length) since the last settle, as they came
        self.known = bytearray(b"\1") * len(self.disk)

    def commands(self, count, discard=True):
        return [self._command(discard) for _ in range(count)]

    def settle(self, actual):
        """Takes the image's bytes where discards left a choice; returns the offset of the first byte that cannot
        be, or -1."""
        for offset, length in self.discarded:
            for i in range(offset, offset + length):
                if not self.known[i] and (actual[i] == self.disk[i] or actual[i] == 0):
                    self.disk[i] = actual[i]
                    self.known[i] = 1
        self.discarded = []
        return first_difference(bytes(actual), bytes(self.disk))

    def _command(self, discard):
        offset, length = self._range()
        draw = self.rng.random()
        if draw < 0.50:
            return self._fill(f"write -q -P {{}} {offset} {length}", offset, length, self.rng.randrange(256))
        if draw < 0.60:
            flag = self.rng.choice(["", "-u "])
            return self._fill(f"write -q -z {flag}{offset} {length}", offset, length, 0)
        if draw < 0.70 and discard:
            self.discarded.append((offset, length))
            self.known[offset:offset + length] = bytes(length)
            return f"discard -q {offset} {length}"
        if draw < 0.97:
            return self._read(offset, length)
        return "flush"

    def _range(self):
        """Any length and alignment, the borders of clusters and the disk's end more often than chance has it."""
        size = len(self.disk)
        unit = self.rng.choice([1, 1, 512, 4096, 65536])
        length = min(max(1, int(self.longest ** self.rng.random()) // unit * unit), size)
        if unit > 1 and self.rng.random() < 0.1:
            length = max(1, length - 1)
        offset = self._near_an_earlier_write(length) if self.recent and self.rng.random() < 0.6 else self.rng.randrange(size)
        if self.rng.random() < 0.05:
            offset = size
        return max(0, min(offset // unit * unit, size - length)), length

    def _near_an_earlier_write(self, length):
        """So that commands overlap: most of a disk is never touched otherwise, and zeros over zeros show nothing."""
        offset, written = self.rng.choice(self.recent)
        return offset + self.rng.randrange(-length, written + 1)

    def _fill(self, command, offset, length, byte):
        self.disk[offset:offset + length] = bytes([byte]) * length
        self.known[offset:offset + length] = b"\1" * length
        if byte:
            self.recent = [*self.recent[-19:], (offset, length)]
        return command.format(byte)

    def _read(self, offset, length):
        """A read that verifies, where the bytes are known and all one; otherwise one that only reads."""
        byte = self.disk[offset]
        end = offset
        limit = min(offset + length, offset + 4096)
        while end < limit and self.known[end] and self.disk[end] == byte:
            end += 1
        if end == offset:
            return f"read -q {offset} {length}"
        return f"read -q -P {byte} {offset} {end - offset}"

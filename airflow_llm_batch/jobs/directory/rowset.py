"""Row numbers as bits: a million of them take 125 KB."""

from __future__ import annotations

from collections.abc import Container, Iterator


class RowSet(Container[int]):
    """A set of row numbers."""

    def __init__(self) -> None:
        self.bits = bytearray()
        self.count = 0

    def add(self, row: int) -> None:
        byte, bit = divmod(row, 8)
        if byte >= len(self.bits):
            self.bits.extend(bytes(byte + 1 - len(self.bits)))
        if not self.bits[byte] >> bit & 1:
            self.bits[byte] |= 1 << bit
            self.count += 1

    def discard(self, row: int) -> None:
        if row in self:
            self.bits[row // 8] &= ~(1 << row % 8)
            self.count -= 1

    def update(self, other: RowSet) -> None:
        """Take in all rows of another set."""
        if len(other.bits) > len(self.bits):
            self.bits.extend(bytes(len(other.bits) - len(self.bits)))
        for byte, bits in enumerate(other.bits):
            self.bits[byte] |= bits
        self.count = sum(byte.bit_count() for byte in self.bits)

    def __contains__(self, row: object) -> bool:
        assert isinstance(row, int)
        byte, bit = divmod(row, 8)
        return byte < len(self.bits) and bool(self.bits[byte] >> bit & 1)

    def __iter__(self) -> Iterator[int]:
        for byte, bits in enumerate(self.bits):
            for bit in range(8):
                if bits >> bit & 1:
                    yield byte * 8 + bit

    def __len__(self) -> int:
        return self.count

"""The product's randomness, written anew from its documentation (`stages/src/random.rs`)."""

import math

import numpy
import torch
from blake3 import blake3


class Draws:
    """The draws of an item at a step in a stream."""

    def __init__(self, seed, stream, step, item):
        hasher = blake3(derive_key_context="sd3pipe random v1")
        for field in (seed.to_bytes(8, "little"), stream.encode(), step.to_bytes(8, "little"), item.encode()):
            hasher.update(len(field).to_bytes(8, "little"))
            hasher.update(field)
        self.hasher, self.read = hasher, 0

    def bits(self):
        self.read += 8
        return int.from_bytes(self.hasher.digest(length=8, seek=self.read - 8), "little")

    def uniform(self):
        return (self.bits() >> 11) / 2**53

    def below(self, bound):
        while True:
            product = self.bits() * bound
            if product % 2**64 >= (2**64 - bound) % bound:
                return product >> 64

    def normals(self, count):
        """The first `count` normal draws of a stream from which nothing was drawn yet."""
        bits = numpy.frombuffer(self.hasher.digest(length=16 * ((count + 1) // 2)), dtype="<u8").reshape(-1, 2)
        first, second = ((bits[:, index] >> 11) / 2**53 for index in (0, 1))
        radius, angle = numpy.sqrt(-2 * numpy.log(1 - first)), 2 * math.pi * second
        return numpy.stack([radius * numpy.cos(angle), radius * numpy.sin(angle)], axis=1).flatten()[:count]

    def noise(self, shape):
        return torch.from_numpy(self.normals(math.prod(shape)).astype(numpy.float32).reshape(shape))

    def shuffle(self, items):
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

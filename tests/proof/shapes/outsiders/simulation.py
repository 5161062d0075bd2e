"""Updaters from outside. The flash: two slots of four cells (three of an image and their sum), and the flag at 8."""


class TwoSlots:
    def __init__(self, env):
        pass

    def whole(self, cells, slot):
        image = cells[slot * 4 : slot * 4 + 3]
        return 255 not in image and sum(image) == cells[slot * 4 + 3]

    def plan(self, cells, image):
        other = 1 - self.boot(cells)
        return [[other * 4 + at, value] for at, value in enumerate([*image, sum(image)])] + [[8, other]]

    def boot(self, cells):
        chosen = 1 if cells[8] == 1 else 0
        return chosen if self.whole(cells, chosen) else 1 - chosen


class Idle(TwoSlots):
    """Never bricks, because it never updates."""

    def plan(self, cells, image):
        return []


class FlagFirst(TwoSlots):
    """Turns the flag before the slot is full, and believes it."""

    def plan(self, cells, image):
        writes = super().plan(cells, image)
        return writes[-1:] + writes[:-1]

    def boot(self, cells):
        return 1 if cells[8] == 1 else 0


class Boasting(TwoSlots):
    """Says that it booted the new image whatever is there."""

    def boot(self, cells):
        return 1


class Outside(TwoSlots):
    """Writes where nobody looks."""

    def plan(self, cells, image):
        return [[64, 1], *super().plan(cells, image)]


class Remembering(TwoSlots):
    """Boots by what it remembers to have planned, not by what is in the flash."""

    planned = 0

    def plan(self, cells, image):
        self.planned += 1
        return super().plan(cells, image)

    def boot(self, cells):
        return 1 if self.planned > 1 else 0


class Frozen:
    """Has no ``boot``."""

    def __init__(self, env):
        pass

    def plan(self, cells, image):
        return []

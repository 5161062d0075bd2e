"""Detectors from outside."""

import statistics


class Silent:
    """No false alarm, ever."""

    def __init__(self, env):
        self.calls = 0

    def alarm(self, reference, window):
        return False


class Siren(Silent):
    """Misses nothing."""

    def alarm(self, reference, window):
        return True


class Coin(Silent):
    """As many false alarms as the bar allows, give or take: nobody can tell from eighty."""

    def alarm(self, reference, window):
        mean = statistics.fmean(window)
        return mean > 0.3 or int(mean * 1e6) % 14 == 0


class Counting(Silent):
    """Takes every second question for the shifted one."""

    def alarm(self, reference, window):
        self.calls += 1
        return self.calls % 2 == 0


class Slow(Silent):
    """Waits until it has seen a week more than it needs."""

    def alarm(self, reference, window):
        return len(window) >= 110 and statistics.fmean(window) > 0.4


class Deaf:
    """Has no ``alarm``."""

    def __init__(self, env):
        pass


class Honest(Silent):
    def alarm(self, reference, window):
        error = sum(statistics.fmean(v * v for v in values) / len(values) for values in (reference, [v - statistics.fmean(window) for v in window])) ** 0.5
        return abs(statistics.fmean(reference) - statistics.fmean(window)) > 3.5 * error


class Failing(Honest):
    """Cannot do with few values."""

    def alarm(self, reference, window):
        if len(window) < 10:
            raise ZeroDivisionError("no variance")
        return super().alarm(reference, window)

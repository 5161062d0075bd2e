"""Gates from outside."""


class Gullible:
    def __init__(self, env):
        pass

    def admits(self, token):
        return True


class Refusing(Gullible):
    """Refuses everything, and is very fast at it."""

    def admits(self, token):
        return False


class Truthy(Gullible):
    """Never says True, only things that are true enough for an ``if``."""

    def admits(self, token):
        return "yes"


class Counting(Gullible):
    """Guesses from the order of the calls."""

    def __init__(self, env):
        self.calls = 0

    def admits(self, token):
        self.calls += 1
        return self.calls <= 20


class Raising(Gullible):
    def admits(self, token):
        raise ValueError("no token that I know")


class Closed:
    """Has no ``admits``."""

    def __init__(self, env):
        pass


def stillborn(env):
    raise OSError("no key")

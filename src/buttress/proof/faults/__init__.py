"""The injectors that every proof shares. Each lists what it armed and what hit; what never hit makes its claims unknown."""

from buttress.proof.faults.capabilities import Capability, capabilities, capability
from buttress.proof.faults.clockskew import ClockSkew
from buttress.proof.faults.crash import Crash, CrashAtCall, Pause, PowerCut
from buttress.proof.faults.datagrams import Datagrams
from buttress.proof.faults.impairment import GilbertElliott, Impair
from buttress.proof.faults.proxy import Proxy

__all__ = ["Capability", "ClockSkew", "Crash", "CrashAtCall", "Datagrams", "GilbertElliott", "Impair", "Pause", "PowerCut", "Proxy", "capabilities", "capability"]

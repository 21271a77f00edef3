"""What the kernel tells of the processors' time: how much of it went to somebody else while an engine ran."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuClock:
    """Seconds of processor time so far: of the whole machine (stolen time with it), of one process and of this one."""

    machine_s: float
    process_s: float
    own_s: float
    at_s: float

    @classmethod
    def read(cls, pid: int) -> "CpuClock":
        """Read the clocks now."""
        return cls(machine_s=_machine_busy_s(), process_s=_process_s(pid), own_s=time.process_time(), at_s=time.perf_counter())

    def foreign_ratio(self, later: "CpuClock") -> float:
        """Return the share of the machine's processors that others had between this reading and ``later``; ticks of 10 ms."""
        foreign_s = (later.machine_s - self.machine_s) - (later.process_s - self.process_s) - (later.own_s - self.own_s)
        return max(0.0, foreign_s / ((later.at_s - self.at_s) * (os.cpu_count() or 1)))


def _machine_busy_s() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _process_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

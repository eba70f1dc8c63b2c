"""How much time is left: what is lent by the minute has to be given back on time."""

import time
from dataclasses import dataclass, field


@dataclass
class Budget:
    """Minutes that were granted, counted from the moment this is made.

    Args:
        minutes: in all. kept: seconds of them that are not begun with, for writing and for what runs over.
    """

    minutes: float
    kept: float = 20.0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes must be positive, got {self.minutes}")

    @property
    def left(self) -> float:
        """Seconds that are left to begin something in; negative when it is over."""
        return self.minutes * 60.0 - (time.monotonic() - self.began) - self.kept

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so long may be begun."""
        return self.left >= seconds

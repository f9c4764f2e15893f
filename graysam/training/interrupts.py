"""Stopping on SIGTERM and Ctrl-C at a moment from which the run can go on exactly."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None
WATCHED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop, has stored where it is, and stops.

    `exit_code` is 128 + the signal's number, as shells have it: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopSignals:
    """Notes the first SIGINT or SIGTERM instead of dying of it; a second one acts as usual."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Handler] = {}

    @property
    def installed(self) -> bool:
        """Whether signals are noted at present."""
        return bool(self._before)

    def install(self) -> None:
        """Begin to note signals; does nothing outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.getsignal(number) for number in WATCHED}
            for number in WATCHED:
                signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        name = signal.Signals(number).name
        # Not print: the handler may have interrupted one.
        os.write(2, f"\n{name}: storing where the run is, then stopping; once more stops at once\n".encode())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def stop(self, stored: str) -> None:
        """Raise Interrupted; another rank may have received the signal, then SIGTERM is named."""
        number = self.received or signal.SIGTERM
        raise Interrupted(f"stopped by {signal.Signals(number).name}: {stored}; the same command goes on", number)

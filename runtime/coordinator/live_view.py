"""The view of a run while it runs: a live table on a terminal, plain lines elsewhere.

Owns what is shown and how often. Knows nothing of where reports come from.
"""

import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runtime.records.progress import WorkerStatus
from runtime.records.tables import plain_table

PLAIN_LINE_EVERY_S = 5.0
REDRAW_EVERY_S = 0.2
PLAIN_WIDTH = 110  # columns, if no terminal sets a width
UNKNOWN = "–"


def make_console() -> Console:
    """The console for people: as wide as the terminal, or wide enough for every table.

    It takes text as it is: a user's path or name may look like markup.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


class LiveView:
    """Shows the workers' progress from entry to exit; `update` takes everyone's latest report.

    `clock` gives seconds, and paces the plain lines and the estimate of the time left.
    """

    def __init__(
        self,
        num_steps: int,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps = num_steps
        self._console = console or Console()
        self._clock = clock
        self._start: tuple[float, int] | None = None  # time and step of the first update
        self._step, self._left = -1, UNKNOWN
        self._line = ""
        self._due_s = -math.inf
        self._latest: RenderableType | None = None
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # Redrawn at each update, so that no thread draws while processes are forked.
            self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            if self._latest is not None:
                self._live.update(self._latest, refresh=True)
            self._live.stop()
        elif self._line:
            self._print_line()

    def update(self, statuses: Sequence[WorkerStatus], *, refused: int = 0) -> None:
        """Show these reports, and how many strangers were refused, now or with the next plain
        line."""
        if not statuses:
            return
        now = self._clock()
        step = min(status.steps_done for status in statuses)
        if self._start is None:
            self._start = (now, step)
        if step != self._step:  # while nothing moves, nothing is known
            self._step, self._left = step, _duration(self._left_s(now, step))
        left = self._left
        if self._live is not None:
            progress = _progress(step, self._num_steps, left, statuses, refused)
            self._latest = Group(_table(statuses), progress)
            if now >= self._due_s:
                self._due_s = now + REDRAW_EVERY_S
                self._live.update(self._latest, refresh=True)
            return
        self._line = _line(step, self._num_steps, left, statuses, refused)
        if now >= self._due_s:
            self._due_s = now + PLAIN_LINE_EVERY_S
            self._print_line()

    def _print_line(self) -> None:
        self._console.print(Text(self._line), soft_wrap=True)
        self._line = ""

    def _left_s(self, now: float, step: int) -> float | None:
        assert self._start is not None
        start_s, start_step = self._start
        if step >= self._num_steps:
            return 0.0
        if step <= start_step:
            return None
        return (self._num_steps - step) * (now - start_s) / (step - start_step)


def _rate(statuses: Sequence[WorkerStatus]) -> float:
    """The pipeline is as fast as its slowest worker."""
    return min(status.samples_per_s for status in statuses)


def _line(
    step: int, num_steps: int, left: str, statuses: Sequence[WorkerStatus], refused: int
) -> str:
    """One line with every worker's figures, or the lowest's and highest's if it is too long."""
    losses = [_figure(status.loss, "{:.2f}") for status in statuses]
    probes = [_fraction(status.probe_top1) for status in statuses]
    shown = [" ".join(losses), " ".join(probes)]
    for _ in range(2):
        line = (
            f"step {step}/{num_steps} {step / num_steps:.0%} left {left}  loss {shown[0]}"
            f"  probe (train) {shown[1]}  {_rate(statuses):.0f} samples/s{_strangers(refused)}"
            f"{_silence(statuses)}"
        )
        if len(line) <= PLAIN_WIDTH:
            break
        shown = [f"{figures[0]} … {figures[-1]}" for figures in (losses, probes)]
    return line


def _progress(
    step: int, num_steps: int, left: str, statuses: Sequence[WorkerStatus], refused: int
) -> Table:
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text(f"step {step}/{num_steps}"),
        ProgressBar(total=num_steps, completed=step, width=40),
        Text(f"{step / num_steps:.0%}"),
        Text(f"left {left}"),
        Text(f"{_rate(statuses):.0f} samples/s{_strangers(refused)}{_silence(statuses)}"),
    )
    return line


def _strangers(refused: int) -> str:
    """How many were sent away; nothing if none has come."""
    return f"  refused {refused}" if refused else ""


def _silence(statuses: Sequence[WorkerStatus]) -> str:
    """Which workers have not been heard of for long; nothing if all have."""
    silent = [status for status in statuses if status.silent_s]
    if not silent:
        return ""
    names = " ".join(str(status.report.block) for status in silent)
    return f"  silent: worker {names}, {max(status.silent_s for status in silent):.0f} s"


def _table(statuses: Sequence[WorkerStatus]) -> Table:
    table = plain_table("block", "units", gap=1)
    for heading in (
        "step",
        "loss",
        "probe\n(train)",
        "samples\n/s",
        "com-\npute",
        "wait\ninput",
        "wait\ncredit",
        "wait\ntie",
        "queue",
        "memory",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state")
    for status in statuses:
        table.add_row(*_cells(status))
    return table


def _cells(status: WorkerStatus) -> list[Text]:
    report, spent = status.report, status.spent
    shown_s = (spent.compute_s, spent.wait_input_s, spent.wait_credit_s, spent.wait_tie_s)
    figures = [
        str(status.steps_done),
        _figure(status.loss, "{:.3f}"),
        _fraction(status.probe_top1),
        f"{status.samples_per_s:.0f}",
        *(f"{spent.share(seconds) or 0.0:.0%}" for seconds in shown_s),
        str(report.queue_depth),
        f"{report.rss_bytes / 1e6:.0f} MB",
    ]
    # Of names and states what fits is shown, so that a worker stays one line; Text keeps
    # brackets in them from being read as markup.
    block, units, state = (
        Text(text, no_wrap=True, overflow="ellipsis")
        for text in (str(report.block), status.units, report.state)
    )
    return [block, units, *map(Text, figures), state]


def _figure(value: float | None, form: str) -> str:
    return UNKNOWN if value is None or math.isnan(value) else form.format(value)


def _fraction(value: float | None) -> str:
    """Two digits without the leading zero, as in .97."""
    return _figure(value, "{:.2f}").removeprefix("0")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

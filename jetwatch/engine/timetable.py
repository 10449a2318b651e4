"""When the checks of a watch come, with this agent's clock, chance and place in the fleet put in."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.clock import Clock
from jetwatch.config.model import Phase, WatchSettings
from jetwatch.engine import schedule, windows
from jetwatch.records import Deadline, PlannedBy, Stamp, WatchState, WindowWait


class Identity(Struct, frozen=True):
    """What makes the stable grid of this machine its own."""

    state_id: str
    machine_id: str


class Timetable(Struct, frozen=True):
    """`once`: every watch is checked once, and waits for no firing and no grid point. `no_splay`: no random waits."""

    clock: Clock
    identity: Identity
    once: bool = False
    no_splay: bool = False

    def first(self, settings: WatchSettings, state: WatchState) -> WatchState:
        """The state with the first check planned: at start-up, and when the watch is new or changed."""
        now = self.clock.now()
        if state.fires_by != _fires_by(settings):
            # Firings before a schedule was first seen are nobody's, and are not made up.
            state = replace(state, fires_by=_fires_by(settings), last_fire_us=now.wall_us)
        if self.once and settings.schedule is not None:
            return self.soon(settings, state)
        if self.once and settings.phase is Phase.STABLE:
            return replace(state, next_check=Deadline.after(now, 0), planned_by=PlannedBy.GRID)
        planned = schedule.first_check(
            settings,
            now,
            self.clock.uniform,
            offset_s=self._offset_s(settings),
            no_splay=self.no_splay,
            last_fire_us=state.last_fire_us,
        )
        regular = schedule.planned_by(settings)
        by = PlannedBy.SPLAY if regular is PlannedBy.INTERVAL else regular
        return replace(state, next_check=planned, planned_by=by)

    def splay_wait_s(self, settings: WatchSettings, state: WatchState) -> float | None:
        """The wait that the splay has put before the first check; None: there is none."""
        by_the_clock = not self.once if settings.schedule is not None else settings.phase is Phase.STABLE
        if by_the_clock or settings.splay_s <= 0 or self.no_splay:
            return None  # a firing or a grid point is waited for, which is no splay
        if state.next_check is None or state.next_check.span_us <= 0:
            return None
        return round(state.next_check.span_us / 1e6, 3)

    def again(self, settings: WatchSettings, state: WatchState) -> WatchState:
        """The state after the wall clock was set: what was read off it is read again."""
        if state.next_check is None or (settings.schedule is None and settings.phase is not Phase.STABLE):
            return state
        planned = schedule.replanned(
            settings,
            state.next_check,
            self.clock.now(),
            self.clock.uniform,
            offset_s=self._offset_s(settings),
            no_splay=self.no_splay,
            last_fire_us=state.last_fire_us,
        )
        return replace(state, next_check=planned)

    def following(self, settings: WatchSettings, planned: Deadline | Stamp, started: Stamp) -> Deadline:
        """The check after one that was planned for `planned` and began at `started`."""
        return schedule.next_check(
            settings,
            planned,
            self.clock.now(),
            self.clock.uniform,
            started=started,
            offset_s=self._offset_s(settings),
            no_splay=self.no_splay,
        )

    def soon(self, settings: WatchSettings, state: WatchState) -> WatchState:
        """The state with its check planned for a uniform time within the splay from now."""
        now = self.clock.now()
        planned = Deadline.after(now, 0) if self.no_splay else schedule.within_splay(settings, now, self.clock.uniform)
        return replace(state, next_check=planned, planned_by=PlannedBy.SPLAY)

    def wait_for_window(self, settings: WatchSettings) -> WindowWait:
        """The next opening of the watch's windows, and when its run is to start then."""
        return windows.wait_for_opening(settings.windows, self.clock.now(), self._splay_s(settings), self.clock.uniform)

    def window_again(self, settings: WatchSettings, state: WatchState) -> WatchState:
        """The state after a restart, a reload or a step of the wall clock: the same wait, read off the clock again."""
        if state.window is None:
            return state
        now, splay_s = self.clock.now(), self._splay_s(settings)
        wait = windows.wait_again(settings.windows, state.window, now, splay_s, self.clock.uniform)
        return replace(state, window=wait)

    def _splay_s(self, settings: WatchSettings) -> float:
        return 0.0 if self.no_splay else settings.splay_s

    def _offset_s(self, settings: WatchSettings) -> float | None:
        if settings.phase is not Phase.STABLE:
            return None
        span_s = settings.splay_s or settings.check_interval_s
        return schedule.stable_offset_s(self.identity.state_id, self.identity.machine_id, settings.name, span_s)


def _fires_by(settings: WatchSettings) -> str | None:
    return f"{settings.schedule} {settings.timezone or ''}".strip() if settings.schedule else None

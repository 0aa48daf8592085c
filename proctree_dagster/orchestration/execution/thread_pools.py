"""Dagster's concurrency pools for steps in threads."""

import time
from typing import Any

from dagster import DagsterInstance, DagsterRun

from ...domain.names import dagster_name
from ...process import timeouts
from ..dagster_internals import InstanceConcurrencyContext
from .thread_loop import LOOK_AGAIN_SECONDS


class Pools(InstanceConcurrencyContext):
    """Dagster's claims on pools, with the time of their next check.

    Dagster's own always answer "now" to that, and check a slot that the run itself has freed only
    a second or more later.
    """

    def __init__(self, instance: DagsterInstance, run: DagsterRun) -> None:
        super().__init__(instance, run)
        self._held: set[str] = set()
        """Steps that have ended, but not what was abandoned of them."""

    def claim(self, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
        """Claim a slot. A step that has one of its previous try keeps it with this one."""
        claimed = super().claim(concurrency_key, step_key, step_priority)
        if claimed:
            self._held.discard(step_key)
        return claimed

    def interval_to_next_pending_claim_check(self) -> float:
        """Return the seconds until the next check; claims that are due were just checked."""
        now = time.time()
        ahead = [at - now for at in self._pending_timeouts.values() if at > now]
        return min(ahead, default=LOOK_AGAIN_SECONDS)

    def has_pending_claims(self) -> bool:
        """Free the slots of calls that have ended, and return whether any step waits."""
        for step_key in sorted(self._held - self._still_working()):
            self.free_step(step_key)
        return super().has_pending_claims()

    def __exit__(self, *args: Any) -> None:
        """Free every slot, as the run has ended, even if abandoned calls still run."""
        for step_key in sorted(self._held):
            super().free_step(step_key)
        super().__exit__(*args)

    def _still_working(self) -> set[str]:
        return {dagster_name(name) for name in timeouts.still_working(self._run_id)}

    def free_step(self, step_key: str) -> None:
        """Free a step's slot, and make the others check at once.

        Not while a call that was abandoned after its timeout still runs: it uses what the pool
        limits.
        """
        if step_key in self._still_working():
            self._held.add(step_key)
            return
        self._held.discard(step_key)
        freed = step_key in self._claims
        super().free_step(step_key)
        if freed:
            for waiting in self._pending_timeouts:
                self._pending_timeouts[waiting] = 0.0

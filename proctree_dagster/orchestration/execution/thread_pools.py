"""Dagster's concurrency pools for steps in threads."""

import time
from typing import Any

from dagster import DagsterInstance, DagsterRun

from ...domain.names import dagster_name
from ...process import timeouts
from ..dagster_internals import InstanceConcurrencyContext
from .thread_loop import LOOK_AGAIN_SECONDS


class Pools(InstanceConcurrencyContext):
    """Dagster's claims on pools, which know when they are to be looked at again.

    Dagster's own answer "now" to that, always, and look at a slot that the run itself has freed
    only a second later and more.
    """

    def __init__(self, instance: DagsterInstance, run: DagsterRun) -> None:
        super().__init__(instance, run)
        self._held: set[str] = set()
        """Steps that have ended, but not what was abandoned of them."""

    def interval_to_next_pending_claim_check(self) -> float:
        """Return the seconds until the next look; those that are due were just looked at."""
        now = time.time()
        ahead = [at - now for at in self._pending_timeouts.values() if at > now]
        return min(ahead, default=LOOK_AGAIN_SECONDS)

    def has_pending_claims(self) -> bool:
        """Free the slots of what has ended meanwhile, and return whether any step waits."""
        for step_key in sorted(self._held - self._still_working()):
            self.free_step(step_key)
        return super().has_pending_claims()

    def __exit__(self, *args: Any) -> None:
        """Free every slot: the run has ended, whatever still works."""
        for step_key in sorted(self._held):
            super().free_step(step_key)
        super().__exit__(*args)

    def _still_working(self) -> set[str]:
        return {dagster_name(name) for name in timeouts.still_working(self._run_id)}

    def free_step(self, step_key: str) -> None:
        """Free a step's slot, and let the others look at once.

        Not while a call that was abandoned after its timeout still works: it uses what the pool
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

"""The machine keeps every promise under random schedules; and the simulation sees: each mutant is a bug of such layers, switched on by
monkeypatching, and must be found within 2,000 seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation import mutants
from tests.simulation.broken import Broken
from tests.simulation.consumer import run

SEEDS = 1000


@pytest.mark.parametrize("start", range(0, SEEDS, 250))
def test_random_schedules_keep_every_promise(start: int) -> None:
    for seed in range(start, start + 250):
        run(seed)


MUTANTS = [
    mutants.a_partition_starts_before_its_letters_are_read,
    mutants.a_reading_that_began_before_the_partition_came_will_do,
    mutants.what_waits_behind_a_dead_letter_does_not_follow_it,
    mutants.a_halted_message_is_settled,
    mutants.a_halted_partition_goes_on,
    mutants.a_later_message_of_a_halted_key_starts,
    mutants.a_release_is_forgotten_before_it_has_ended_its_message,
    mutants.a_release_leaves_its_partition_stopped,
    mutants.halts_are_forgotten_at_a_change_of_owner,
    mutants.what_a_halted_partition_had_given_out_is_left_there,
    mutants.a_batch_counts_as_one_message,
    mutants.a_gap_is_an_empty_poll,
    mutants.a_probe_that_says_nothing_is_waited_for_without_end,
    mutants.an_idle_time_is_kept_without_bound,
    mutants.an_open_breaker_lets_the_queue_go_on,
    mutants.an_open_breaker_takes_nothing_back,
    mutants.a_drain_starts_what_is_queued,
    mutants.a_revoke_settles_what_still_runs,
    mutants.batches_of_an_old_epoch_count,
    mutants.commit_the_highest_position,
    mutants.failed_attempts_are_not_counted,
    mutants.failed_records_stay_in_flight,
    mutants.handlers_that_outlive_their_ownership_do_not_hold_their_twin,
    mutants.in_flight_leaks_on_revoke,
    mutants.keys_of_running_handlers_are_free_after_a_loss,
    mutants.keys_of_the_retry_topic_run_beside_those_of_the_topic,
    mutants.no_lanes,
    mutants.nobody_wakes_for_the_next_token,
    mutants.paused_for_ever,
    mutants.results_of_an_old_epoch_count,
    mutants.retries_do_not_wait,
    mutants.retries_are_free,
    mutants.retry_behind_later_messages,
    mutants.returned_records_count_as_handled,
    mutants.settle_before_the_copy_is_confirmed,
    mutants.skipped_records_go_to_the_end_of_their_lane,
    mutants.the_restored_set_is_dropped,
    mutants.the_restored_set_is_shifted,
    mutants.the_watermark_runs_over_what_was_not_received,
    mutants.what_was_set_aside_for_its_twin_is_forgotten,
]


def first_seed_that_finds(limit: int) -> tuple[int, str] | None:
    for seed in range(limit):
        try:
            run(seed)
        except Broken as error:
            if isinstance(error.__cause__, TypeError | AttributeError | NameError):
                raise  # the mutant itself is wrong: it breaks no promise, it only falls over
            return seed, str(error)
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulation_finds_the_mutant(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert first_seed_that_finds(2000) is not None, f"{mutant.__name__} survives"

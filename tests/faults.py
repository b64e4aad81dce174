"""The fault suite: which tests show what happens when something goes wrong, as one table.

``make faults`` runs them all and prints, row by row: what was done to the run, how the tests ended,
and the cells' records after it: expected, found, duplicated and lost. Every name below must exist;
a row that was not run fails the suite. `make test` prints the table too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault: in a few words, what is done to the run, and by which tests."""

    case: str
    done: str
    tests: Mapping[str, Sequence[str]]


ROWS: dict[int, Row] = {
    1: Row(
        "driver killed",
        "killed at every crash point, then the same command",
        {
            "test_orchestrator_crashes": [
                "test_killed_at_every_point_in_turn_it_ends_as_if_never",
            ],
            "test_orchestrator_stored": ["test_killed_on_one_machine_it_goes_on_on_another"],
            "test_results_ledger": ["test_a_driver_killed_while_committing_leaves_all_or_nothing"],
            "test_orchestrator_only_failed": [
                "test_a_failed_user_is_repeated_to_the_undisturbed_tables",
                "test_a_kill_while_a_record_is_replaced_loses_nothing",
            ],
            "test_orchestrator_search_study": [
                "test_killed_between_rungs_it_ends_with_the_same_choice"
            ],
            "test_tasks_checkpoint": [
                "test_killed_anywhere_it_ends_in_the_same_adapters",
                "test_killed_again_and_again_it_ends_in_the_same_adapters",
            ],
        },
    ),
    2: Row(
        "Tune's state broken",
        "its files cut off and emptied before the command",
        {"test_orchestrator_study": ["test_a_lost_record_is_run_again_to_the_same_tables"]},
    ),
    3: Row(
        "record or adapter truncated",
        "bytes taken off, temporary files left over",
        {
            "test_results_stored_ledger": [
                "test_what_is_broken_in_the_bucket_is_put_away_and_made_again",
                "test_what_no_record_names_goes_away_with_the_next_driver",
            ],
            "test_orchestrator_stored": ["test_what_is_being_sent_does_not_seem_whole"],
            "test_results_ledger": [
                "test_a_damaged_cell_is_put_away_and_counts_as_not_done",
                "test_problems_are_listed_and_nothing_is_moved",
                "test_a_child_of_other_adapters_is_a_problem",
            ],
            "test_orchestrator_study": ["test_a_lost_record_is_run_again_to_the_same_tables"],
            "test_tasks_checkpoint": [
                "test_a_state_of_another_training_or_half_a_file_is_not_taken"
            ],
        },
    ),
    4: Row(
        "worker killed, node removed",
        "actor killed in mid-cell; a node gone, one cut off",
        {
            "test_cluster_netns": [
                "test_a_worker_that_is_cut_off_and_goes_on_is_never_heard",
            ],
            "test_cluster_nodes": [
                "test_nodes_that_go_and_come_back_lose_nothing",
            ],
            "test_orchestrator_sweep": [
                "test_a_killed_worker_is_replaced_and_the_attempts_are_counted",
                "test_a_worker_that_outlives_its_retry_is_never_heard",
                "test_a_worker_that_always_dies_fails_its_cell_after_three_retries",
            ],
        },
    ),
    5: Row(
        "resources that no node has",
        "more CPUs, GPUs or memory asked for than there are",
        {
            "test_orchestrator_placement": [
                "test_what_no_node_could_ever_hold_is_refused_with_the_numbers"
            ],
            "test_orchestrator_sweep": ["test_trials_that_never_get_their_resources_end_the_sweep"],
        },
    ),
    6: Row(
        "SIGINT, SIGTERM",
        "sent once and twice, to a program and to a study",
        {
            "test_orchestrator_signals": ["test_a_signal_ends_the_program_with_130"],
            "test_orchestrator_drain": [
                "test_an_interrupt_ends_a_running_sweep_at_once",
                "test_after_a_notice_what_runs_is_kept_and_nothing_else",
                "test_a_notice_is_waited_for_no_longer_than_it_is_given",
            ],
            "test_orchestrator_study": ["test_a_terminated_run_saves_what_it_has_and_goes_on"],
        },
    ),
    7: Row(
        "out of memory on the device",
        "a cell that does not fit at full size",
        {
            "test_orchestrator_sweep": [
                "test_a_cell_that_does_not_fit_is_tried_once_more_on_another_actor_in_smaller_passes"
            ],
            "test_orchestrator_worker": [
                "test_a_full_memory_is_told_from_other_errors",
                "test_smaller_passes_halve_what_a_pass_holds_and_nothing_else",
            ],
        },
    ),
    8: Row(
        "worker killed for host memory",
        "3 GiB eaten under a lowered limit of Ray",
        {
            "test_orchestrator_host_memory": [
                "test_a_worker_killed_for_host_memory_is_tried_again_and_the_message_names_memory",
            ],
        },
    ),
    9: Row(
        "NaN or infinite loss",
        "one adapter of a bank explodes",
        {
            "test_tasks_training": [
                "test_a_slot_that_explodes_is_frozen_and_its_neighbors_do_not_notice"
            ],
            "test_results_ledger": ["test_a_cell_whose_adapters_all_failed_is_no_record"],
        },
    ),
    10: Row(
        "one user fails always",
        "a user's adapter is marked as diverged",
        {
            "test_orchestrator_only_failed": [
                "test_a_failed_user_is_repeated_to_the_undisturbed_tables",
                "test_what_came_out_well_stays_and_what_failed_is_new",
            ],
            "test_results_collector": [
                "test_failed_and_skipped_users_are_missing_and_their_neighbors_are_not"
            ],
            "test_results_report": ["test_missing_users_are_named"],
        },
    ),
    11: Row(
        "disk full, read-only folder",
        "writes that the disk refuses",
        {
            "test_results_ledger": [
                "test_a_full_disk_leaves_nothing_and_the_next_try_succeeds",
                "test_a_writer_that_fails_leaves_the_old_file_and_nothing_else",
            ],
            "test_orchestrator_sweep": ["test_a_disk_that_takes_no_record_ends_the_sweep"],
            "test_results_lock": ["test_a_folder_that_cannot_be_written_is_an_error_for_people"],
            "test_tasks_checkpoint": ["test_a_full_disk_costs_the_checkpoint_and_not_the_training"],
        },
    ),
    12: Row(
        "storage not shared",
        "a node whose file systems are its own",
        {
            "test_cluster_nodes": [
                "test_a_folder_that_a_node_does_not_share_is_refused_before_the_start",
            ],
            "test_orchestrator_stored": ["test_nodes_that_share_nothing_but_the_bucket"],
        },
    ),
    13: Row(
        "two drivers on one workspace",
        "a second command beside a living one; a stale lock",
        {
            "test_results_lock": [
                "test_a_second_driver_is_refused_and_told_who_has_it",
                "test_a_killed_drivers_lock_is_free_at_once",
                "test_another_hosts_lock_is_free_when_its_heart_stands_still",
                "test_of_many_at_once_one_gets_it",
            ],
            "test_results_stored_ledger": [
                "test_a_second_driver_is_refused_and_the_next_one_is_not",
                "test_a_dead_drivers_lock_is_taken_over_and_it_knows",
                "test_of_two_drivers_that_record_a_cell_one_is_stopped",
            ],
            "test_orchestrator_keeper": [
                "test_a_driver_that_lost_its_workspace_writes_no_record_and_no_note",
                "test_a_late_result_never_replaces_the_record_that_is_there",
            ],
            "test_orchestrator_cli": [
                "test_a_second_driver_on_a_workspace_is_told_who_has_it_and_touches_nothing"
            ],
        },
    ),
    14: Row(
        "config, data or code changed",
        "other settings, items, code under a finished workspace",
        {
            "test_orchestrator_crashes": [
                "test_records_of_other_code_are_used_with_a_warning",
            ],
            "test_orchestrator_study": [
                "test_a_frozen_baseline_is_not_changed",
                "test_a_frozen_list_of_items_is_not_changed",
            ],
        },
    ),
    15: Row(
        "bad settings",
        "unknown, duplicate and misplaced keys, wrong types, tabs",
        {
            "test_orchestrator_settings": [
                "test_every_error_is_named_at_once_with_file_and_line",
                "test_bad_files",
                "test_options_are_read_as_yaml_1_2_values",
            ],
            "test_orchestrator_cli": ["test_everything_wrong_in_a_file_is_told_at_once"],
        },
    ),
    16: Row(
        "strange users and texts",
        "0, 1, 2 sessions, empty and long texts, odd orders",
        {
            "test_data_clean": [
                "test_long_text_is_cut_at_a_word_and_counted",
                "test_messages_of_one_role_are_joined_and_the_rest_is_dropped_and_counted",
                "test_any_messages_alternate_and_begin_with_the_user",
                "test_sessions_without_items_are_dropped_with_the_reason",
            ],
            "test_data_prepare": ["test_users_with_no_one_and_two_sessions"],
        },
    ),
    17: Row(
        "leaks between splits",
        "the same exchange in train and test, rows and ids twice",
        {
            "test_data_clean": ["test_duplicate_rows_go_and_duplicate_ids_are_renumbered"],
            "test_data_split": ["test_repeated_exchanges_are_taken_out_and_stay_as_context"],
            "test_data_prepare": [
                "test_leaks_above_the_share_stop_unless_allowed",
                "test_messages_that_users_share_are_counted",
            ],
        },
    ),
    18: Row(
        "hostile user ids",
        "paths, device names, formulas, scripts, emoji as ids",
        {
            "test_orchestrator_hostile": ["test_ids_and_texts_stay_data"],
            "test_data_sources": [
                "test_strange_ids_get_distinct_safe_folders",
                "test_any_ids_get_distinct_safe_folders",
            ],
            "test_data_prepare": ["test_strange_ids_stay_as_they_are_in_the_tables"],
            "test_results_ledger": [
                "test_a_cell_id_is_never_a_path",
                "test_tables_disarm_formulas_and_keep_six_decimals",
            ],
            "test_results_report": ["test_the_page_loads_nothing_and_texts_stay_text"],
        },
    ),
    19: Row(
        "clusters that cannot be",
        "more clusters than users, all users alike",
        {
            "test_data_style": [
                "test_fewer_users_than_clusters",
                "test_equal_features_make_one_cluster_without_nan",
            ],
            "test_data_embeddings": ["test_fewer_users_than_clusters"],
        },
    ),
    20: Row(
        "broken rows",
        "broken JSON, BOM, latin-1, files of different length",
        {
            "test_fuzz": [
                "test_no_input_makes_a_reader_raise_anything_else",
            ],
            "test_data_sources": [
                "test_edgewise_bad_line_is_named_with_file_and_line",
                "test_files_of_different_length_name_the_missing_line",
                "test_a_byte_order_mark_is_read_over_and_latin_1_is_named",
            ],
            "test_data_prepare": ["test_bad_rows_stop_by_default_and_are_counted_where_allowed"],
            "test_orchestrator_cli": [
                "test_a_bad_row_ends_the_command_with_file_and_line_and_leaves_nothing",
                "test_three_files_of_different_length_end_the_command_with_the_missing_line",
            ],
        },
    ),
    21: Row(
        "hub out of reach",
        "no network, rate limits, a misspelt name",
        {
            "test_tasks_base_model": [
                "test_hub_trouble_is_retried_with_growing_pauses",
                "test_hub_out_of_reach_is_a_task_error",
                "test_cached_hub_model_needs_no_network",
            ],
            "test_data_sources": [
                "test_hub_pins_the_revision_once_and_is_offline_afterwards",
                "test_misspelt_data_set_is_not_tried_again",
            ],
        },
    ),
    22: Row(
        "adapter of another make",
        "another base, rank, shape; pickled weights",
        {
            "test_tasks_peft_io": [
                "test_another_base_is_refused_with_both_named",
                "test_a_bank_refuses_adapters_of_another_make",
                "test_a_pickle_is_refused",
            ]
        },
    ),
    23: Row(
        "reused actor",
        "a cell on a runtime that other cells used before",
        {
            "test_tasks_trial": ["test_a_cell_is_a_pure_function_also_on_a_used_runtime"],
            "test_orchestrator_study": ["test_one_actor_writes_the_bytes_of_two"],
        },
    ),
    24: Row(
        "tracker down",
        "a tracking server that does not answer",
        {
            "test_orchestrator_tracking": [
                "test_a_tracker_that_is_down_is_one_warning",
                "test_a_tracker_that_does_not_open_is_one_warning",
            ]
        },
    ),
    25: Row(
        "Ray open, secrets in files",
        "dashboards, tokens, passwords where they must not be",
        {
            "test_orchestrator_study": [
                "test_no_secret_of_the_environment_is_in_any_file",
            ],
            "test_security": [
                "test_a_password_in_a_setting_is_refused_and_not_repeated",
                "test_secrets_are_taken_out_of_what_is_shown",
                "test_the_token_is_made_for_its_owner_alone",
                "test_doctor_finds_a_ray_without_a_token",
            ],
            "test_orchestrator_cluster_check": [
                "test_every_rule_finds_its_fault",
            ],
        },
    ),
    26: Row(
        "clock jumps",
        "heartbeats by another clock, two moves in one second",
        {"test_results_lock": ["test_a_heartbeat_is_compared_with_the_storages_clock"]},
    ),
    27: Row(
        "poor statistics",
        "one user, equal lifts, ties, an arm without results",
        {
            "test_results_stats": [
                "test_all_equal_lifts_say_why_there_is_no_t",
                "test_one_user_has_a_mean_and_a_reason",
                "test_no_user_is_a_row_of_reasons",
                "test_degenerate_user_scores_give_reasons",
            ],
            "test_results_report": ["test_poor_studies_get_a_report_with_reasons"],
        },
    ),
}


def node_ids() -> list[str]:
    """What pytest is told to run: every test of every row, once."""
    named = (
        f"{TESTS.name}/{module}.py::{test}"
        for row in ROWS.values()
        for module, tests in row.tests.items()
        for test in tests
    )
    return list(dict.fromkeys(named))


@dataclass(frozen=True, slots=True)
class RecordCount:
    """A study's cells after a fault: what its plan has, and what its ledger holds of it."""

    expected: int
    found: int
    duplicated: int
    lost: int


def count_records(root: Path, study: str) -> RecordCount:
    """Count the records of a study that was run in ``root``.

    A test takes it as the fixture ``count_records``, which hands the count to the table too.

    A record is duplicated where a user's results of one arm, seed, split and purpose stand in
    another record of the plan too, and lost where the plan has a cell without one.
    """
    from orchestrator.again import find_study_of
    from orchestrator.workspace import Workspace
    from search_spaces.catalog import STUDIES

    found = find_study_of(STUDIES[study], Workspace(root))
    told = Counter(
        (cell.arm, cell.variant, record.seed, record.split, record.purpose, user)
        for cell in found.plan.cells
        if (record := found.records.get(cell.cell_id)) is not None
        for user in record.users
    )
    return RecordCount(
        expected=len(found.plan.cells),
        found=len(found.records),
        duplicated=sum(number - 1 for number in told.values()),
        lost=len(found.plan.ids - found.records.keys()),
    )


CountRecords = Callable[[Path, str], RecordCount]
"""The fixture's type: ``count_records`` for the test's own row of the table."""


def counting(record_property: Callable[[str, object], None]) -> CountRecords:
    """``count_records`` that also hands each count to the table, from whichever process."""

    def count(root: Path, study: str) -> RecordCount:
        found = count_records(root, study)
        record_property("records", asdict(found))
        return found

    return count


@dataclass
class FaultTable:
    """A pytest plugin: remembers how tests ended, and prints the table at the end."""

    outcomes: dict[str, str] = field(default_factory=dict)
    records: dict[str, list[RecordCount]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst of setup, call and teardown, over all parameters of a test."""
        name = report.nodeid.partition("[")[0]
        if report.when == "call" or not report.passed:
            known = self.outcomes.get(name, "passed")
            self.outcomes[name] = max(known, report.outcome, key=_SEVERITY.index)
        counts = [value for key, value in report.user_properties if key == "records"]
        if report.when == "call":
            for count in counts:
                self.records.setdefault(name, []).append(RecordCount(**count))  # type: ignore[arg-type]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table."""
        terminalreporter.section("what was done to the runs, and what was left of them")
        for line in self.lines():
            terminalreporter.write_line(line)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A row that nothing showed is no row; one that this machine cannot show is told."""
        if session.exitstatus == 0 and any(self._outcome(r) == "not run" for r in ROWS.values()):
            session.exitstatus = 1

    def lines(self) -> list[str]:
        """One line per row; counts are of the tests that ran whole studies."""
        head = f"{'row':>3}  {'case':<28} {'what was done':<58} {'outcome':<8} "
        lines = [head + f"{'expected':>8} {'found':>6} {'twice':>6} {'lost':>5}"]
        for number, row in ROWS.items():
            counts = [count for name in _names(row) for count in self.records.get(name, ())]
            told = [
                str(sum(getattr(count, name) for count in counts)) if counts else "–"
                for name in ("expected", "found", "duplicated", "lost")
            ]
            lines.append(
                f"{number:>3}  {row.case:<28} {row.done:<58} {self._outcome(row):<8} "
                f"{told[0]:>8} {told[1]:>6} {told[2]:>6} {told[3]:>5}"
            )
        return lines

    def _outcome(self, row: Row) -> str:
        ends = [self.outcomes.get(name, "not run") for name in _names(row)]
        return max(ends, key=_SEVERITY.index, default="not run")


_SEVERITY = ["passed", "skipped", "not run", "failed"]


def _names(row: Row) -> list[str]:
    return [
        f"{TESTS.name}/{module}.py::{test}" for module, tests in row.tests.items() for test in tests
    ]


if __name__ == "__main__":
    sys.exit(pytest.main([*node_ids(), "--faults", "--thorough", *sys.argv[1:]]))

//! What ends a job from outside, and what prunes it.

use super::{Home, at, claim, complete, ended, job_id, new_job};

use shared::wire::gateway::JobStatus::Succeeded;

use crate::store::retention::statement_of;
use crate::store::write::{Applied, Cancel, Completion, NewJob, Printed, Prune, Pruned, Write};

fn cancel(id: &str) -> Write {
    Write::Cancel(Cancel { job_id: job_id(id), at: at(5), reason: "cancelled by operator".to_owned() })
}

#[test]
fn a_cancel_ends_what_has_not_ended_in_one_step() {
    let home = Home::new("operators-cancel");
    home.apply(Write::Admit(new_job("queued")));
    home.apply(Write::Admit(new_job("running")));
    home.apply(Write::Claim(claim("running", 1)));
    for (id, before) in [("queued", "queued"), ("running", "running")] {
        assert_eq!(home.apply(cancel(id)), Applied::Cancelled);
        assert_eq!(home.status(id), "dead");
        assert_eq!(home.transitions(id).last(), Some(&format!("{before}>dead")));
        assert_eq!(home.log(id), [format!("{id}-1 dead cancelled by operator")]);
        assert_eq!(home.apply(cancel(id)), Applied::Stale);
    }
    assert_eq!(home.apply(cancel("unknown")), Applied::Missing);
    // What the process had printed is added once, and to no other row.
    let printed = |id: &str, text: &str| {
        let result = Some(text.to_owned());
        home.apply(Write::Printed(Printed { job_id: job_id(id), attempt: 1, result, stderr: None }))
    };
    assert_eq!((printed("running", "first"), printed("running", "second")), (Applied::Saved, Applied::Saved));
    assert_eq!(home.column::<String>("SELECT result FROM job_log WHERE result IS NOT NULL"), ["first"]);
}

#[test]
fn a_cancel_and_a_completion_do_not_undo_each_other_in_any_order() {
    let riding = || complete(Completion { claim: Some(claim("job-1", 1)), ..ended("job-1", 1, Succeeded) });
    let alone = || complete(ended("job-1", 1, Succeeded));
    let claim = || Write::Claim(claim("job-1", 1));
    for (name, writes, status, last) in [
        ("claimed", vec![claim(), cancel("job-1"), alone()], "dead", "running>dead"),
        ("riding", vec![claim(), cancel("job-1"), riding()], "dead", "running>dead"),
        ("unclaimed", vec![cancel("job-1"), claim(), riding()], "dead", "queued>dead"),
        ("completed", vec![claim(), alone(), cancel("job-1")], "succeeded", "running>succeeded"),
        ("rode", vec![riding(), cancel("job-1")], "succeeded", "running>succeeded"),
    ] {
        let home = Home::new(&format!("operators-order-{name}"));
        home.apply(Write::Admit(new_job("job-1")));
        let answers = home.run(&writes);
        assert!(answers.iter().all(Result::is_ok), "{name}: {answers:?}");
        assert_eq!(
            (home.status("job-1").as_str(), home.transitions("job-1").pop().as_deref()),
            (status, Some(last)),
            "{name}"
        );
        assert_eq!(home.log("job-1").len(), 1, "{name}");
        assert_eq!(home.attempts("job-1").len(), usize::from(last.starts_with("running")), "{name}");
    }
}

#[test]
fn old_rows_go_in_batches_and_what_is_open_stays() {
    let home = Home::new("operators-prune");
    for number in 0..7 {
        let id = format!("job-{number}");
        home.apply(Write::Admit(NewJob { created_at: at(0), ..new_job(&id) }));
        if number < 5 {
            home.apply(complete(Completion { claim: Some(claim(&id, 1)), ..ended(&id, 1, Succeeded) }));
        }
    }
    let prune = |table, seconds, limit| home.apply(Write::Prune(Prune { table, before: at(seconds), limit }));
    for table in [Pruned::JobQueue, Pruned::JobLog] {
        assert_eq!(prune(table, 0, 3), Applied::Pruned { rows: 0 });
        let batches: Vec<Applied> = (0..3).map(|_| prune(table, 100, 3)).collect();
        assert_eq!(batches, [3, 2, 0].map(|rows| Applied::Pruned { rows }), "{table:?}");
    }
    assert_eq!(home.count("SELECT count(*) FROM job_queue WHERE status = 'queued'"), 2);
    for table in [Pruned::JobTransitions, Pruned::JobAttempts] {
        assert!(matches!(prune(table, 100, 100), Applied::Pruned { rows: 5.. }), "{table:?}");
        assert_eq!(prune(table, 100, 100), Applied::Pruned { rows: 0 });
    }
    for table in [
        Pruned::BreakerTransitions,
        Pruned::ScheduleOccurrences,
        Pruned::EventContext,
        Pruned::PluginFacts,
        Pruned::ConfigSnapshots,
        Pruned::Stopwatch,
    ] {
        assert_eq!(prune(table, 100, 100), Applied::Pruned { rows: 0 }, "{table:?}");
    }
    home.foreign().execute_batch("DROP TABLE job_stopwatch").expect("dropped");
}

#[test]
fn what_a_job_names_is_kept_and_so_are_the_newest() {
    let home = Home::new("operators-named");
    home.apply(Write::Admit(NewJob { event_context_id: Some("named".to_owned()), ..new_job("job-1") }));
    home.foreign()
        .execute_batch(
            "INSERT INTO event_context (id, accumulated_json, created_at) VALUES ('named', '{}', '2020'), ('free', '{}', '2020'); \
             INSERT INTO config_snapshots (id, config_hash, reason, loaded_at) \
             VALUES ('a', '', '', '2020'), ('b', '', '', '2021'), ('c', '', '', '2022'); \
             INSERT INTO schedule_occurrences (plugin, schedule_id, slot_at, until_at, outcome, recorded_at) \
             VALUES ('p', 'a', '2020', '2020', 'missed', ''), ('p', 'a', '2021', '2021', 'missed', ''), \
             ('q', 'a', '2020', '2020', 'missed', ''); \
             INSERT INTO plugin_facts (id, plugin_name, fact_type, job_id, command, fact_json, created_at) \
             VALUES ('a', 'p', 't', 'j', 'c', '{}', '2020'), ('b', 'p', 't', 'j', 'c', '{}', '2021'), \
             ('c', 'p', 'u', 'j', 'c', '{}', '2020'), ('d', 'q', 't', 'j', 'c', '{}', '2020')",
        )
        .expect("filled");
    let prune = |table| home.apply(Write::Prune(Prune { table, before: at(0), limit: 100 }));
    assert_eq!(prune(Pruned::EventContext), Applied::Pruned { rows: 1 });
    assert_eq!(home.column::<String>("SELECT id FROM event_context"), ["named"]);
    assert_eq!(prune(Pruned::ConfigSnapshots), Applied::Pruned { rows: 2 });
    assert_eq!(home.column::<String>("SELECT id FROM config_snapshots"), ["c"]);
    assert_eq!(prune(Pruned::ScheduleOccurrences), Applied::Pruned { rows: 1 });
    assert_eq!(
        home.column::<String>("SELECT plugin || slot_at FROM schedule_occurrences ORDER BY 1"),
        ["p2021", "q2020"]
    );
    assert_eq!(prune(Pruned::PluginFacts), Applied::Pruned { rows: 1 });
    assert_eq!(home.column::<String>("SELECT id FROM plugin_facts ORDER BY 1"), ["b", "c", "d"]);
}

#[test]
fn retention_reads_no_large_table_whole() {
    let home = Home::new("operators-plans");
    for table in [
        Pruned::JobLog,
        Pruned::JobQueue,
        Pruned::JobTransitions,
        Pruned::JobAttempts,
        Pruned::BreakerTransitions,
        Pruned::ScheduleOccurrences,
        Pruned::EventContext,
        Pruned::PluginFacts,
    ] {
        let foreign = home.foreign();
        let mut statement = foreign.prepare(&format!("EXPLAIN QUERY PLAN {}", statement_of(table))).expect("a plan");
        let parameters = rusqlite::params_from_iter(vec!["9"; statement.parameter_count()]);
        let rows = statement.query_map(parameters, |row| row.get::<_, String>(3)).expect("rows");
        let plan = rows.collect::<Result<Vec<_>, _>>().expect("lines").join("\n");
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{table:?}:\n{plan}");
    }
}

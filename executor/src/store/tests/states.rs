//! State updates and facts.

use super::{Home, claim, complete, ended, just_completed, new_job};

use shared::wire::gateway::JobStatus::{Failed, Succeeded};

use crate::store::StoreErrorKind;
use crate::store::write::{Applied, Completion, FactRule, StateUpdate, Write};

/// An update with a rule for each (type, mirror).
pub(super) fn update(json: &str, rules: &[(&str, bool)]) -> StateUpdate {
    StateUpdate {
        plugin: "echo".to_owned(),
        command: "poll".to_owned(),
        updates_json: json.to_owned(),
        facts: rules
            .iter()
            .map(|(fact_type, mirror)| FactRule { fact_type: (*fact_type).to_owned(), mirror: *mirror })
            .collect(),
        fact_ids: rules.iter().map(|(fact_type, _)| format!("fact-{fact_type}")).collect(),
    }
}

/// A job that was admitted and the completion that brings the update.
fn with_update(home: &Home, id: &str, state: StateUpdate) -> Completion {
    home.apply(Write::Admit(new_job(id)));
    Completion { claim: Some(claim(id, 1)), state: Some(state), ..ended(id, 1, Succeeded) }
}

fn state_of(home: &Home) -> Vec<String> {
    home.column("SELECT state FROM plugin_state WHERE plugin_name = 'echo'")
}

#[test]
fn without_a_rule_the_object_is_merged() {
    let home = Home::new("states-merge");
    for (id, json) in [("job-1", "{\"a\":{\"x\":1},\"b\":12345678901234567890}"), ("job-2", "{\"a\":{\"y\":null}}")] {
        let end = with_update(&home, id, update(json, &[]));
        assert_eq!(home.apply(complete(end)), just_completed());
    }
    let end = with_update(&home, "job-3", update("{}", &[("t", true)]));
    assert_eq!(home.apply(complete(end)), just_completed());
    assert_eq!(state_of(&home), ["{\"a\":{\"y\":null},\"b\":12345678901234567890}"]);
    assert_eq!(home.count("SELECT count(*) FROM plugin_facts"), 0);
    let reader = home.store.reader().expect("a reader");
    assert_eq!(reader.plugin_state("echo").expect("read").as_deref(), Some(&*state_of(&home)[0]));
    assert_eq!(reader.plugin_state("none").expect("read"), None);
}

#[test]
fn each_rule_makes_a_fact_and_mirroring_replaces_the_state() {
    let home = Home::new("states-facts");
    let end = with_update(&home, "job-1", update("{\"old\":1}", &[]));
    home.apply(complete(end));
    let end = with_update(&home, "job-2", update("{\"n\" : 1}", &[("a", false), ("b", true), ("c", false)]));
    assert_eq!(home.apply(complete(end)), just_completed());
    assert_eq!(state_of(&home), ["{\"n\" : 1}"]);
    let end = with_update(&home, "job-3", update("{\"n\":2}", &[("d", false)]));
    assert_eq!(home.apply(complete(end)), just_completed());
    assert_eq!(state_of(&home), ["{\"n\" : 1}"]);
    let facts: Vec<String> = home.column(
        "SELECT seq || ' ' || id || ' ' || fact_type || ' ' || job_id || ' ' || command || ' ' || fact_json \
         FROM plugin_facts ORDER BY seq",
    );
    assert_eq!(
        facts,
        [
            "1 fact-a a job-2 poll {\"n\" : 1}",
            "2 fact-b b job-2 poll {\"n\" : 1}",
            "3 fact-c c job-2 poll {\"n\" : 1}",
            "4 fact-d d job-3 poll {\"n\":2}",
        ]
    );
}

#[test]
fn a_fact_that_can_not_be_stored_takes_no_number_and_holds_up_no_other_job() {
    let home = Home::new("states-holes");
    let first = with_update(&home, "job-1", update("{\"n\":1}", &[("a", false)]));
    home.apply(complete(first));
    let same_id = with_update(&home, "job-2", update("{\"n\":2}", &[("a", false)]));
    let next = with_update(&home, "job-3", update("{\"n\":3}", &[("b", false)]));
    let answers = home.run(&[Write::Admit(new_job("job-4")), complete(same_id), complete(next)]);
    assert!(matches!(answers[0], Ok(Applied::Admitted)));
    assert_eq!(answers[1].as_ref().expect_err("a duplicate id").kind(), StoreErrorKind::Refused);
    assert!(matches!(answers[2], Ok(Applied::Completed(_))));
    let facts: Vec<String> = home.column("SELECT seq || ' ' || job_id FROM plugin_facts ORDER BY seq");
    assert_eq!(facts, ["1 job-1", "2 job-3"]);
    assert_eq!(home.status("job-2"), "queued");
    assert_eq!(home.log("job-2").len(), 0);
}

#[test]
fn an_update_that_is_refused_stores_nothing_of_its_completion() {
    let home = Home::new("states-refused");
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(700_000));
    let merged = format!("{{\"b\":\"{}\"}}", "x".repeat(700_000));
    let end = with_update(&home, "job-0", update(&big, &[]));
    assert_eq!(home.apply(complete(end)), just_completed());
    let too_big = "plugin state exceeds max size (1048576 bytes)";
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(1_100_000));
    let check = |id: &str, json: &str, rules: &[(&str, bool)], text: &str| {
        let end = with_update(&home, id, update(json, rules));
        let answers = home.run(&[complete(end), Write::Admit(new_job(&format!("{id}-other")))]);
        assert_eq!(answers[0].as_ref().expect("answered"), &Applied::StateRefused { text: text.to_owned() });
        assert!(matches!(answers[1], Ok(Applied::Admitted)));
        assert_eq!(home.status(id), "queued");
        assert_eq!((home.log(id).len(), home.transitions(id).len()), (0, 1));
        let failed = Completion { claim: Some(claim(id, 1)), ..ended(id, 1, Failed) };
        assert_eq!(home.apply(complete(failed)), just_completed());
    };
    check("job-1", &merged, &[], too_big);
    check("job-2", &huge, &[("a", false), ("b", true)], too_big);
    check("job-3", "[1]", &[], "state_updates is not a JSON object");
    check("job-4", "{\"a\":1", &[("a", true)], "state_updates is not a JSON object");
    assert_eq!(home.count("SELECT count(*) FROM plugin_facts"), 0);
    home.foreign().execute_batch("UPDATE plugin_state SET state = '{broken'").expect("damaged");
    check("job-5", "{\"a\":1}", &[], "stored plugin state is invalid JSON for plugin=\"echo\"");
    // A rule that mirrors does not need the old state, and mends it.
    let end = with_update(&home, "job-6", update("{\"a\":1}", &[("a", true)]));
    assert_eq!(home.apply(complete(end)), just_completed());
    assert_eq!(state_of(&home), ["{\"a\":1}"]);
}

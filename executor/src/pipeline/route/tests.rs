use serde_json::Value;
use uuid::Uuid;

use super::super::definition::{self, Written, WrittenStep};
use super::*;

const JOB: &str = "0198c2f1-7a3b-7def-8123-456789abcdef";

fn at() -> Timestamp {
    Timestamp::from_unix_nanos(1_780_650_000_123_456_789)
}

/// `id:plugin`, or several of them in braces for a split.
fn step(text: &str) -> WrittenStep {
    if let Some(branches) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return WrittenStep { split: branches.split(' ').map(step).collect(), ..WrittenStep::default() };
    }
    let (id, plugin) = text.split_once(':').expect("id:plugin");
    WrittenStep { id: Some(id.to_owned()), uses: Some(plugin.to_owned()), ..WrittenStep::default() }
}

fn pipeline(name: &str, on: &str, steps: &[&str]) -> Written {
    Written {
        name: Some(name.to_owned()),
        on: Some(on.to_owned()),
        steps: steps.iter().map(|text| step(text)).collect(),
        ..Written::default()
    }
}

fn graph(written: &[Written]) -> Graph {
    let (pipelines, problems) = definition::check(written);
    assert_eq!(problems, [""; 0]);
    Graph::new(&pipelines, 20).expect("compiles")
}

fn source<'a>(plugin: &'a str, context: Option<&'a Context>) -> Source<'a> {
    Source { job_id: JOB, plugin, created_at: at(), context, completed_at: at() }
}

fn answer(graph: &Graph, source: Source<'_>, events: &[&str], result: &str) -> Result<Routing, RouteError> {
    let events: Vec<&RawValue> = events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    route_answer(graph, source, &events, result)
}

fn routed(graph: &Graph, source: Source<'_>, events: &[&str]) -> Vec<Dispatch> {
    answer(graph, source, events, "done").expect("routes").dispatches
}

/// `<pipeline>/<step>=<plugin>@<depth>`, in order.
fn told(dispatches: &[Dispatch]) -> Vec<String> {
    let tell = |dispatch: &Dispatch| {
        let Context { pipeline, step, depth, .. } = &dispatch.context;
        format!("{pipeline}/{step}={}@{depth}", dispatch.plugin.as_str())
    };
    dispatches.iter().map(tell).collect()
}

/// The job that a dispatch makes emits this, and so on until nothing comes.
fn run(graph: &Graph, first: &str, emits: impl Fn(&Dispatch) -> Vec<&'static str>) -> (Vec<String>, Vec<Stopped>) {
    let mut queue = std::collections::VecDeque::from(routed(graph, source("start", None), &[first]));
    let (mut ran, mut stopped) = (Vec::new(), Vec::new());
    while let Some(dispatch) = queue.pop_front() {
        ran.extend(told(std::slice::from_ref(&dispatch)));
        assert!(ran.len() < 1000, "it does not stop");
        let source = Source {
            job_id: &dispatch.job_id,
            context: Some(&dispatch.context),
            ..source(dispatch.plugin.as_str(), None)
        };
        let routing = answer(graph, source, &emits(&dispatch), "done").expect("routes");
        queue.extend(routing.dispatches);
        stopped.extend(routing.stopped);
    }
    (ran, stopped)
}

#[test]
fn a_trigger_makes_the_whole_job_of_the_entry_step() {
    let graph = graph(&[pipeline("p", "a.b", &["one:x", "two:y"])]);
    let event = r#"{"type":"a.b","payload":{"n":1.50},"dedupe_key":" k ","source":"forged","event_id":"forged"}"#;
    let [dispatch] = &routed(&graph, source("em\"it", None), &[event])[..] else { panic!("one job") };
    let root = dispatch.root.as_ref().expect("a new instance");
    let instance = root.instance.clone().expect("an id");
    assert_eq!((dispatch.plugin.as_str(), dispatch.dedupe_key.as_deref()), ("x", Some("k")));
    assert_eq!((&dispatch.parent_id, &root.step), (&root.id, &String::new()));
    assert_eq!(
        root.accumulated,
        format!(
            r#"{{"ductile":{{"pipeline_instance_id":"{instance}","route_depth":0,"route_max_depth":2,"causal_hops":1}}}}"#
        )
    );
    assert_eq!(dispatch.context.accumulated, root.accumulated.replace("\"route_depth\":0", "\"route_depth\":1"));
    assert_eq!(
        dispatch.payload,
        format!(
            r#"{{"type":"a.b","payload":{{"n":1.50,"result":"done","ductile_upstream_plugin":"em\"it"}},"dedupe_key":"k","source":"em\"it","timestamp":"2026-06-05T09:00:00.123456789Z","event_id":"{}"}}"#,
            dispatch.source_event_id
        )
    );
    let ids = [&dispatch.job_id, &dispatch.source_event_id, &dispatch.context.id, &root.id, &instance];
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for id in ids {
        assert_eq!(Uuid::parse_str(id).expect("a UUID").get_version_num(), 7);
        assert_eq!(id[..13], JOB[..13]);
    }
}

#[test]
fn a_step_leads_on_whatever_it_emits_and_its_events_trigger_besides() {
    let graph = graph(&[
        pipeline("main", "go", &["a:x", "{c:x b:x}", "d:z"]),
        pipeline("b_other", "said", &["a:w"]),
        pipeline("a_other", "said", &["a:w", "b:w"]),
    ]);
    let entry = routed(&graph, source("s", None), &[r#"{"type":"go"}"#]);
    assert_eq!(told(&entry), ["main/a=x@1"]);
    let at_a = &entry[0].context;
    let dispatches = routed(&graph, source("x", Some(at_a)), &[r#"{"type":"said"}"#, r#"{"type":"unheard"}"#]);
    assert_eq!(
        told(&dispatches),
        ["main/b=x@2", "main/c=x@2", "a_other/a=w@1", "b_other/a=w@1", "main/b=x@2", "main/c=x@2"]
    );
    // Of one event, the second job of a plugin gets its own mark; the instance stays or is new.
    let first = &dispatches[0].source_event_id;
    let marks: Vec<_> = dispatches.iter().map(|dispatch| dispatch.source_event_id.replace(first, "1")).collect();
    assert_eq!(marks[..4], ["1", "1#2", "1", "1#2"]);
    assert!(marks[5].ends_with("#2") && marks[5][..36] == marks[4]);
    assert!(dispatches[..2].iter().all(|dispatch| dispatch.context.instance == at_a.instance));
    assert!(dispatches[..2].iter().all(|dispatch| dispatch.root.is_none() && dispatch.parent_id == at_a.id));
    assert_ne!(dispatches[2].context.instance, dispatches[3].context.instance);
    assert_eq!(dispatches[2].context.max_depth, Some(2));
    assert_eq!(dispatches[2].context.hops, 2);
    let event: Value = serde_json::from_str(&dispatches[2].payload).expect("JSON");
    assert_eq!(event["payload"]["ductile_upstream_pipeline"], "main");
    assert_eq!(event["payload"]["ductile_upstream_step_id"], "a");
    let jobs: BTreeSet<_> = dispatches.iter().map(|dispatch| &dispatch.job_id).collect();
    assert_eq!(jobs.len(), dispatches.len());
}

#[test]
fn branches_do_not_join_and_a_step_without_events_still_leads_on() {
    let graph = graph(&[pipeline("p", "go", &["a:x", "{b:x c:x}", "d:z"])]);
    let (ran, _) = run(&graph, r#"{"type":"go"}"#, |_| Vec::new());
    assert_eq!(ran, ["p/a=x@1", "p/b=x@2", "p/c=x@2", "p/d=z@3", "p/d=z@3"]);
    let dispatch = &routed(&graph, source("s", None), &[r#"{"type":"go"}"#])[0];
    let next = &routed(&graph, source("x", Some(&dispatch.context)), &[])[0];
    let event: Value = serde_json::from_str(&next.payload).expect("JSON");
    assert_eq!(event["type"], "ductile.step.succeeded");
    assert_eq!(event["payload"]["result"], "done");
    assert!(event.get("dedupe_key").is_none() && next.dedupe_key.is_none());
    assert_eq!(routed(&graph, source("x", None), &[]), []);
}

#[test]
fn a_split_at_the_start_is_one_instance() {
    let graph = graph(&[pipeline("p", "go", &["{a:x b:y}"])]);
    let dispatches = routed(&graph, source("s", None), &[r#"{"type":"go"}"#]);
    assert_eq!(told(&dispatches), ["p/a=x@1", "p/b=y@1"]);
    assert_eq!(dispatches[0].root, dispatches[1].root);
    assert_ne!(dispatches[0].context.id, dispatches[1].context.id);
}

#[test]
fn from_plugin_and_case_are_exact() {
    let mut only = pipeline("only", "go", &["a:x"]);
    only.from_plugin = Some("reader".to_owned());
    let graph = graph(&[only]);
    let check = |plugin: &str, kind: &str, jobs: usize| {
        let routing = answer(&graph, source(plugin, None), &[&format!("{{\"type\":{kind:?}}}")], "r").expect("routes");
        assert_eq!((routing.dispatches.len(), routing.unmatched), (jobs, 1 - jobs), "{plugin} {kind}");
    };
    check("reader", "go", 1);
    check("reader2", "go", 0);
    check("reader", "Go", 0);
    check("reader", " go", 0);
}

#[test]
fn a_written_depth_ends_a_chain_without_an_error() {
    let steps = ["a:x", "b:x", "c:x"];
    let depth = |max_depth| {
        let graph = graph(&[Written { max_depth, ..pipeline("p", "go", &steps) }]);
        run(&graph, r#"{"type":"go"}"#, |_| Vec::new()).0.len()
    };
    assert_eq!(depth(None), 3);
    assert_eq!(depth(Some(2)), 2);
    assert_eq!(depth(Some(1)), 1);
    assert_eq!(depth(Some(0)), 3);
}

#[test]
fn a_pipeline_that_triggers_itself_stops_at_the_cap_on_hops() {
    let graph = graph(&[pipeline("loop", "go", &["a:x", "{b:y c:z}"])]);
    let again = |dispatch: &Dispatch| match dispatch.context.step.as_str() {
        "c" => vec![r#"{"type":"go"}"#],
        _ => Vec::new(),
    };
    let (ran, stopped) = run(&graph, r#"{"type":"go"}"#, again);
    assert_eq!(ran.len(), 3 * 20);
    assert_eq!(stopped, [Stopped { pipeline: "loop".to_owned(), depth: 21 }]);
    // However far it came: no pipeline starts any more, and the one that runs goes on.
    let mut far = routed(&graph, source("s", None), &[r#"{"type":"go"}"#])[0].context.clone();
    far.hops = u32::MAX;
    let routing = answer(&graph, source("x", Some(&far)), &[r#"{"type":"go"}"#], "r").expect("routes");
    assert_eq!(told(&routing.dispatches), ["loop/b=y@2", "loop/c=z@2"]);
    assert_eq!(routing.stopped, [Stopped { pipeline: "loop".to_owned(), depth: u32::MAX }]);
}

#[test]
fn two_pipelines_that_trigger_each_other_stop_too_and_branches_are_counted_apart() {
    let graph = graph(&[pipeline("ping", "ping", &["a:x"]), pipeline("pong", "pong", &["a:x"])]);
    let emits = |dispatch: &Dispatch| match dispatch.context.pipeline.as_str() {
        "ping" => vec![r#"{"type":"pong"}"#],
        _ => vec![r#"{"type":"ping"}"#],
    };
    let (ran, stopped) = run(&graph, r#"{"type":"ping"}"#, emits);
    assert_eq!(ran.len(), 20);
    assert_eq!(stopped, [Stopped { pipeline: "ping".to_owned(), depth: 21 }]);
}

#[test]
fn the_same_answer_always_makes_the_same_jobs() {
    let graph = graph(&[pipeline("p", "go", &["{a:x b:x}"]), pipeline("q", "go", &["a:x"])]);
    let events = [r#"{"type":"go"}"#, r#"{"type":"go"}"#];
    let first = routed(&graph, source("s", None), &events);
    let later = Source { completed_at: Timestamp::from_unix_nanos(7), ..source("s", None) };
    let ids = |dispatches: &[Dispatch]| -> Vec<_> {
        dispatches
            .iter()
            .map(|it| (it.job_id.clone(), it.source_event_id.clone(), it.context.clone(), it.root.clone()))
            .collect()
    };
    assert_eq!(ids(&first), ids(&routed(&graph, later, &events)));
    assert_eq!(first.iter().map(|it| &it.job_id).collect::<BTreeSet<_>>().len(), 6);
    // A job of the reference has no time in its id; that of its creation stands in.
    let old = Source { job_id: "7d444840-9dc0-41d1-b245-5ffdce74fad2", ..source("s", None) };
    assert_eq!(ids(&routed(&graph, old, &events)), ids(&routed(&graph, old, &events)));
}

#[test]
fn rows_without_an_instance_or_of_a_pipeline_that_is_gone_lead_nowhere() {
    let graph = graph(&[pipeline("p", "go", &["a:x", "b:x"])]);
    let row = |pipeline: &str, accumulated: &str| {
        let text = |text: &str| Some(text.to_owned());
        Context::of_row("c".to_owned(), text(pipeline), text("a"), accumulated.to_owned()).expect("valid")
    };
    let placed = r#"{"ductile":{"pipeline_instance_id":"i","route_depth":1}}"#;
    assert_eq!(routed(&graph, source("x", Some(&row("p", placed))), &[]).len(), 1);
    assert_eq!(routed(&graph, source("x", Some(&row("gone", placed))), &[]), []);
    assert_eq!(routed(&graph, source("x", Some(&row("p", "{}"))), &[]), []);
}

/// After a reload the pipeline may have another limit than the one an instance began with.
#[test]
fn an_instance_keeps_the_limit_it_began_with() {
    let graph = graph(&[Written { max_depth: Some(1), ..pipeline("p", "go", &["a:x", "b:x", "c:x"]) }]);
    let next = |control: &str| {
        let text = |text: &str| Some(text.to_owned());
        let row = format!("{{\"ductile\":{{\"pipeline_instance_id\":\"i\",{control}}}}}");
        let at_a = Context::of_row("c".to_owned(), text("p"), text("a"), row).expect("valid");
        let made = routed(&graph, source("x", Some(&at_a)), &[]);
        made.first().map(|dispatch| dispatch.context.max_depth)
    };
    assert_eq!(next(r#""route_depth":1,"route_max_depth":3"#), Some(Some(3)));
    assert_eq!(next(r#""route_depth":3,"route_max_depth":3"#), None);
    assert_eq!(next(r#""route_depth":0"#), Some(Some(1)));
    assert_eq!(next(r#""route_depth":1"#), None);
}

#[test]
fn hostile_answers_fail_whole_and_say_where() {
    let graph = graph(&[pipeline("p", "go", &["{a:x b:x}"])]);
    let check = |events: &[&str], text: &str| {
        let error = answer(&graph, source("s", None), events, "r").expect_err(text).to_string();
        assert_eq!(error, text);
    };
    check(&["{}"], "failed to route events: event.type is required");
    check(&[r#"{"type":"go"}"#, r#"{"type":""}"#], "failed to route events: event.type is required (events[1])");
    check(&[r#"{"type":"go","payload":3}"#], "failed to route events: event.payload must be an object");
    let many = vec![r#"{"type":"go"}"#; 5001];
    check(&many, "failed to route events: the answer would make more than 10000 jobs (events[5000])");
    assert_eq!(routed(&graph, source("s", None), &many[..5000]).len(), 10_000);
    let heavy = format!(r#"{{"type":"go","payload":{{"a":"{}"}}}}"#, "x".repeat(1024 * 1024));
    check(
        &[heavy.as_str(); 40],
        "failed to route events: the answer would make jobs of more than 67108864 bytes (events[31])",
    );
    let unheard = vec![r#"{"type":"unheard"}"#; 50_000];
    assert_eq!(answer(&graph, source("s", None), &unheard, "r").expect("routes").unmatched, 50_000);
}

#[test]
fn what_is_routed_is_what_the_next_plugin_reads() {
    use crate::plugin::protocol::{RequestParts, request_tail};
    let graph = graph(&[pipeline("p", "go", &["a:x", "b:x"])]);
    let entry = &routed(&graph, source("s", None), &[r#"{"type":"go","payload":{"n":1.50}}"#])[0];
    let tail = request_tail(RequestParts {
        job_id: &entry.job_id,
        plugin: "x",
        command: "handle",
        config: "{}",
        state: "{}",
        payload: Some(&entry.payload),
        context: Some(&entry.context),
        outside: None,
        deadline_at: at(),
    });
    let request: Value = serde_json::from_slice(&[b"{", &*tail.expect("a request")].concat()).expect("JSON");
    assert_eq!(request["payload"], serde_json::from_str::<Value>(&entry.payload).expect("JSON"));
    let event = &request["event"];
    assert_eq!((&event["type"], &event["source"]), (&"go".into(), &"s".into()));
    assert_eq!(event["event_id"], entry.source_event_id.as_str());
    assert_eq!(event["payload"]["n"].to_string(), "1.50");
    assert_eq!(event["payload"]["ductile_upstream_plugin"], "s");
    assert_eq!(event["payload"]["ductile_step_id"], "a");
    assert_eq!(event["payload"]["ductile"], request["context"]["ductile"]);
}

#[test]
fn one_event_can_be_routed_alone() {
    let graph = graph(&[pipeline("p", "go", &["a:x"])]);
    let event = Event { index: 3, kind: "go", payload: "{}", dedupe_key: Some("k") };
    let routing = route(&graph, source("s", None), event).expect("routes");
    assert_eq!(told(&routing.dispatches), ["p/a=x@1"]);
    let error = route(&graph, source("s", None), Event { payload: "[]", ..event }).expect_err("no object");
    assert!(error.to_string().starts_with("failed to route events: event.payload: "), "{error}");
}

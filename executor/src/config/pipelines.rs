//! `pipelines:` as it is written (`spec/pipelines.md` 3 and 4), and from there to the graph. What
//! the chapter knows and Ductile does not do yet is refused, never ignored: a pipeline that ran
//! without its condition would do harm.

use std::path::PathBuf;

use super::check::Problems;
use super::section::{Field as _, FromNode, Slot};
use crate::pipeline::Graph;
use crate::pipeline::definition::{self, Written, WrittenStep};
use crate::yaml::quoted;

/// One entry, and the file that it stands in.
#[derive(Default)]
pub(super) struct Pipeline {
    file: PathBuf,
    written: Written,
    refused: Vec<String>,
}

/// One step.
#[derive(Default)]
struct Step {
    id: Option<String>,
    uses: Option<String>,
    steps: Vec<Step>,
    split: Vec<Step>,
    others: usize,
    refused: Vec<String>,
}

/// Makes the graph of all entries of all files, the files in the order of their paths.
pub(super) fn check(mut pipelines: Vec<Pipeline>, max_causal_hops: u32, problems: &mut Problems) -> Graph {
    pipelines.sort_by(|a, b| a.file.cmp(&b.file));
    let mut written = Vec::new();
    for pipeline in pipelines {
        problems.extend(pipeline.refused);
        written.push(pipeline.written);
    }
    let (checked, found) = definition::check(&written);
    problems.extend(found);
    Graph::new(&checked, max_causal_hops).unwrap_or_else(|found| {
        problems.extend(found);
        Graph::default()
    })
}

/// Complains of a key that has a value and means something, but not here yet.
fn refuse(slot: &Slot<'_>, refused: &mut Vec<String>) -> bool {
    let is_there = !slot.is_null();
    if is_there {
        refused.push(slot.complaint("is not supported yet"));
    }
    is_there
}

impl FromNode for Pipeline {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        let mut read = Self { file: slot.file().to_path_buf(), ..Self::default() };
        let mut steps: Vec<Step> = Vec::new();
        read.written.place = slot.place();
        let Self { written, refused, .. } = &mut read;
        slot.section("config.Pipeline", |key, slot| {
            match key {
                "name" => written.name.read_into(slot),
                "on" => written.on.read_into(slot),
                "on-hook" => written.has_hook = refuse(slot, refused),
                "from_plugin" => written.from_plugin.read_into(slot),
                "max_depth" => written.max_depth.read_into(slot),
                "steps" => steps.read_into(slot),
                "execution_mode" => match String::read(slot).as_deref() {
                    None | Some("" | "async") => {}
                    Some("synchronous") => refused.push(slot.complaint("synchronous is not supported yet")),
                    Some(other) => {
                        let text = format!("expected async or synchronous (got {})", quoted(other));
                        refused.push(slot.complaint(&text));
                    }
                },
                "if" | "timeout" => {
                    refuse(slot, refused);
                }
                _ => return false,
            }
            true
        })
        .then(|| {
            read.written.steps = written_steps(steps, &mut read.refused);
            read
        })
    }

    fn of_null() -> Option<Self> {
        Some(Self::default())
    }
}

impl FromNode for Step {
    fn read(slot: &Slot<'_>) -> Option<Self> {
        let mut read = Self::default();
        slot.section("config.PipelineStep", |key, slot| {
            match key {
                "id" => read.id.read_into(slot),
                "uses" => read.uses.read_into(slot),
                "steps" => read.steps.read_into(slot),
                "split" => read.split.read_into(slot),
                "call" | "relay" => read.others += usize::from(refuse(slot, &mut read.refused)),
                "if" | "with" | "baggage" => {
                    refuse(slot, &mut read.refused);
                }
                _ => return false,
            }
            true
        })
        .then_some(read)
    }

    fn of_null() -> Option<Self> {
        Some(Self::default())
    }
}

/// Steps in their own words, and what was refused of them, in written order.
fn written_steps(steps: Vec<Step>, refused: &mut Vec<String>) -> Vec<WrittenStep> {
    let take = |step: Step| {
        refused.extend(step.refused);
        let Step { id, uses, others, .. } = step;
        let steps = written_steps(step.steps, refused);
        WrittenStep { id, uses, steps, split: written_steps(step.split, refused), others }
    };
    steps.into_iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::super::{Environment, LoadError, Loaded, load, locate};

    /// Loads `config.yaml`, which includes `more.yaml`.
    fn loaded(text: &str, more: &str) -> Result<Loaded, LoadError> {
        let scratch = Scratch::new();
        scratch.file("config.yaml", &format!("plugin_roots: [/p]\ninclude: [a.yaml]\n{text}"));
        scratch.file("a.yaml", more);
        let environment = Environment::of([]);
        load(&locate(Some(&scratch.path("config.yaml")), &environment)?, &environment)
    }

    fn complaints(text: &str, more: &str) -> Vec<String> {
        let error = loaded(text, more).expect_err("must be refused").to_string();
        error.split('\n').map(|line| line.strip_prefix("invalid configuration: ").unwrap_or(line).to_owned()).collect()
    }

    #[test]
    fn pipelines_of_all_files_make_one_graph() {
        let loaded = loaded(
            "service: {max_causal_hops: 3}\npipelines:\n\
             - name: main\n  on: go\n  execution_mode: async\n  timeout:\n  steps:\n  - {id: a, uses: x}\n  - id: both\n    split: [{uses: y}, {steps: [{uses: z}]}]\n",
            "pipelines: [{name: more, on: said, from_plugin: x, max_depth: 0, odd: 1, steps: [{uses: x, config: {a: 1}}]}]\n",
        )
        .expect("valid");
        let graph = &loaded.config.pipelines;
        let names: Vec<_> = graph.pipelines().iter().map(|pipeline| pipeline.name.as_str()).collect();
        assert_eq!(names, ["more", "main"]);
        let ids: Vec<_> = graph.routes().iter().map(|route| route.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "edge:a->step_1",
                "edge:a->step_2",
                "entry:a",
                "entry:step_1",
                "terminal:step_1",
                "terminal:step_1",
                "terminal:step_2",
            ]
        );
        let ignored: Vec<_> = loaded.ignored.iter().map(ToString::to_string).collect();
        assert_eq!(
            ignored,
            [
                "a.yaml: line 1: field odd not found in type config.Pipeline",
                "a.yaml: line 1: field config not found in type config.PipelineStep",
            ]
        );
    }

    #[test]
    fn what_is_not_done_yet_is_refused_with_everything_else() {
        let problems = complaints(
            "pipelines:\n\
             - name: p\n  on-hook: job.failed\n  if: {path: payload.a, op: exists}\n  timeout: 3s\n  execution_mode: synchronous\n  steps:\n\
             \x20 - call: q\n\
             \x20 - {id: a, uses: x, with: {t: '{payload.a}'}}\n\
             \x20 - split: [{id: a, uses: y, baggage: {k: payload.k}, if: {any: []}}, {relay: {to: lab}, uses: x}]\n",
            "pipelines: [{on: t, execution_mode: odd, steps: [{}]}, ]\n",
        );
        assert_eq!(
            problems,
            [
                "a.yaml: line 1: pipelines[0].execution_mode: expected async or synchronous (got \"odd\")",
                "config.yaml: line 5: pipelines[0].on-hook: is not supported yet",
                "config.yaml: line 6: pipelines[0].if: is not supported yet",
                "config.yaml: line 7: pipelines[0].timeout: is not supported yet",
                "config.yaml: line 8: pipelines[0].execution_mode: synchronous is not supported yet",
                "config.yaml: line 10: pipelines[0].steps[0].call: is not supported yet",
                "config.yaml: line 11: pipelines[0].steps[1].with: is not supported yet",
                "config.yaml: line 12: pipelines[0].steps[2].split[0].baggage: is not supported yet",
                "config.yaml: line 12: pipelines[0].steps[2].split[0].if: is not supported yet",
                "config.yaml: line 12: pipelines[0].steps[2].split[1].relay: is not supported yet",
                "pipelines[0]: name is required (a.yaml: line 1)",
                "pipelines[0]: steps[0]: step must define exactly one of uses, call, relay, steps, or split (a.yaml: line 1)",
                "pipeline \"p\": steps[2]: split[0]: duplicate step id \"a\" (config.yaml: line 4)",
                "pipeline \"p\": steps[2]: split[1]: step must define exactly one of uses, call, relay, steps, or split (config.yaml: line 4)",
            ]
        );
    }

    #[test]
    fn values_of_the_wrong_type_say_where_they_stand() {
        assert_eq!(
            complaints("pipelines: {name: p}\n", "pipelines: [7, {name: [], max_depth: much, steps: [x]}]\n"),
            [
                "config.yaml: line 3: pipelines: expected a list, got a mapping",
                "a.yaml: line 1: pipelines[0]: expected a mapping, got a whole number",
                "a.yaml: line 1: pipelines[1].name: expected text, got a list",
                "a.yaml: line 1: pipelines[1].max_depth: expected a whole number, got text",
                "a.yaml: line 1: pipelines[1].steps[0]: expected a mapping, got text",
            ]
        );
    }
}

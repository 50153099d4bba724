//! Pipelines as they are written, and the rules that make them valid ones (`spec/pipelines.md` 3,
//! 4 and 4.3). Complaints are texts of the chapter, all of them at once and in written order.

use std::collections::HashSet;

use shared::id::PluginName;

use crate::yaml::quoted;

/// One entry of `pipelines:`, unchecked.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Where it stands, `file: line 3`, for its complaints.
    pub place: String,
    pub name: Option<String>,
    pub on: Option<String>,
    /// `on-hook` is there, which is not supported yet and so complained of elsewhere.
    pub has_hook: bool,
    pub from_plugin: Option<String>,
    pub max_depth: Option<i64>,
    pub steps: Vec<WrittenStep>,
}

/// One step, unchecked.
#[derive(Debug, Clone, Default)]
pub struct WrittenStep {
    pub id: Option<String>,
    pub uses: Option<String>,
    pub steps: Vec<WrittenStep>,
    pub split: Vec<WrittenStep>,
    /// How many of `call` and `relay` are there, which are complained of elsewhere.
    pub others: usize,
}

/// A pipeline that keeps the rules: it has steps, and no id is given twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    pub(super) name: String,
    pub(super) on: String,
    pub(super) from_plugin: Option<PluginName>,
    pub(super) max_depth: Option<u32>,
    pub(super) steps: Vec<Step>,
}

/// One step of a valid pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Uses { id: Option<String>, plugin: PluginName },
    Sequence(Vec<Step>),
    Split(Vec<Step>),
}

/// Checks all pipelines of all files. With complaints, what is valid of them comes along, so that
/// it can be looked at further.
pub fn check(written: &[Written]) -> (Vec<Pipeline>, Vec<String>) {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    let mut pipelines = Vec::new();
    for (index, written) in written.iter().enumerate() {
        let name = filled(written.name.as_deref());
        let label = match name {
            Some(name) => format!("pipeline {}", quoted(name)),
            None => format!("pipelines[{index}]"),
        };
        let before = problems.len();
        match name {
            None => problems.push(format!("{label}: name is required")),
            Some(name) if !names.insert(name) => problems.push(format!("duplicate pipeline name {}", quoted(name))),
            Some(_) => {}
        }
        pipelines.push(pipeline(written, name.unwrap_or_default(), &label, &mut problems));
        for problem in &mut problems[before..] {
            problem.push_str(&format!(" ({})", written.place));
        }
    }
    (pipelines, problems)
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn pipeline(written: &Written, name: &str, label: &str, problems: &mut Vec<String>) -> Pipeline {
    let on = filled(written.on.as_deref());
    match (on, written.has_hook) {
        (None, false) => problems.push(format!("{label}: on or on-hook is required")),
        (Some(_), true) => problems.push(format!("{label}: on and on-hook are mutually exclusive")),
        (Some(_), false) | (None, true) => {}
    }
    let from_plugin = filled(written.from_plugin.as_deref()).and_then(|plugin| {
        PluginName::parse(plugin).map_err(|error| problems.push(format!("{label}: from_plugin: {error}"))).ok()
    });
    let max_depth = written.max_depth.map(|depth| {
        if depth < 0 {
            problems.push(format!("{label}: max_depth must be >= 0 (0 means unlimited)"));
        }
        u32::try_from(depth.max(0)).unwrap_or(u32::MAX)
    });
    if written.steps.is_empty() {
        problems.push(format!("{label}: steps must be non-empty"));
    }
    let mut checker = Checker { ids: HashSet::new(), problems };
    let steps = checker.steps(&written.steps, label, "steps");
    Pipeline { name: name.to_owned(), on: on.unwrap_or_default().to_owned(), from_plugin, max_depth, steps }
}

/// Walks the steps of one pipeline.
struct Checker<'w, 'p> {
    ids: HashSet<&'w str>,
    problems: &'p mut Vec<String>,
}

impl<'w> Checker<'w, '_> {
    fn steps(&mut self, written: &'w [WrittenStep], place: &str, list: &str) -> Vec<Step> {
        let check = |(index, step)| self.step(step, &format!("{place}: {list}[{index}]"));
        written.iter().enumerate().filter_map(check).collect()
    }

    fn step(&mut self, written: &'w WrittenStep, place: &str) -> Option<Step> {
        let uses = filled(written.uses.as_deref());
        let has = |present: bool| usize::from(present);
        let kinds = has(uses.is_some()) + has(!written.steps.is_empty()) + has(!written.split.is_empty());
        if kinds + written.others != 1 {
            let text = "step must define exactly one of uses, call, relay, steps, or split";
            self.problems.push(format!("{place}: {text}"));
        }
        let is_container = uses.is_none() && written.others == 0;
        let id = filled(written.id.as_deref()).filter(|_| !is_container);
        if let Some(id) = id.filter(|id| !self.ids.insert(id)) {
            self.problems.push(format!("{place}: duplicate step id {}", quoted(id)));
        }
        // Both lists are walked even where only one may be, for what else is wrong in them.
        let steps = self.steps(&written.steps, place, "steps");
        let split = self.steps(&written.split, place, "split");
        match uses {
            Some(plugin) => match PluginName::parse(plugin) {
                Ok(plugin) => Some(Step::Uses { id: id.map(str::to_owned), plugin }),
                Err(error) => {
                    self.problems.push(format!("{place}: uses: {error}"));
                    None
                }
            },
            None if !steps.is_empty() => Some(Step::Sequence(steps)),
            None if !split.is_empty() => Some(Step::Split(split)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(id: &str, plugin: &str) -> WrittenStep {
        WrittenStep { id: Some(id.to_owned()), uses: Some(plugin.to_owned()), ..WrittenStep::default() }
    }

    fn named(name: &str, steps: Vec<WrittenStep>) -> Written {
        Written { name: Some(name.to_owned()), on: Some("t".to_owned()), steps, ..here() }
    }

    fn here() -> Written {
        Written { place: "here".to_owned(), ..Written::default() }
    }

    #[test]
    fn every_rule_complains_in_its_own_words_and_all_at_once() {
        let nested = WrittenStep {
            id: Some("a".to_owned()),
            split: vec![uses("a", "p"), WrittenStep::default(), uses("b", "x/y")],
            ..WrittenStep::default()
        };
        let both = WrittenStep { steps: vec![uses("c", "p")], ..uses("d", "p") };
        let call = WrittenStep { id: Some("d".to_owned()), others: 1, ..WrittenStep::default() };
        let written = [
            Written { max_depth: Some(-1), ..here() },
            named("one", vec![uses("a", "p"), nested, both, call]),
            Written { has_hook: true, from_plugin: Some("a/b".to_owned()), ..named(" one ", vec![uses("a", "p")]) },
        ];
        let (_, problems) = check(&written);
        let placed = |problem: &String| problem.strip_suffix(" (here)").map(str::to_owned);
        let problems: Vec<String> = problems.iter().filter_map(placed).collect();
        assert_eq!(
            problems,
            [
                "pipelines[0]: name is required",
                "pipelines[0]: on or on-hook is required",
                "pipelines[0]: max_depth must be >= 0 (0 means unlimited)",
                "pipelines[0]: steps must be non-empty",
                "pipeline \"one\": steps[1]: split[0]: duplicate step id \"a\"",
                "pipeline \"one\": steps[1]: split[1]: step must define exactly one of uses, call, relay, steps, or split",
                "pipeline \"one\": steps[1]: split[2]: uses: not a valid plugin",
                "pipeline \"one\": steps[2]: step must define exactly one of uses, call, relay, steps, or split",
                "pipeline \"one\": steps[3]: duplicate step id \"d\"",
                "duplicate pipeline name \"one\"",
                "pipeline \"one\": on and on-hook are mutually exclusive",
                "pipeline \"one\": from_plugin: not a valid plugin",
            ]
        );
    }

    #[test]
    fn texts_are_trimmed_and_blank_ones_are_none() {
        let written = Written {
            on: Some(" a.b ".to_owned()),
            from_plugin: Some(" ".to_owned()),
            ..named(" n ", vec![WrittenStep { id: Some(" ".to_owned()), ..uses("", " p ") }])
        };
        let (pipelines, problems) = check(&[written]);
        assert_eq!(problems, [""; 0]);
        let plugin = PluginName::parse("p").expect("a name");
        assert_eq!(
            pipelines,
            [Pipeline {
                name: "n".to_owned(),
                on: "a.b".to_owned(),
                from_plugin: None,
                max_depth: None,
                steps: vec![Step::Uses { id: None, plugin }],
            }]
        );
    }
}

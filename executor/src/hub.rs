//! The event hub (`spec/queue-and-scheduler.md` 12): what happened lately, for those who watch. It
//! carries no work, and nothing waits for it.

use std::collections::VecDeque;
use std::time::Instant;

use shared::log::{Value, object};
use shared::time::Timestamp;
use shared::wire::gateway::{HubEvent, Reply};

use crate::ipc::Answer;
use crate::text::beginning;

/// Events that are kept.
const KEPT: usize = 256;
/// Bytes of a text in an event; the whole of it is in the job's log.
const TEXT_MAX: usize = 4096;
/// Watchers beyond these are answered at once.
const WATCHERS_MAX: usize = 256;

/// The last events and those who wait for the next.
pub struct Hub {
    events: VecDeque<HubEvent>,
    /// Of the newest event.
    last: u64,
    watchers: Vec<Watcher>,
    /// Something was published since the watchers were last looked after.
    is_fresh: bool,
}

/// Somebody who wants what comes after event `after`.
struct Watcher {
    answer: Answer,
    after: u64,
    until: Instant,
}

impl Hub {
    /// Ids go on rising over restarts: they begin at the microseconds of the start.
    pub fn new(started_at: Timestamp) -> Self {
        let last = u64::try_from(started_at.unix_nanos() / 1000).unwrap_or(0);
        Self { events: VecDeque::with_capacity(KEPT), last, watchers: Vec::new(), is_fresh: false }
    }

    pub fn publish(&mut self, kind: &str, fields: &[(&str, Value<'_>)]) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.last += 1;
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, cut(*value))).collect();
        self.events.push_back(HubEvent { id: self.last, kind: kind.to_owned(), data: object(&fields) });
        self.is_fresh = true;
    }

    /// Answers with what came after event `after`, or when there is some, or at `until` without.
    pub fn watch(&mut self, after: u64, until: Instant, answer: Answer) {
        let events = self.after(after);
        self.watchers.retain(|watcher| !watcher.answer.is_lost());
        if !events.is_empty() || until <= Instant::now() || self.watchers.len() >= WATCHERS_MAX {
            return answer.send(Reply::Events(events));
        }
        self.watchers.push(Watcher { answer, after, until });
    }

    /// Answers those for whom there is something, and those whose wait is over.
    pub fn tend(&mut self, at: Instant) {
        let is_fresh = std::mem::take(&mut self.is_fresh);
        for watcher in self.watchers.extract_if(.., |watcher| is_fresh || watcher.until <= at).collect::<Vec<_>>() {
            let events = self.after(watcher.after);
            if events.is_empty() && watcher.until > at {
                self.watchers.push(watcher);
            } else {
                watcher.answer.send(Reply::Events(events));
            }
        }
    }

    pub fn next_wake(&self) -> Option<Instant> {
        self.watchers.iter().map(|watcher| watcher.until).min()
    }

    /// An id that was never given out, as after a clock that went back, is taken as the beginning.
    fn after(&self, id: u64) -> Vec<HubEvent> {
        let id = if id > self.last { 0 } else { id };
        self.events.iter().filter(|event| event.id > id).cloned().collect()
    }
}

/// A text that a plugin may have made any length of.
fn cut(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Text(text) => Value::Text(beginning(text, TEXT_MAX)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let mut hub = Hub::new(Timestamp::from_unix_nanos(0));
        let text = format!("a{}", "é".repeat(TEXT_MAX));
        hub.publish("job.failed", &[("error", (&text).into())]);
        assert_eq!(hub.after(0)[0].data, format!("{{\"error\":\"{}\"}}", &text[..TEXT_MAX - 1]));
    }

    #[test]
    fn the_last_events_are_kept_and_their_ids_rise_by_one() {
        let mut hub = Hub::new(Timestamp::from_unix_nanos(5_000_000));
        for number in 0..300_i64 {
            hub.publish("job.started", &[("n", number.into())]);
        }
        let all = hub.after(0);
        assert_eq!((all.len(), all[0].id, all[255].id), (256, 5045, 5300));
        assert_eq!(all[255].data, "{\"n\":299}");
        assert_eq!(hub.after(5298).len(), 2);
        assert!(hub.after(5300).is_empty());
        assert_eq!(hub.after(9999).len(), 256);
    }
}

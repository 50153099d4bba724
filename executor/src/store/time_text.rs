//! Timestamps as they are stored, each written out once.

use std::rc::Rc;

use shared::time::Timestamp;

/// Remembers the last few texts of a batch: a job's moments stand in several rows, and a batch
/// shares most of them.
#[derive(Debug, Default)]
pub(super) struct TimeTexts {
    recent: Vec<(Timestamp, Rc<str>)>,
}

const REMEMBERED: usize = 4;

impl TimeTexts {
    pub(super) fn text(&mut self, at: Timestamp) -> Rc<str> {
        if let Some((_, text)) = self.recent.iter().find(|(known, _)| *known == at) {
            return Rc::clone(text);
        }
        if self.recent.len() == REMEMBERED {
            self.recent.remove(0);
        }
        let text: Rc<str> = Rc::from(at.to_string());
        self.recent.push((at, Rc::clone(&text)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_once_and_old_ones_are_forgotten() {
        let mut texts = TimeTexts::default();
        let first = texts.text(Timestamp::from_unix_nanos(0));
        assert_eq!(&*first, "1970-01-01T00:00:00.000000000Z");
        assert!(Rc::ptr_eq(&first, &texts.text(Timestamp::from_unix_nanos(0))));
        for nanos in 1..=4 {
            texts.text(Timestamp::from_unix_nanos(nanos));
        }
        assert_eq!(texts.recent.len(), REMEMBERED);
        assert!(!Rc::ptr_eq(&first, &texts.text(Timestamp::from_unix_nanos(0))));
    }
}

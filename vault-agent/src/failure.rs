//! Why a form of this program ends without its work done, as whoever started it reads it: the one
//! place where the chain of an error becomes a text.

/// The text, and whether the same start may succeed soon.
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) passing: bool,
}

impl Failure {
    /// For what no error of a module says.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), passing: false }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(shared::log::chain(&error))
    }
}

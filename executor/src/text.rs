//! Text of any length on its way to a place that has a limit.

/// The beginning, of at most so many bytes, cut between two characters.
pub fn beginning(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

//! The forms in which delivered values may stand in a text, and taking them out of it
//! (`spec/vault.md` 17.5). Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use shared::log::push_json_text;
use zeroize::Zeroizing;

use crate::document::Value;
use crate::random::hex;

/// The shortest value that is looked for: a shorter one stands in texts by chance.
const SHORTEST: usize = 8;
/// Words of a set of all pairs of bytes.
const PAIR_WORDS: usize = 65_536 / 64;

/// All forms of a principal's values.
pub(crate) struct Needles {
    names: Vec<String>,
    /// A form and the index of its secret's name; longest first.
    forms: Vec<(Zeroizing<Vec<u8>>, usize)>,
    /// Which pairs of bytes a form begins with: most positions of a text are passed by this alone.
    starts: Vec<u64>,
    by_start: HashMap<u16, Vec<usize>>,
}

/// A text without the values, and how often each stood there.
pub(crate) struct Cleaned {
    pub(crate) text: Vec<u8>,
    pub(crate) hits: BTreeMap<String, u32>,
}

impl Needles {
    pub(crate) fn of(secrets: &[(String, Value)]) -> Self {
        let mut forms: Vec<(Zeroizing<Vec<u8>>, usize)> = Vec::new();
        let names: Vec<String> = secrets.iter().map(|(name, _)| name.clone()).collect();
        for (index, (_, value)) in secrets.iter().enumerate() {
            if value.expose().len() >= SHORTEST {
                forms.extend(forms_of(value.expose()).into_iter().map(|form| (Zeroizing::new(form), index)));
            }
        }
        forms.sort_by_key(|(form, index)| (usize::MAX - form.len(), *index));
        let mut starts = vec![0_u64; PAIR_WORDS];
        let mut by_start: HashMap<u16, Vec<usize>> = HashMap::new();
        for (at, (form, _)) in forms.iter().enumerate() {
            let pair = u16::from_le_bytes([form[0], form[1]]);
            starts[usize::from(pair / 64)] |= 1 << (pair % 64);
            by_start.entry(pair).or_default().push(at);
        }
        Self { names, forms, starts, by_start }
    }

    /// Takes every form out of a text. Where matches overlap the whole stretch goes, under the name
    /// of the longest of them, so that no piece of a value is left over.
    pub(crate) fn clean(&self, text: &[u8]) -> Option<Cleaned> {
        let mut out = Vec::new();
        let mut hits: BTreeMap<String, u32> = BTreeMap::new();
        let mut copied = 0;
        let mut stretch: Option<Stretch> = None;
        for (at, pair) in text.windows(2).enumerate() {
            if let Some(open) = stretch.take_if(|open| at >= open.end) {
                self.replace(&open, &text[copied..open.start], &mut out, &mut hits);
                copied = open.end;
            }
            let pair = u16::from_le_bytes([pair[0], pair[1]]);
            if self.starts[usize::from(pair / 64)] & (1 << (pair % 64)) == 0 {
                continue;
            }
            let candidates = &self.by_start[&pair];
            let Some(&found) = candidates.iter().find(|&&form| text[at..].starts_with(&self.forms[form].0)) else {
                continue;
            };
            let (length, name) = (self.forms[found].0.len(), self.forms[found].1);
            let open = stretch.get_or_insert(Stretch { start: at, end: at, longest: 0, name });
            open.end = open.end.max(at + length);
            if length > open.longest {
                (open.longest, open.name) = (length, name);
            }
        }
        if let Some(open) = stretch {
            self.replace(&open, &text[copied..open.start], &mut out, &mut hits);
            copied = open.end;
        }
        if hits.is_empty() {
            return None;
        }
        out.extend_from_slice(&text[copied..]);
        Some(Cleaned { text: out, hits })
    }

    fn replace(&self, found: &Stretch, before: &[u8], out: &mut Vec<u8>, hits: &mut BTreeMap<String, u32>) {
        let name = &self.names[found.name];
        out.extend_from_slice(before);
        out.extend_from_slice(format!("[secret:{name}]").as_bytes());
        let count = hits.entry(name.clone()).or_default();
        *count = count.saturating_add(1);
    }
}

struct Stretch {
    start: usize,
    end: usize,
    longest: usize,
    name: usize,
}

fn forms_of(value: &str) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::from([value.as_bytes().to_vec()]);
    let mut add = |form: String| forms.insert(form.into_bytes());
    for form in json_forms(value) {
        add(form);
    }
    for form in base64_forms(value.as_bytes()) {
        add(form);
    }
    let lower = hex(value.as_bytes());
    add(lower.to_ascii_uppercase());
    add(lower);
    // RFC 3986; with a path's slashes; as a browser's encodeURIComponent; as a form.
    for (unreserved, plus) in [("-_.~", false), ("-_.~/", false), ("-_.~!*'()", false), ("-_.*", true), ("-_.~", true)]
    {
        for digits in [b"0123456789abcdef", b"0123456789ABCDEF"] {
            add(percent(value, unreserved, plus, *digits));
        }
    }
    forms
}

/// Inside a JSON string: as little as must be; all of ASCII only; as Go does, with `<`, `>` and `&`
/// too; with `/`.
fn json_forms(value: &str) -> Vec<String> {
    let mut minimal = String::new();
    push_json_text(&mut minimal, value);
    let minimal = minimal[1..minimal.len() - 1].to_owned();
    let ascii = |text: &str| {
        let mut out = String::new();
        for c in text.chars() {
            let mut units = [0; 2];
            match c {
                c if c.is_ascii() => out.push(c),
                c => c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            }
        }
        out
    };
    let controls = |text: &str| text.replace("\\u0008", "\\b").replace("\\u000c", "\\f");
    let html = |text: &str| text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let mut forms = vec![minimal];
    let variants: [&dyn Fn(&str) -> String; 4] = [&ascii, &controls, &html, &|text: &str| text.replace('/', "\\/")];
    for variant in variants {
        let more: Vec<String> = forms.iter().map(|form| variant(form)).collect();
        forms.extend(more);
    }
    forms
}

/// Both alphabets, alone and inside a longer text at each of the three offsets: there only the
/// characters that the value alone decides, and with its own end where it is the last.
fn base64_forms(value: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    for offset in 0..3 {
        let mut shifted = Zeroizing::new(vec![0; offset]);
        shifted.extend_from_slice(value);
        // 8, 16 bits before the value reach into the second, the third character.
        let first = [0, 2, 3][offset];
        let whole = shifted.len() * 8 / 6;
        for (padded, plain) in [
            (BASE64_STANDARD.encode(shifted.as_slice()), BASE64_STANDARD_NO_PAD.encode(shifted.as_slice())),
            (BASE64_URL_SAFE.encode(shifted.as_slice()), BASE64_URL_SAFE_NO_PAD.encode(shifted.as_slice())),
        ] {
            forms.push(padded[first..].to_owned());
            forms.push(plain[first..].to_owned());
            forms.push(plain[first..whole].to_owned());
        }
    }
    forms
}

fn percent(value: &str, unreserved: &str, plus: bool, digits: [u8; 16]) -> String {
    let mut out = String::new();
    for b in value.bytes() {
        let c = char::from(b);
        if b.is_ascii_alphanumeric() || unreserved.contains(c) {
            out.push(c);
        } else if plus && b == b' ' {
            out.push('+');
        } else {
            out.push('%');
            out.push(char::from(digits[usize::from(b >> 4)]));
            out.push(char::from(digits[usize::from(b & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles(secrets: &[(&str, &str)]) -> Needles {
        let value = |text: &str| Value::new(Zeroizing::new(text.to_owned()));
        Needles::of(&secrets.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check(secrets: &[(&str, &str)], text: &str, expected: &str) {
        let cleaned = needles(secrets).clean(text.as_bytes());
        let got = cleaned.map_or(text.to_owned(), |cleaned| String::from_utf8(cleaned.text).expect("UTF-8"));
        assert_eq!(got, expected);
    }

    const ONE: &[(&str, &str)] = &[("api", "s3cr3t/value+1")];

    #[test]
    fn the_value_itself_goes_wherever_it_stands() {
        check(ONE, "s3cr3t/value+1", "[secret:api]");
        check(ONE, "a s3cr3t/value+1, s3cr3t/value+1!", "a [secret:api], [secret:api]!");
        check(ONE, "s3cr3t/value+1s3cr3t/value+1", "[secret:api][secret:api]");
        for clean in ["", "s", "s3cr3t/value+", "nothing here", "s3cr3t/value+2"] {
            assert!(needles(ONE).clean(clean.as_bytes()).is_none(), "{clean}");
        }
    }

    #[test]
    fn every_encoding_is_known() {
        let secrets = &[("k", "pä\"s<s>&w/o rd\n?ÿ~1")];
        for form in [
            r#"pä\"s<s>&w/o rd\n?ÿ~1"#,
            r#"p\u00e4\"s<s>&w/o rd\n?\u00ff~1"#,
            r#"pä\"s\u003cs\u003e\u0026w/o rd\n?ÿ~1"#,
            r#"pä\"s<s>&w\/o rd\n?ÿ~1"#,
            "cMOkInM8cz4mdy9vIHJkCj/Dv34x",
            "cMOkInM8cz4mdy9vIHJkCj_Dv34x",
            "p%C3%A4%22s%3Cs%3E%26w%2Fo%20rd%0A%3F%C3%BF~1",
            "p%c3%a4%22s%3cs%3e%26w%2fo%20rd%0a%3f%c3%bf~1",
            "p%C3%A4%22s%3Cs%3E%26w/o%20rd%0A%3F%C3%BF~1",
            "p%C3%A4%22s%3Cs%3E%26w%2Fo+rd%0A%3F%C3%BF%7E1",
        ] {
            check(secrets, &format!("<{form}>"), "<[secret:k]>");
        }
        let hex = hex(secrets[0].1.as_bytes());
        check(secrets, &hex, "[secret:k]");
        check(secrets, &hex.to_uppercase(), "[secret:k]");
    }

    #[test]
    fn base64_is_found_at_every_offset_of_a_longer_text() {
        for (before, after) in [("", ""), ("", "x"), ("a", ""), ("a", "yz"), ("ab", ""), ("ab", "x"), ("abc", "xyz")] {
            for engine in [BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD] {
                let encoded = engine.encode(format!("{before}{}{after}", ONE[0].1));
                let cleaned = needles(ONE).clean(encoded.as_bytes()).expect("found");
                let text = String::from_utf8(cleaned.text).expect("UTF-8");
                assert!(text.contains("[secret:api]"), "{before:?} {after:?}: {text}");
                // Left over is what encodes the text around it, and at most one character of both.
                let around = encoded.len() - ONE[0].1.len() * 8 / 6 + 2;
                assert!(text.len() <= "[secret:api]".len() + around, "{text}");
            }
        }
    }

    #[test]
    fn the_longest_goes_first_and_overlaps_leave_nothing() {
        let secrets = &[("short", "abcdefgh"), ("long", "abcdefghijkl"), ("tail", "ghijklmnop")];
        check(secrets, "abcdefghijkl", "[secret:long]");
        check(secrets, "abcdefghX", "[secret:short]X");
        check(secrets, "-abcdefghijklmnop-", "-[secret:long]-");
        check(&[("period", "aaaaaaaa")], "xaaaaaaaaaaaay", "x[secret:period]y");
    }

    #[test]
    fn short_values_are_left_alone() {
        check(&[("pin", "1234567")], "1234567", "1234567");
        check(&[("pin", "12345678")], "12345678", "[secret:pin]");
    }

    #[test]
    fn hits_are_counted_by_name() {
        let needles = needles(&[("a", "alphaalpha"), ("b", "betabetabeta")]);
        let cleaned = needles.clean(b"alphaalpha betabetabeta alphaalpha \xff").expect("found");
        assert_eq!(cleaned.text, b"[secret:a] [secret:b] [secret:a] \xff");
        assert_eq!(cleaned.hits, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
    }
}

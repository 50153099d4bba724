//! Who is calling, and what they may do (`spec/api.md` 3).
//!
//! Tokens are known as keyed BLAKE3 digests only. Every comparison looks at every digest and takes
//! the same time whatever matches.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use shared::wire::gateway::Token;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// What a request presents as its right to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presented {
    /// No header, or an empty token.
    Nothing,
    /// A header that is not `Bearer …`.
    OtherScheme,
    /// A token that nobody was given.
    Unknown,
    /// The vault's admin token, which is never valid over HTTP.
    Admin,
    /// Index into the tokens of the configuration.
    Token(u32),
}

/// The tokens of one configuration.
pub(crate) struct Tokens {
    key: [u8; 32],
    tokens: Vec<Principal>,
}

struct Principal {
    digest: [u8; 32],
    is_admin: bool,
    scopes: Scopes,
}

impl Tokens {
    pub(crate) fn new(key: [u8; 32], tokens: Vec<Token>) -> Self {
        let tokens = tokens
            .into_iter()
            .map(|token| Principal {
                digest: token.digest,
                is_admin: token.is_admin,
                scopes: Scopes::new(token.scopes),
            })
            .collect();
        Self { key, tokens }
    }

    /// Reads `Authorization`; the prefix is case-sensitive, the token is trimmed.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Presented {
        let Some(value) = headers.get(AUTHORIZATION) else { return Presented::Nothing };
        let value = value.as_bytes();
        // HTTP itself cuts the blank after a `Bearer` that nothing follows.
        if value.is_empty() || value == b"Bearer" {
            return Presented::Nothing;
        }
        let Some(token) = value.strip_prefix(b"Bearer ") else { return Presented::OtherScheme };
        match token.trim_ascii() {
            [] => Presented::Nothing,
            token => self.compare(token),
        }
    }

    /// Reads `token=` of a query, the first one; `None` where there is none.
    pub(crate) fn identify_query(&self, query: &str) -> Option<Presented> {
        let value = query.split('&').find_map(|pair| pair.strip_prefix("token="))?;
        Some(match form_decoded(value).trim_ascii() {
            [] => Presented::Nothing,
            token => self.compare(token),
        })
    }

    fn compare(&self, token: &[u8]) -> Presented {
        let digest = blake3::keyed_hash(&self.key, token);
        let mut found = u32::MAX;
        for (index, known) in (0..u32::MAX).zip(&self.tokens) {
            let equal = digest.as_bytes().ct_eq(&known.digest);
            found.conditional_assign(&index, equal);
        }
        match self.tokens.get(found as usize) {
            None => Presented::Unknown,
            Some(known) if known.is_admin => Presented::Admin,
            Some(_) => Presented::Token(found),
        }
    }

    /// What the holder of a token may do.
    pub(crate) fn scopes(&self, index: u32) -> Option<&Scopes> {
        self.tokens.get(index as usize).map(|known| &known.scopes)
    }
}

/// The bytes that a form field stands for; an escape that is none stays as it is.
fn form_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let escaped = more.first_chunk::<2>().and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.filter(|digits| !digits.starts_with('+'));
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = more;
            }
        }
    }
    bytes
}

/// `*` does not stand for these: each must be written out.
const WRITTEN_OUT: [&str; 2] = ["vault:ro", "vault:revoke"];

/// What each scope brings along, in the order in which it is applied.
const IMPLIED: [(&str, &[&str]); 6] = [
    ("plugin:rw", &["plugin:ro", "plugin:catalog:ro", "plugin:invoke:ro"]),
    ("plugin:ro", &["plugin:catalog:ro"]),
    ("jobs:rw", &["jobs:ro"]),
    ("jobs:ro", &["jobs:status:ro", "jobs:result:ro", "jobs:logs:ro", "jobs:tree:ro"]),
    ("events:rw", &["events:ro"]),
    ("events:ro", &["events:meta:ro", "events:payload:ro"]),
];

/// The scopes of one token, with what they imply. A scope that means nothing gives nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scopes {
    all: bool,
    names: Vec<String>,
}

impl Scopes {
    pub(crate) fn new(written: Vec<String>) -> Self {
        let mut names: Vec<String> =
            written.into_iter().map(|scope| scope.trim().to_owned()).filter(|scope| !scope.is_empty()).collect();
        for (scope, implied) in IMPLIED {
            if names.iter().any(|name| name == scope) {
                names.extend(implied.iter().map(|&name| name.to_owned()));
            }
        }
        Self { all: names.iter().any(|name| name == "*"), names }
    }

    /// Whether one of these is held.
    pub(crate) fn allow(&self, one_of: &[&str]) -> bool {
        one_of
            .iter()
            .any(|&asked| (self.all && !WRITTEN_OUT.contains(&asked)) || self.names.iter().any(|name| name == asked))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn tokens() -> Tokens {
        let token = |text: &[u8], is_admin: bool| Token {
            digest: *blake3::keyed_hash(&KEY, text).as_bytes(),
            scopes: vec!["*".to_owned()],
            is_admin,
        };
        Tokens::new(KEY, vec![token(b"one", false), token(b"", false), token(b"admin", true), token(b"two", false)])
    }

    #[test]
    fn the_header_decides_who_is_calling() {
        let tokens = tokens();
        let check = |header: Option<&[u8]>, expected: Presented| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_bytes(header).expect("a header value"));
            }
            assert_eq!(tokens.identify(&headers), expected, "{header:?}");
        };
        check(None, Presented::Nothing);
        check(Some(b""), Presented::Nothing);
        check(Some(b"Bearer"), Presented::Nothing);
        check(Some(b"Bearer   "), Presented::Nothing);
        check(Some(b"bearer one"), Presented::OtherScheme);
        check(Some(b"Basic b25l"), Presented::OtherScheme);
        check(Some(b"Beareron"), Presented::OtherScheme);
        check(Some(b"Bearer one"), Presented::Token(0));
        check(Some(b"Bearer  one "), Presented::Token(0));
        check(Some(b"Bearer two"), Presented::Token(3));
        check(Some(b"Bearer One"), Presented::Unknown);
        check(Some(b"Bearer one two"), Presented::Unknown);
        check(Some(b"Bearer \xff\xfe"), Presented::Unknown);
        check(Some(b"Bearer admin"), Presented::Admin);
    }

    #[test]
    fn a_query_is_read_as_a_form() {
        let tokens = tokens();
        let check = |query: &str, expected: Option<Presented>| {
            assert_eq!(tokens.identify_query(query), expected, "{query:?}");
        };
        check("", None);
        check("after=1&tokens=one", None);
        check("Token=one", None);
        check("token=", Some(Presented::Nothing));
        check("token=+%20", Some(Presented::Nothing));
        check("token=one", Some(Presented::Token(0)));
        check("a=b&token=%6fne&token=two", Some(Presented::Token(0)));
        check("token=+two+", Some(Presented::Token(3)));
        check("token=admin", Some(Presented::Admin));
        for unknown in ["One", "%", "%6", "one%", "%+6ne", "%zzone", "%ff", "%00one", "o%c3%bcne"] {
            check(&format!("token={unknown}"), Some(Presented::Unknown));
        }
        assert_eq!(form_decoded("a%2Bb+c%%6%"), b"a+b c%%6%");
    }

    #[test]
    fn without_tokens_nobody_is_known() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer one"));
        assert_eq!(Tokens::new(KEY, Vec::new()).identify(&headers), Presented::Unknown);
    }

    #[test]
    fn scopes_bring_what_the_chapter_says_and_no_more() {
        let check = |written: &[&str], asked: &str, expected: bool| {
            let scopes = Scopes::new(written.iter().map(|&scope| scope.to_owned()).collect());
            assert_eq!(scopes.allow(&[asked]), expected, "{written:?} asked for {asked}");
        };
        check(&["plugin:rw"], "plugin:ro", true);
        check(&["plugin:rw"], "plugin:catalog:ro", true);
        check(&["plugin:rw"], "plugin:invoke:ro", true);
        check(&["plugin:ro"], "plugin:catalog:ro", true);
        check(&["plugin:ro"], "plugin:invoke:ro", false);
        check(&["plugin:ro"], "plugin:rw", false);
        check(&["plugin:invoke:ro"], "plugin:rw", false);
        for implied in ["jobs:ro", "jobs:status:ro", "jobs:result:ro", "jobs:logs:ro", "jobs:tree:ro"] {
            check(&["jobs:rw"], implied, true);
            check(&["jobs:ro"], implied, true);
            check(&["jobs:status:ro"], implied, implied == "jobs:status:ro");
        }
        check(&["jobs:ro"], "jobs:rw", false);
        check(&["events:rw"], "events:meta:ro", true);
        check(&["events:ro"], "events:payload:ro", true);
        check(&["system:rw"], "system:ro", false);
        check(&["*"], "plugin:rw", true);
        check(&["*"], "anything", true);
        check(&["*"], "vault:ro", false);
        check(&["*"], "vault:revoke", false);
        check(&["*", "vault:ro"], "vault:ro", true);
        check(&["vault:ro"], "vault:revoke", false);
        check(&["vault:revoke"], "vault:ro", false);
        check(&[" plugin:rw "], "plugin:rw", true);
        check(&["", " "], "", false);
        check(&["plugin:echo:rw"], "plugin:rw", false);
        check(&[], "plugin:ro", false);
    }
}

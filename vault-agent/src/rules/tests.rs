//! The tables of `spec/vault.md` 4.1, 4.4 and 4.5, row by row.

use zeroize::Zeroizing;

use super::*;

const NOW: &str = "2026-06-05T09:00:00Z";
const LATER: &str = "2026-06-05T09:00:01Z";

fn value(text: &str) -> Value {
    Value::new(Zeroizing::new(text.to_owned()))
}

fn vault() -> Document {
    let mut document = Document::genesis(value("bm9uY2U"), value("token"), NOW);
    document.register_principal("withings", "plugin").expect("new");
    document.register_principal("gone", "plugin").expect("new");
    document.revoke_principal("gone").expect("known");
    document
}

struct Set<'a> {
    name: &'a str,
    value: &'a str,
    pattern: Option<&'a str>,
    principals: Option<&'a [&'a str]>,
}

const PLAIN: Set<'_> = Set { name: "api", value: "", pattern: None, principals: None };

fn set(document: &mut Document, set: &Set<'_>, now: &str) -> Result<Pattern, String> {
    let principals: Option<Vec<String>> =
        set.principals.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    let before = document.canonical();
    let value = value(set.value);
    let change = SecretChange {
        name: set.name,
        value: &value,
        pattern: set.pattern,
        principals: principals.as_deref(),
        scope: None,
    };
    let outcome = document.set_secret(&change, now).map_err(|error| error.to_string());
    if outcome.is_err() {
        assert_eq!(*document.canonical(), *before, "a refusal changes nothing");
    }
    outcome
}

#[track_caller]
fn refused(document: &mut Document, change: &Set<'_>, text: &str) {
    assert_eq!(set(document, change, LATER).expect_err("refused"), text);
}

#[test]
fn creating_follows_the_table() {
    let mut document = vault();
    assert_eq!(set(&mut document, &Set { value: "v", ..PLAIN }, NOW), Ok(Pattern::Manual));
    let record = &document.secrets["api"];
    assert_eq!((record.value.expose(), record.authorized_principals.len(), record.roll_count), ("v", 0, 0));
    assert_eq!((record.created_at.as_str(), record.updated_at.as_str()), (NOW, NOW));
    refused(&mut document, &Set { name: "b", ..PLAIN }, "vault: active secret value must not be empty: \"b\"");
    let auto = Set { name: "minted", pattern: Some("auto"), ..PLAIN };
    assert_eq!(set(&mut document, &auto, NOW), Ok(Pattern::Auto));
    assert!(document.secrets["minted"].value.is_empty());
    let given = Set { name: "given", value: "first", pattern: Some("auto"), principals: None };
    assert_eq!(set(&mut document, &given, NOW), Ok(Pattern::Auto));
    assert_eq!(document.secrets["given"].value.expose(), "first");
}

#[test]
fn updating_follows_the_table() {
    let mut document = vault();
    set(&mut document, &Set { value: "v", principals: Some(&["withings"]), ..PLAIN }, NOW).expect("created");
    set(&mut document, &Set { value: "v", ..PLAIN }, LATER).expect("equal value");
    let record = &document.secrets["api"];
    assert_eq!(
        (record.updated_at.as_str(), record.authorized_principals.as_slice()),
        (LATER, &["withings".to_owned()][..])
    );
    set(&mut document, &Set { principals: Some(&["gone", "core", "gone"]), ..PLAIN }, NOW)
        .expect("replaced, once each");
    assert_eq!(document.secrets["api"].authorized_principals, ["core", "gone"]);
    set(&mut document, &Set { principals: Some(&[]), pattern: Some("auto"), ..PLAIN }, NOW).expect("cleared");
    let record = &document.secrets["api"];
    assert_eq!((record.authorized_principals.len(), &record.pattern), (0, &Pattern::Auto));
    assert_eq!((record.created_at.as_str(), record.value.expose(), record.roll_count), (NOW, "v", 0));
    refused(
        &mut document,
        &Set { value: "other", ..PLAIN },
        "vault: secret value is immutable via set; use roll: \"api\"",
    );
}

#[test]
fn refusals_come_in_the_chapters_order() {
    let mut document = vault();
    let bad = Set { name: "Bad Name", value: "", pattern: Some("odd"), principals: Some(&["nobody"]) };
    refused(&mut document, &bad, "vault: invalid name \"Bad Name\"");
    refused(
        &mut document,
        &Set { name: ADMIN_TOKEN, ..bad },
        "vault: reserved entity cannot be mutated via the data plane: \"core-admin-token\"",
    );
    refused(&mut document, &Set { name: "api", ..bad }, "vault: invalid secret pattern \"odd\"");
    refused(
        &mut document,
        &Set { name: "api", pattern: None, ..bad },
        "vault: unknown principal \"nobody\" granted by secret \"api\"",
    );
    set(&mut document, &Set { value: "v", ..PLAIN }, NOW).expect("created");
    document.secrets.get_mut("api").expect("there").status = Status::Revoked;
    refused(&mut document, &Set { value: "other", ..PLAIN }, "vault: secret is revoked: \"api\"");
}

#[test]
fn an_unminted_secret_does_not_become_a_manual_one() {
    let mut document = vault();
    set(&mut document, &Set { pattern: Some("auto"), ..PLAIN }, NOW).expect("created");
    let text = "vault: active secret value must not be empty: \"api\" has none yet; roll it first";
    refused(&mut document, &Set { pattern: Some("manual"), ..PLAIN }, text);
}

#[test]
fn sizes_are_bounded() {
    let mut document = vault();
    let long = "x".repeat(VALUE_MAX + 1);
    refused(&mut document, &Set { value: &long, ..PLAIN }, "vault: secret value is over 49152 bytes: \"api\"");
    let most = "x".repeat(VALUE_MAX);
    let granted = Set { value: &most, principals: Some(&["withings"]), ..PLAIN };
    set(&mut document, &granted, NOW).expect("fits");
    refused(
        &mut document,
        &Set { name: "second", ..granted },
        "vault: secrets of principal \"withings\" are over 61440 bytes together",
    );
    let escaped = "\u{1}".repeat(11 * 1024);
    let alone = Set { name: "escaped", value: &escaped, principals: Some(&["core"]), pattern: None };
    refused(&mut document, &alone, "vault: secrets of principal \"core\" are over 61440 bytes together");
    set(&mut document, &Set { principals: None, ..alone }, NOW).expect("not granted");
    let text = "vault: secrets of principal \"core\" are over 61440 bytes together";
    refused(&mut document, &Set { value: "", ..alone }, text);
}

#[test]
fn principals_follow_the_table() {
    let mut document = vault();
    let check = |document: &mut Document, name: &str, kind: &str, text: &str| {
        let refusal = document.register_principal(name, kind).expect_err("refused").to_string();
        assert_eq!(refusal, text);
    };
    check(&mut document, "core", "odd", "vault: reserved entity cannot be mutated via the data plane: \"core\"");
    check(&mut document, "a_b", "odd", "vault: invalid name \"a_b\"");
    check(&mut document, "fresh", "core", "vault: invalid principal kind \"core\"");
    check(&mut document, "gone", "plugin", "vault: principal already registered: \"gone\"");
    document.revoke_principal("gone").expect("a second revoke succeeds");
    assert!(matches!(document.revoke_principal("core"), Err(DocumentError::Reserved(_))));
    let unknown = document.revoke_principal("x").expect_err("unknown").to_string();
    assert_eq!(unknown, "vault: unknown principal \"x\"");
}

#[test]
fn the_integrity_check_is_sorted_and_names_each_finding() {
    let mut document = vault();
    assert_eq!(document.issues(), []);
    set(&mut document, &Set { value: "v", ..PLAIN }, NOW).expect("created");
    let record = document.secrets.get_mut("api").expect("there");
    record.status = Status::Other("odd".to_owned());
    record.authorized_principals = vec!["nobody".to_owned()];
    document.principals.get_mut("gone").expect("there").kind = Kind::Other(String::new());
    let found: Vec<_> =
        document.issues().into_iter().map(|i| format!("{} {}: {}", i.kind, i.target, i.detail)).collect();
    assert_eq!(
        found,
        [
            "principal gone: invalid kind \"\"",
            "secret api: granted to unregistered principal \"nobody\"",
            "secret api: invalid status \"odd\"",
        ]
    );
}

#[test]
fn hostile_names_are_cut_in_the_text() {
    let text = DocumentError::InvalidName("é\n".repeat(5000)).to_string();
    assert!(text.len() < 600 && !text.contains('\n'), "{text}");
}

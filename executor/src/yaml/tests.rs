use std::time::Instant;

use super::*;

fn tree(text: &str) -> Node {
    parse(text.as_bytes(), "t.yaml").expect("valid")
}

fn complaint(text: &[u8]) -> String {
    parse(text, "t.yaml").expect_err("must be refused").to_string()
}

#[test]
fn every_key_knows_its_line_and_every_scalar_its_spelling() {
    let node = tree("# äöü\na: 1\n\nb:\n  c: \"x\\ty\"\n  'd': [ 1.10, 0x10, plain, 'quoted' ]\ne: true\n");
    let lines: Vec<(&str, usize)> = node.entries().iter().map(|e| (e.key.as_str(), e.line)).collect();
    assert_eq!(lines, [("a", 2), ("b", 4), ("e", 7)]);
    let inner: Vec<(&str, usize)> =
        node.get("b").expect("b").entries().iter().map(|e| (e.key.as_str(), e.line)).collect();
    assert_eq!(inner, [("c", 5), ("d", 6)]);
    let Value::List(items) = &node.get("b").and_then(|b| b.get("d")).expect("d").value else { panic!("a list") };
    let items: Vec<(&str, Kind, bool)> =
        items.iter().map(|i| i.scalar().expect("scalar")).map(|s| (s.text.as_str(), s.kind, s.plain)).collect();
    assert_eq!(
        items,
        [
            ("1.10", Kind::Float, true),
            ("0x10", Kind::Integer, true),
            ("plain", Kind::Text, true),
            ("quoted", Kind::Text, false)
        ]
    );
}

#[test]
fn json_keeps_every_digit() {
    let check = |yaml: &str, json: &str| assert_eq!(tree(yaml).to_json().expect("JSON"), json, "{yaml}");
    check("a: 1.10", r#"{"a":1.10}"#);
    check("a: 123456789012345678901234567890", r#"{"a":123456789012345678901234567890}"#);
    check("a: 1234567890123456789012345678901234567890123", r#"{"a":1234567890123456789012345678901234567890123}"#);
    check("a: -9007199254740993", r#"{"a":-9007199254740993}"#);
    check("[0x1f, -0b11, +7, .5, 3., 1e400x, 1e3, -.5e-3]", r#"[31,-3,7,0.5,3.0,"1e400x",1e3,-0.5e-3]"#);
    check("[yes, 'no', ~, null, true, 007, \"7\"]", r#"["yes","no",null,null,true,"007","7"]"#);
    check("{b: 1, a: {}, c: []}", r#"{"b":1,"a":{},"c":[]}"#);
    check("a: \"q\\\"\\n\\u0001\"", r#"{"a":"q\"\n\u0001"}"#);
    check("1: x\ntrue: y", r#"{"1":"x","true":"y"}"#);
    check("", "null");
    assert_eq!(tree("a:\n- .nan").to_json(), Err(NotJson { line: 1 }));
}

#[test]
fn the_type_of_a_plain_text_is_the_parsers() {
    for text in [
        "",
        "~",
        "null",
        "nul",
        "true",
        "TRUE",
        "tRue",
        "yes",
        "0",
        "-0",
        "00",
        "12",
        "+12",
        "-12",
        "0x1F",
        "-0xf",
        "0o17",
        "0b101",
        "0xg",
        "1.5",
        "-1.5",
        ".5",
        "5.",
        "1e3",
        "1e999",
        "inf",
        "nan",
        ".inf",
        "-.inf",
        ".nan",
        "+.inf",
        "1_000",
        "0.1.2",
        "1d",
        "2020-01-01",
        "012",
        "-012",
        "0.5",
        "00.5",
        "340282366920938463463374607431768211456",
    ] {
        let node = tree(&format!("a: {text}"));
        let parsed = node.get("a").and_then(Node::scalar).expect("scalar").kind;
        assert_eq!(Kind::of_plain(text), parsed, "{text:?}");
    }
}

#[test]
fn anchors_aliases_merge_keys_and_tags_are_followed() {
    let node =
        tree("base: &b {x: 1, y: 2}\nmore: &m {z: 9}\na: {<<: *b, y: 3}\nc: {<<: [*m, *b]}\nd: !mine {k: !x 5}\n");
    let json = |key: &str| node.get(key).expect("key").to_json().expect("JSON");
    assert_eq!(json("a"), r#"{"y":3,"x":1}"#);
    assert_eq!(json("c"), r#"{"z":9,"x":1,"y":2}"#);
    assert_eq!(json("d"), r#"{"k":5}"#);
    assert!(complaint(b"a: {<<: 3}").contains("map merge requires"));
}

#[test]
fn bad_texts_are_named_with_their_place() {
    assert_eq!(
        complaint(b"a: 1\nb: [\n"),
        "t.yaml: did not find expected node content at line 3 column 1, while parsing a flow node"
    );
    assert_eq!(complaint(b"a: 1\nb: \xff"), "t.yaml: not UTF-8 at line 2");
    assert!(complaint(b"a: \0").contains("control characters"), "{}", complaint(b"a: \0"));
    assert!(complaint(b"a: 1\nb: 2\na: 3\n").contains("mapping key \"a\" of line 3 already defined at line 1"));
    assert!(complaint(b"a: *nope").contains("unknown anchor"));
    assert!(complaint(b"a: 1\n---\nb: 2\n").contains("more than one document"));
    assert!(complaint(b"? [1, 2]\n: 3").contains("expected a text as key"));
    let secret = complaint(b"a: !!int hunter2");
    assert!(!secret.contains("hunter2"), "{secret}");
}

#[test]
fn hostile_texts_end_quickly_in_a_complaint() {
    let begun = Instant::now();
    assert!(complaint(&vec![b'['; 1 << 20]).contains("nested too deeply"));
    assert!(complaint("{a: ".repeat(500).as_bytes()).contains("recursion limit"));
    assert!(complaint("- ".repeat(100_000).as_bytes()).contains("recursion limit"));
    assert!(complaint(&vec![b'#'; 10_000_000]).contains("more than the 4194304 allowed"));
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let alias = format!("*a{},", level - 1).repeat(9);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", alias.trim_end_matches(',')));
    }
    assert!(complaint(laughs.as_bytes()).contains("repetition limit"));
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(2000), "*a,".repeat(2000));
    assert!(complaint(wide.as_bytes()).contains("too many values"));
    assert!(complaint(b"a: &a [*a]").contains("repetition") || complaint(b"a: &a [*a]").contains("recursion"));
    assert!(begun.elapsed().as_secs() < 20);
}

#[test]
fn decode_reads_types_and_names_the_file() {
    let map: std::collections::BTreeMap<String, u8> = decode(b"a: 1\nb: 2\n", "s.yaml").expect("valid");
    assert_eq!(map.len(), 2);
    let error = decode::<std::collections::BTreeMap<String, u8>>(b"a: 1\nb: x\n", "s.yaml").expect_err("type");
    assert_eq!(error.to_string(), "s.yaml: a value is not of the type it should be at line 2");
    assert_eq!(error.line(), Some(2));
}

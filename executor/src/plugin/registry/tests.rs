use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::config::Environment;
use crate::config::scratch::{Scratch, set_mode};

fn manifest(name: &str) -> String {
    format!(
        "manifest_spec: ductile.plugin\nmanifest_version: 1\nname: {name}\nversion: 1.0.0\nprotocol: 2\nentrypoint: run.sh\n\
         commands: [{{name: poll, type: read}}]\nconfig_keys: {{required: [url]}}\n"
    )
}

fn names(registry: &Registry) -> Vec<&str> {
    registry.iter().map(|entry| entry.name.as_str()).collect()
}

/// Discovers below one root and gives the names and what the warnings say.
fn found(root: &Path, allow_symlinks: bool) -> (Vec<String>, Vec<String>) {
    let mut notes = Vec::new();
    let registry = discover(&[root.to_path_buf()], allow_symlinks, &mut notes).expect("searched");
    let warnings = notes
        .iter()
        .filter(|note| note.level == Level::Warn)
        .map(|note| {
            note.fields.iter().find(|(name, _)| *name == "error").map_or(note.msg.to_owned(), |(_, e)| e.clone())
        })
        .collect();
    (names(&registry).into_iter().map(str::to_owned).collect(), warnings)
}

fn config_of(plugins: &str) -> Config {
    let scratch = Scratch::new();
    let file = scratch.file("config.yaml", &format!("plugin_roots: [/p]\nplugins: {{{plugins}}}\n"));
    let environment = Environment::default();
    let located = crate::config::locate(Some(&file), &environment).expect("found");
    crate::config::load(&located, &environment).expect("valid").config
}

#[test]
fn plugins_are_found_at_any_depth_and_named_by_their_manifest() {
    let scratch = Scratch::new();
    let dir = scratch.plugin("root/team/plugin-x", &manifest("x"));
    scratch.plugin("root/team/plugin-x/nested", &manifest("y"));
    scratch.plugin("root/.git/z", &manifest("z"));
    scratch.plugin("root/node_modules/z", &manifest("z"));
    let mut notes = Vec::new();
    let registry = discover(&[scratch.path("root")], false, &mut notes).expect("searched");
    assert_eq!(names(&registry), ["x", "y"]);
    assert_eq!((registry.len(), registry.is_empty()), (2, false));
    let x = registry.get(&PluginName::parse("x").expect("a name")).expect("x");
    assert_eq!(x.dir, dir);
    assert_eq!(x.manifest_path, dir.join("manifest.yaml"));
    assert_eq!(x.entrypoint_path, dir.join("run.sh"));
    assert_eq!(
        notes[0],
        Note {
            level: Level::Info,
            msg: "loaded plugin",
            fields: vec![
                ("plugin", "x".into()),
                ("path", dir.display().to_string()),
                ("version", "1.0.0".into()),
                ("protocol", "2".into()),
            ],
        }
    );
}

#[test]
fn the_first_of_a_name_stays() {
    let scratch = Scratch::new();
    let first = scratch.plugin("one/b", &manifest("same"));
    let second = scratch.plugin("two/a", &manifest("same"));
    let mut notes = Vec::new();
    let registry = discover(&[scratch.path("one"), scratch.path("two")], false, &mut notes).expect("searched");
    assert_eq!(registry.iter().map(|entry| &entry.dir).collect::<Vec<_>>(), [&first]);
    let duplicate = notes.iter().find(|note| note.level == Level::Warn).expect("a warning");
    assert_eq!(duplicate.msg, "duplicate plugin ignored (keeping first discovered)");
    assert_eq!(
        duplicate.fields,
        [
            ("plugin", "same".to_owned()),
            ("ignored_path", second.display().to_string()),
            ("kept_path", first.display().to_string())
        ]
    );
}

#[test]
fn roots_that_are_not_there_stop_the_search() {
    let scratch = Scratch::new();
    let check = |roots: &[PathBuf], text: String| {
        assert_eq!(discover(roots, false, &mut Vec::new()).expect_err("refused").to_string(), text);
    };
    check(&[], "at least one plugin root is required".into());
    let missing = scratch.path("missing");
    check(std::slice::from_ref(&missing), format!("plugin root does not exist: {}", missing.display()));
    let file = scratch.file("file", "");
    check(std::slice::from_ref(&file), format!("plugin root is not a directory: {}", file.display()));
}

#[test]
fn what_can_not_be_trusted_is_passed_over_with_its_reason() {
    let scratch = Scratch::new();
    let root = scratch.path("root");
    let check = |prepare: &dyn Fn(&Path), expected: &dyn Fn(&str) -> String| {
        let dir = scratch.plugin("root/p", &manifest("p"));
        prepare(&dir);
        let (names, warnings) = found(&root, false);
        assert_eq!(names, [""; 0]);
        assert_eq!(warnings, [expected(&dir.display().to_string())]);
        set_mode(&dir, 0o755);
        set_mode(&root, 0o755);
        fs::remove_dir_all(&dir).expect("removed");
    };
    check(&|dir| fs::remove_file(dir.join("run.sh")).expect("removed"), &|_| {
        "trust validation failed: failed to resolve entrypoint symlink: No such file or directory (os error 2)".into()
    });
    check(&|dir| set_mode(&dir.join("run.sh"), 0o644), &|dir| {
        format!("trust validation failed: entrypoint is not executable: {dir}/run.sh")
    });
    check(
        &|dir| {
            fs::remove_file(dir.join("run.sh")).expect("removed");
            fs::create_dir(dir.join("run.sh")).expect("made");
        },
        &|dir| format!("trust validation failed: entrypoint is not executable: {dir}/run.sh"),
    );
    check(&|dir| set_mode(dir, 0o777), &|dir| {
        format!("trust validation failed: plugin directory is world-writable: {dir}")
    });
    check(&|dir| set_mode(dir.parent().expect("root"), 0o777), &|dir| {
        format!("trust validation failed: plugin directory is world-writable: {}", dir.trim_end_matches("/p"))
    });
    check(&|dir| set_mode(&dir.join("run.sh"), 0o757), &|dir| {
        format!("trust validation failed: entrypoint is world-writable: {dir}/run.sh")
    });
    check(&|dir| set_mode(&dir.join("manifest.yaml"), 0o646), &|dir| {
        format!("trust validation failed: manifest is world-writable: {dir}/manifest.yaml")
    });
    check(
        &|dir| {
            fs::rename(dir.join("run.sh"), dir.join("real.sh")).expect("renamed");
            symlink("real.sh", dir.join("run.sh")).expect("linked");
        },
        &|dir| {
            format!(
                "trust validation failed: symlink detected for plugin_entrypoint ({dir}/run.sh -> {dir}/real.sh); set service.allow_symlinks=true to allow"
            )
        },
    );
    check(&|dir| fs::write(dir.join("manifest.yaml"), "protocol: [").expect("written"), &|_| {
        "failed to parse manifest YAML: manifest.yaml: did not find expected node content at line 2 column 1, while parsing a flow node".into()
    });
    check(
        &|dir| {
            fs::write(dir.join("manifest.yaml"), manifest("p").replace("protocol: 2", "protocol: 99")).expect("written")
        },
        &|_| "invalid manifest: unsupported protocol version 99 (supported: 2)".into(),
    );
    set_mode(&scratch.plugin("root/p", &manifest("p")).join("manifest.yaml"), 0o664);
    set_mode(&scratch.path("root/p"), 0o775);
    assert_eq!(found(&root, false).0, ["p"]);
}

#[test]
fn allowed_links_still_must_stay_inside() {
    let scratch = Scratch::new();
    let dir = scratch.plugin("root/p", &manifest("p"));
    let outside = scratch.plugin("elsewhere/q", &manifest("q"));
    let other = scratch.plugin("root/r", &manifest("r"));
    let relink = |target: &Path| {
        let _ = fs::remove_file(dir.join("run.sh"));
        symlink(target, dir.join("run.sh")).expect("linked");
    };
    relink(&outside.join("run.sh"));
    let (names, warnings) = found(&scratch.path("root"), true);
    assert_eq!(names, ["r"]);
    assert_eq!(
        warnings,
        [
            "symlink detected".to_owned(),
            format!(
                "trust validation failed: entrypoint {} is not under any configured plugin root",
                outside.join("run.sh").display()
            )
        ]
    );
    relink(&other.join("run.sh"));
    let (_, warnings) = found(&scratch.path("root"), true);
    assert_eq!(
        warnings[1],
        format!(
            "trust validation failed: entrypoint {} is not under plugin directory {}",
            other.join("run.sh").display(),
            dir.display()
        )
    );
    symlink(&outside, scratch.path("root/linked")).expect("linked");
    assert_eq!(found(&scratch.path("root"), true).0, ["r"]);

    let link = scratch.path("link");
    symlink(scratch.path("elsewhere"), &link).expect("linked");
    assert_eq!(found(&link, true).0, ["q"]);
    assert_eq!(
        discover(std::slice::from_ref(&link), false, &mut Vec::new()).expect_err("refused").to_string(),
        format!(
            "symlink detected for plugin_root ({} -> {}); set service.allow_symlinks=true to allow",
            link.display(),
            scratch.path("elsewhere").display()
        )
    );
}

#[test]
fn a_plugin_that_lost_its_manifest_is_pointed_out() {
    let scratch = Scratch::new();
    scratch.file("root/lost/main.py", "");
    scratch.file("root/library/readme", "");
    let (names, warnings) = found(&scratch.path("root"), false);
    assert_eq!(names, [""; 0]);
    assert_eq!(warnings, ["plugin directory missing manifest.yaml — directory will be ignored"]);
}

#[test]
fn aliases_are_registered_over_their_base() {
    let scratch = Scratch::new();
    scratch.plugin("root/if", &manifest("if"));
    let config = config_of(
        "check_links: {uses: if, enabled: true, config: {url: x}}, again: {uses: check_links}, off: {uses: none}",
    );
    let mut notes = Vec::new();
    let mut registry = discover(&[scratch.path("root")], false, &mut notes).expect("searched");
    notes.clear();
    registry.alias(&config, &mut notes).expect("aliased");
    assert_eq!(names(&registry), ["again", "check_links", "if"]);
    let alias = registry.get(&PluginName::parse("again").expect("a name")).expect("again");
    assert_eq!(alias.uses.as_ref().map(PluginName::as_str), Some("check_links"));
    assert_eq!(alias.manifest.name.as_str(), "if");
    let said: Vec<&str> = notes.iter().map(|note| note.msg).collect();
    assert_eq!(said, ["alias of an unknown plugin is disabled", "plugin alias registered", "plugin alias registered"]);
    assert_eq!(registry.check_usable(&config), Ok(()));
}

#[test]
fn bad_aliases_register_nothing() {
    let scratch = Scratch::new();
    scratch.plugin("root/base", &manifest("base"));
    let check = |plugins: &str, expected: &str| {
        let mut registry = discover(&[scratch.path("root")], false, &mut Vec::new()).expect("searched");
        let error = registry.alias(&config_of(&format!("good: {{uses: base}}, {plugins}")), &mut Vec::new());
        assert_eq!(error.expect_err("refused").to_string(), expected, "{plugins}");
        assert_eq!(registry.len(), 1);
    };
    check("a: {uses: a}", "plugin \"a\": uses must reference a different base plugin");
    check("a: {uses: none, enabled: true}", "plugin \"none\" in config but not found in configured plugin roots");
    check("base: {uses: good}", "plugin \"base\": uses can not rename a plugin that was discovered");
    check(
        "zero: {uses: c}, a: {uses: b}, b: {uses: c}, c: {uses: a}",
        "circular uses dependency detected involving plugin \"a\"",
    );
}

#[test]
fn enabled_stanzas_must_be_runnable() {
    let scratch = Scratch::new();
    scratch.plugin("root/fetch", &manifest("fetch"));
    let registry = discover(&[scratch.path("root")], false, &mut Vec::new()).expect("searched");
    let error =
        registry.check_usable(&config_of("gone: {enabled: true}, off: {}, fetch: {enabled: true, config: {URL: 1}}"));
    assert_eq!(
        error.expect_err("refused").to_string(),
        "plugin \"fetch\" requires config key \"url\"\nplugin \"gone\" is configured but not discoverable"
    );
}

//! `docs/concepts/security.md` promises nothing that no test keeps.

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_test_that_the_document_names_exists_and_every_test_is_named() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(here.join("../docs/concepts/security.md")).unwrap();
    let code = |word: &&str| word.len() > 20 && word.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    let named: BTreeSet<&str> = text.split('`').filter(code).collect();
    let mut sources = String::new();
    for folder in ["security", "fault", "limits"] {
        for entry in fs::read_dir(here.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("document.rs") {
                sources += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let tests = sources.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next());
    // What is used again needs a node, and is tested beside it; machines are tested there as well.
    let reuse: String = ["reuse.rs", "machine.rs", "firecracker.rs"]
        .map(|file| fs::read_to_string(here.join("../crates/node/tests/real").join(file)).unwrap())
        .concat();
    let trials = reuse.split("trial(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let tests: BTreeSet<&str> = tests.chain(trials).collect();
    // What needs a server is tried from there, with much that is no matter of security.
    let api = ["test_local.py", "test_vfs.py"].map(|file| fs::read_to_string(here.join("api").join(file)).unwrap());
    let (served, named): (BTreeSet<&str>, BTreeSet<&str>) =
        named.into_iter().partition(|name| name.starts_with("test_"));
    for name in served {
        assert!(api.iter().any(|text| text.contains(&format!("\ndef {name}("))), "{name}");
    }
    assert_eq!(named, tests);
}

//! Every relative link of the repository's pages leads to a file, and every `#part` to a heading.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn pages(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the repository can be read") {
        let path = entry.expect("the repository can be read").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && !["target", "node_modules", "venv"].contains(&name) {
            pages(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Link targets outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, block) in text.split("```").enumerate() {
        let prose = if at % 2 == 0 { block } else { "" };
        let outside_code: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("x");
        for rest in outside_code.split("](").skip(1) {
            found.extend(rest.split(')').next().map(str::to_owned));
        }
    }
    found
}

/// The anchor of a heading, as code hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = Vec::new();
    pages(&top, &mut all);
    let mut dead = Vec::new();
    for page in all {
        let text = fs::read_to_string(&page).expect("a page is text");
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let has_part = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                text.lines().filter_map(|l| l.strip_prefix('#')).any(|l| anchor(l.trim_start_matches('#')) == part)
            };
            if !target.exists() || !(part.is_empty() || has_part()) {
                dead.push(format!("{}: {link}", page.strip_prefix(&top).unwrap_or(&page).display()));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

//! The house rules that a compiler does not check: who may import whom, how long a file may be, what does not land.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 600;
const MODULES: [&str; 13] =
    ["meta", "env", "kinds", "security", "watch", "api", "controllers", "scheduler", "client", "node", "network", "dashboard", "cli"];

/// docs/ARCHITECTURE.md's import table. `lib.rs`, `main.rs` and `cli` may import everything.
fn may_import(module: &str) -> &'static [&'static str] {
    match module {
        "meta" => &[],
        "env" => &["orchd_store", "orchd_runtime"],
        "kinds" => &["meta"],
        "security" => &["meta", "kinds", "env"],
        "watch" => &["meta", "kinds", "env", "orchd_store"],
        "api" => &["meta", "kinds", "security", "watch", "env", "orchd_store", "client"],
        "controllers" | "scheduler" => &["meta", "kinds", "watch"],
        "controllers/driver" | "scheduler/driver" => &["meta", "kinds", "watch", "client", "env"],
        "client" => &["meta", "kinds", "env"],
        "network" => &["meta", "kinds", "env"],
        "node" => &["meta", "kinds", "client", "network", "orchd_runtime", "env"],
        "dashboard" => &["api"],
        other => panic!("{other} has no row in the import table"),
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn product_files() -> Vec<PathBuf> {
    ["src", "store/src", "runtime/src"].iter().flat_map(|d| rust_files(&root().join(d))).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The part of a file that goes into the product: up to its tests, if it ends with them, without comments.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = || text.lines().zip(text.lines().skip(1));
    let end = lines().position(|(l, next)| l.trim() == "#[cfg(test)]" && next.trim() == "mod tests {").unwrap_or(usize::MAX);
    text.lines().enumerate().take(end).filter(|(_, l)| !l.trim_start().starts_with("//")).map(|(n, l)| (n + 1, l))
}

/// Modules that a line names by `crate::module` or by the name of one of our crates.
fn named_modules(line: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in line.split("crate::").skip(1) {
        let names: Vec<&str> = match part.strip_prefix('{') {
            Some(list) => list.split(['}']).next().unwrap_or_default().split(',').map(str::trim).collect(),
            None => vec![part],
        };
        for name in names {
            let word: String = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if MODULES.contains(&word.as_str()) {
                found.insert(word);
            }
        }
    }
    for name in ["orchd_store", "orchd_runtime"] {
        if line.contains(name) {
            found.insert(name.into());
        }
    }
    found
}

#[test]
fn no_module_reaches_backward() {
    let mut wrong = Vec::new();
    for path in rust_files(&root().join("src")) {
        let relative = path.strip_prefix(root().join("src")).expect("listed below src").to_owned();
        let module = relative.components().next().expect("a file").as_os_str().to_string_lossy().replace(".rs", "");
        if matches!(module.as_str(), "lib" | "main" | "cli") {
            continue;
        }
        let driver = relative.to_string_lossy().contains("/driver") || relative.file_name().is_some_and(|n| n == "testing.rs");
        let row =
            if driver && matches!(module.as_str(), "controllers" | "scheduler") { format!("{module}/driver") } else { module.clone() };
        let allowed = may_import(&row);
        let text = fs::read_to_string(&path).expect("readable");
        for (line_number, line) in product_lines(&text) {
            for name in named_modules(line) {
                if name != module && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{}:{line_number}: {row} may not import {name}", shown(&path)));
                }
            }
        }
    }
    for (dir, foreign) in [("store/src", ["orchd_runtime", "orchd::"]), ("runtime/src", ["orchd_store", "orchd::"])] {
        for path in rust_files(&root().join(dir)) {
            let text = fs::read_to_string(&path).expect("readable");
            for (line_number, line) in product_lines(&text).filter(|(_, l)| foreign.iter().any(|f| l.contains(f))) {
                wrong.push(format!("{}:{line_number}: {dir} knows nothing of ours: {line}", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// True if the line names the crate, and not a module of ours that bears its name.
fn names_crate(line: &str, library: &str) -> bool {
    !line.contains("crate::")
        && line.match_indices(library).any(|(at, _)| !line[..at].ends_with(|c: char| c == ':' || c == '_' || c.is_ascii_alphanumeric()))
}

#[test]
fn libraries_stay_in_their_rooms() {
    let rooms = [
        ("openraft", "store/src/raft"),
        ("sled::", "store/src/engine"),
        ("libcontainer::", "runtime/src/sandbox"),
        ("bincode::", "store/src/codec"),
    ];
    let mut wrong = Vec::new();
    for path in product_files() {
        let name = shown(&path);
        let text = fs::read_to_string(&path).expect("readable");
        for (library, room) in rooms.iter().filter(|(_, room)| !name.starts_with(room)) {
            for (line_number, _) in product_lines(&text).filter(|(_, l)| names_crate(l, library) && !l.contains('"')) {
                wrong.push(format!("{name}:{line_number}: {library} is named in {room} alone"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_hold_one_thing_each() {
    let long: Vec<String> = product_files()
        .iter()
        .filter_map(|p| {
            let lines = fs::read_to_string(p).expect("readable").lines().count();
            (lines > MAX_LINES).then(|| format!("{} has {lines} lines", shown(p)))
        })
        .collect();
    assert!(long.is_empty(), "files over {MAX_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn nothing_unfinished_lands() {
    let banned = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ign", "ore"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    let mut wrong = Vec::new();
    for path in product_files().into_iter().chain(rust_files(&root().join("tests"))) {
        let text = fs::read_to_string(&path).expect("readable");
        for (n, line) in text.lines().enumerate().filter(|(_, l)| banned.iter().any(|b| l.contains(b))) {
            wrong.push(format!("{}:{}: {}", shown(&path), n + 1, line.trim()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_product_does_not_unwrap() {
    let mut wrong = Vec::new();
    for path in product_files()
        .into_iter()
        .filter(|p| !shown(p).contains("test") && !shown(p).ends_with("fakes.rs") && !shown(p).ends_with("model.rs"))
    {
        let text = fs::read_to_string(&path).expect("readable");
        for (n, line) in product_lines(&text).filter(|(_, l)| l.contains(".unwrap()")) {
            wrong.push(format!("{}:{n}: {}", shown(&path), line.trim()));
        }
    }
    assert!(wrong.is_empty(), "unwrap without a reason:\n{}", wrong.join("\n"));
}

/// What .cargo/deny.toml bans, for machines without cargo-deny; and nothing from outside the registry.
#[test]
fn dependencies_come_from_the_registry_and_none_is_banned() {
    let deny = fs::read_to_string(root().join(".cargo/deny.toml")).expect("readable");
    let banned: Vec<&str> = deny.lines().filter_map(|l| l.trim().strip_prefix("{ crate = \"")?.split('"').next()).collect();
    assert!(banned.len() >= 5, "the bans of .cargo/deny.toml were not understood");
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("readable");
    let value = |line: &str, key: &str| line.strip_prefix(key).map(|v| v.trim_matches('"').to_owned());
    let wrong: Vec<String> = lock
        .lines()
        .filter(|l| {
            value(l, "name = ").is_some_and(|n| banned.contains(&n.as_str()))
                || value(l, "source = ").is_some_and(|s| s != "registry+https://github.com/rust-lang/crates.io-index")
        })
        .map(str::to_owned)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

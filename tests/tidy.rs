//! Style as a test: which module may import which, what pure modules may not touch, and that files stay of a size to read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom (DESIGN section 9). A module not named here may import nothing of the crate.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("mutation", &[]),
    ("clock", &["model"]),
    ("shutdown", &[]),
    ("failpoint", &[]),
    ("tls", &[]),
    ("telemetry", &["clock", "model"]),
    ("config", &["model"]),
    ("role", &["config", "rpc"]),
    ("health", &["config", "model", "role", "rpc"]),
    ("cli", &["config", "model"]),
    ("client", &["cli", "clock", "model", "schedule"]),
    ("schedule", &["model"]),
    ("ledger", &["model", "mutation"]),
    ("consensus", &["model", "mutation"]),
    ("rpc", &["model"]),
    ("peers", &["clock", "consensus", "model", "rpc", "shutdown"]),
    ("store", &["model", "tls"]),
    ("agent", &["clock", "model", "mutation", "rpc"]),
    ("http", &["engine::api", "ledger", "model", "schedule", "store"]),
    ("engine::api", &["model", "store"]),
    ("engine::clock", &["model", "mutation"]),
    ("engine::placement", &["ledger", "model"]),
    ("engine::leases", &["engine::clock", "engine::staging", "ledger", "model", "mutation"]),
    ("engine::staging", &["ledger", "model"]),
    ("engine::timers", &["ledger", "model", "schedule"]),
    ("engine::policy", &["engine::placement", "ledger", "model", "schedule"]),
    (
        "engine::core",
        &["engine::placement", "engine::policy", "engine::staging", "engine::timers", "ledger", "model", "mutation", "schedule"],
    ),
    // Only the driver joins store, consensus and rpc.
    (
        "engine::driver",
        &[
            "clock",
            "consensus",
            "engine::api",
            "engine::clock",
            "engine::core",
            "engine::leases",
            "engine::placement",
            "engine::policy",
            "engine::staging",
            "ledger",
            "model",
            "mutation",
            "rpc",
            "shutdown",
            "store",
        ],
    ),
    (
        "standalone",
        &[
            "agent",
            "config",
            "consensus",
            "engine::api",
            "engine::core",
            "engine::driver",
            "http",
            "model",
            "role",
            "rpc",
            "shutdown",
            "store",
        ],
    ),
    (
        "controller",
        &[
            "config",
            "consensus",
            "engine::api",
            "engine::core",
            "engine::driver",
            "http",
            "ledger",
            "model",
            "peers",
            "role",
            "rpc",
            "shutdown",
            "store",
        ],
    ),
    ("worker", &["agent", "config", "model", "role", "rpc", "shutdown"]),
];

/// No tokio, clock, randomness or IO.
const PURE: &[&str] = &[
    "src/model/",
    "src/schedule/",
    "src/ledger/",
    "src/engine/core.rs",
    "src/engine/timers.rs",
    "src/engine/policy.rs",
    "src/engine/leases.rs",
    "src/engine/placement.rs",
    "src/engine/staging.rs",
    "src/engine/clock.rs",
    "src/agent/runs/",
];

/// What a pure module has no use for.
const IMPURE: &[&str] = &[
    "tokio",
    "crate::clock",
    "std::fs",
    "std::net",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "new_v4",
    "new_v7",
    "rustix",
    "rand::",
    "getrandom",
];

/// Words that have no place in finished code, and what to do instead.
const BANNED: &[(&str, &str)] = &[
    (concat!("todo", "!("), "write it"),
    (concat!("unimplemented", "!("), "write it"),
    (concat!("dbg", "!("), "use log"),
    (concat!("unbounded", "_channel"), "every queue is bounded and named"),
    (concat!("process::", "exit("), "return an exit code from main, so that everything is dropped"),
    (concat!(" println", "!("), "use log"),
];

const LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 140;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.sort();
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The part of a file that is the product: up to its tests, without comments.
fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("\n#[cfg(test)]").next().unwrap_or(text);
    code.lines().enumerate().map(|(number, line)| (number + 1, line.split("//").next().unwrap_or(line)))
}

fn module(path: &str) -> String {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts = inside.split('/');
    let first = parts.next().unwrap_or_default().to_owned();
    match (first.as_str(), parts.next()) {
        ("engine", Some(second)) if second != "mod" => format!("engine::{second}"),
        _ => first,
    }
}

/// `crate::a::b` in a line, as a module of the table.
fn imports(line: &str) -> Vec<String> {
    line.split("crate::")
        .skip(1)
        .map(|rest| {
            let path: Vec<&str> =
                rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').next().unwrap_or("").split("::").collect();
            match path[..] {
                ["engine", second, ..] if second.chars().all(|c| c.is_lowercase() || c == '_') => format!("engine::{second}"),
                [first, ..] => first.to_owned(),
                [] => String::new(),
            }
        })
        .collect()
}

#[test]
fn imports_go_the_one_allowed_way() {
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let own = module(&path);
        if matches!(own.as_str(), "main" | "lib" | "engine") {
            continue;
        }
        let Some(allowed) = allowed.get(own.as_str()) else {
            wrong.push(format!("{path}: the module `{own}` has no place in the table of this test"));
            continue;
        };
        for (number, line) in product(&text) {
            for import in imports(line) {
                if import != own && !allowed.contains(&import.as_str()) {
                    wrong.push(format!("{path}:{number}: `{own}` may not import `{import}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_touch_no_clock_no_randomness_and_no_io() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources("src") {
        if !PURE.iter().any(|pure| path.starts_with(pure)) || path.ends_with("/tests.rs") {
            continue;
        }
        seen += 1;
        for (number, line) in product(&text) {
            for impure in IMPURE.iter().filter(|impure| line.contains(**impure)) {
                wrong.push(format!("{path}:{number}: `{impure}` in a pure module"));
            }
        }
    }
    assert!(seen > 30, "the pure modules have moved: {seen}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn banned_words_stay_out_and_a_panic_needs_a_proof() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        if path.ends_with("/tests.rs") {
            continue;
        }
        for (number, line) in product(&text) {
            for (word, instead) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
                wrong.push(format!("{path}:{number}: `{word}`: {instead}"));
            }
            if line.contains(".unwrap()") {
                wrong.push(format!("{path}:{number}: `.unwrap()`: handle it, or state the proof in `.expect(\"…\")`"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_are_of_a_size_to_read_and_open_with_what_they_are_for() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches")) {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{path}: {lines} lines; which noun hides in it?"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{path}: it doesn't say what it is for"));
        }
        for (number, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            // A text can't be broken, and rustfmt doesn't break a list within a macro or a bound.
            let is_prose = line.trim_start().starts_with("//");
            if columns > COLUMNS_MAX && is_prose {
                wrong.push(format!("{path}:{}: {columns} columns", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_of_the_protocol_has_its_line_in_the_architecture_and_its_place_in_the_code() {
    const RULES: &[&str] = &[
        "A1", "A2", "A3", "A4", "A5", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B12", "C1", "C2", "C3", "C5", "C6",
        "D1", "D2", "E1", "E2", "E3", "E4", "E5", "F1", "F2", "F3", "F4", "F5", "G1", "H2", "H3",
    ];
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let code: String = sources("src").into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n");
    // `PROTOCOL B5`, or further rules in the same breath: `PROTOCOL B1, B2`.
    let named: Vec<&str> = code
        .split("PROTOCOL")
        .skip(1)
        .flat_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !" ,–".contains(c)).unwrap_or(rest.len().min(40));
            rest[..end].split([' ', ',', '–'])
        })
        .collect();
    let missing = |rule: &&&str| !architecture.contains(&format!("PROTOCOL {rule} ")) || !named.contains(rule);
    let missing: Vec<_> = RULES.iter().filter(missing).collect();
    assert!(missing.is_empty(), "without a line in ARCHITECTURE.md (`PROTOCOL C3 …`), or without a place in the code: {missing:?}");
}

#[test]
fn no_file_of_the_sources_is_dead() {
    let files = sources("src");
    for (path, _) in &files {
        let (folder, name) = path.rsplit_once('/').unwrap();
        let name = name.trim_end_matches(".rs");
        if matches!(path.as_str(), "src/main.rs" | "src/lib.rs") {
            continue;
        }
        let (parents, child) = match name {
            "mod" => {
                let (above, child) = folder.rsplit_once('/').unwrap();
                (vec![format!("{above}/mod.rs"), format!("{above}/lib.rs")], child)
            }
            _ => (vec![format!("{folder}/mod.rs"), format!("{folder}/lib.rs"), format!("{folder}.rs")], name),
        };
        let declares = |text: &str| text.lines().any(|line| line.trim_end().ends_with(&format!("mod {child};")));
        let is_declared = files.iter().any(|(file, text)| parents.contains(file) && declares(text));
        assert!(is_declared, "{path} is not part of the program");
    }
}

//! Rules of the code base that a test can check: which module may import which, how files are named and begin, which tests may
//! do what, and whether `proxy.toml`, the examples and the documents are correct.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tidegate::config::{self, Config};
use tidegate::snapshot::{BuildMode, Snapshot};

use crate::support::proxy;

/// A module imports only from levels below its own, and from modules that stand before it on its own level.
/// `ARCHITECTURE.md` has the same table.
const LEVELS: [&[&str]; 15] = [
    &[
        "bounded_file",
        "buffer_pool",
        "percent",
        "secret",
        "stable_hash",
        "state_file",
        "template",
        "text",
        "log",
        "metrics",
        "net",
        "activity",
        "body",
        "file_watch",
    ],
    &[
        "forwarded",
        "htpasswd",
        "registry",
        "target",
        "tls",
        "upstream",
        "www_authenticate",
    ],
    &["acme", "auth", "connection"],
    &["access"],
    &["forward"],
    &["access_log", "rejection", "site"],
    &["service"],
    &["config"],
    &["snapshot"],
    &["state"],
    &["admin", "check", "fuzzing"],
    &["server"],
    &["import"],
    &["cli"],
    &["main"],
];

#[test]
fn a_module_imports_only_from_lower_levels() {
    let (mut broken, mut seen) = (Vec::new(), 0);
    for file in sources() {
        let from = file.module.first().map_or("", String::as_str);
        if from == "lib" {
            continue;
        }
        let Some(level) = level(from) else {
            broken.push(format!("{}: {from} has no level", file.shown));
            continue;
        };
        for import in imports(&file) {
            seen += 1;
            match import.to.as_deref() {
                None => broken.push(format!(
                    "{}:{}: name the module behind crate:: or super::",
                    file.shown, import.line
                )),
                Some(to) if to == from || comes_before(to, from) => {}
                Some(to) => broken.push(format!(
                    "{}:{}: {from} (level {level}) may not import {to}, which stands after it in the table",
                    file.shown, import.line
                )),
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(seen > 80, "only {seen} imports were found");
}

/// Two files that import each other cannot be understood one after the other. An import counts for the file that defines the
/// name, not for a file that re-exports it.
#[test]
fn no_files_import_each_other() {
    let sources = sources();
    let files = Files::new(&sources);
    let cycles = files.cycles();
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
    assert!(files.imports.len() > 100, "too few imports were found");
}

#[test]
fn an_import_cycle_through_a_re_export_is_found() {
    let file = |module: &str, text: &str| Source {
        shown: format!("src/{}.rs", module.replace("::", "/")),
        module: module.split("::").map(str::to_owned).collect(),
        text: text.to_owned(),
    };
    let with_cycle = [
        file("a", "mod b;\nmod c;\npub use b::B;\npub fn own() {}"),
        file("a::b", "use super::c::C;\npub struct B;"),
        file("a::c", "use crate::a::{B, own};\npub struct C;"),
    ];
    let cycles = Files::new(&with_cycle).cycles();
    assert_eq!(cycles, ["src/a/b.rs <-> src/a/c.rs"]);
    let without = [
        file("a", "mod b;\nmod c;\npub use b::B;"),
        file("a::b", "pub struct B;"),
        file("a::c", "use super::B;"),
    ];
    assert_eq!(Files::new(&without).cycles(), Vec::<String>::new());
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text = "use crate::{\n    a::B,\n    c,\n};\nuse super::super::d;\nfn f() { super::super::super::e::g(\"crate::no\") } // crate::no\n\
                /* crate::no /* crate::no */ */ const C: char = '\"'; type T<'a> = crate::h<'a>; use crate::*;\npub(in crate::x) fn g() {}\n#[cfg(test)]\nuse crate::no;";
    let file = Source {
        shown: "src/x/y/z.rs".to_owned(),
        module: ["x", "y", "z"].map(str::to_owned).to_vec(),
        text: text.to_owned(),
    };
    let found: Vec<_> = imports(&file)
        .into_iter()
        .map(|import| (import.line, import.to.unwrap_or_else(|| "?".to_owned())))
        .collect();
    let expected = [(1, "a"), (1, "c"), (6, "e"), (7, "h"), (7, "?"), (8, "x")];
    assert_eq!(found, expected.map(|(line, to)| (line, to.to_owned())));
}

#[test]
fn the_table_of_modules_agrees_with_architecture_md_and_lib_rs() {
    // rustfmt sorts the modules of a group, so the order within a level is compared only with ARCHITECTURE.md.
    let lib = read("src/lib.rs");
    let groups = lib.split("\n// Level ").skip(1);
    let declared: Vec<BTreeSet<_>> = groups
        .map(|group| {
            let lines = group.lines().map(|line| line.trim_start_matches("pub "));
            lines
                .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
                .collect()
        })
        .collect();
    let levels: Vec<BTreeSet<_>> = LEVELS
        .iter()
        .filter(|level| **level != ["main"])
        .map(|level| level.iter().copied().collect())
        .collect();
    assert_eq!(declared, levels, "the mod lines of src/lib.rs");
    let architecture = read("ARCHITECTURE.md");
    for (level, modules) in LEVELS.iter().enumerate() {
        let row = architecture
            .lines()
            .find(|line| line.starts_with(&format!("| {level} ")))
            .unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for level {level}"));
        let named: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        assert_eq!(named, **modules, "level {level} in ARCHITECTURE.md");
    }
    for file in sources() {
        let name = file.module.first().map_or("", String::as_str);
        assert!(
            name == "lib" || level(name).is_some(),
            "{} has no level",
            file.shown
        );
    }
}

#[test]
fn every_source_file_begins_with_a_description() {
    let without_description: Vec<_> = sources()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.shown)
        .collect();
    assert!(
        without_description.is_empty(),
        "no //! at the top: {without_description:?}"
    );
}

/// A tidegate that is installed on this machine uses the default directories /var/lib/tidegate and /run/tidegate, which a test
/// must not touch. `support::proxy` checks the same for a proxy in the process of the test.
#[test]
fn a_process_of_a_test_never_uses_the_directories_of_an_installed_tidegate() {
    // These files run no command that reads a configuration.
    let others = ["htpasswd_command.rs", "installed.rs", "rules.rs"];
    let mut starting = 0;
    for path in all_below("tests/it") {
        let name = path.file_name().unwrap_or_default();
        let text = fs::read_to_string(&path).unwrap();
        if others.iter().any(|other| name == *other) || !text.contains("CARGO_BIN_EXE_tidegate") {
            continue;
        }
        assert!(
            text.contains("with_own_directories("),
            "{} starts a process that may use /var/lib/tidegate",
            path.display()
        );
        starting += 1;
    }
    assert!(starting >= 5, "{starting}");
}

#[test]
fn no_file_has_a_catch_all_name() {
    for file in all_below("src").into_iter().chain(all_below("tests/it")) {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let words = [
            "utils",
            "util",
            "helpers",
            "helper",
            "common",
            "misc",
            "types",
            "constants",
            "globals",
            "mod",
        ];
        assert!(!words.contains(&stem.as_ref()), "{}", file.display());
    }
}

#[test]
fn every_dependency_has_a_reason_in_a_comment() {
    let manifest = read("Cargo.toml");
    let section = manifest
        .split("[dependencies]\n")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .unwrap();
    let without_reason: Vec<_> = section
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.contains(" # "))
        .collect();
    assert!(
        section.lines().count() > 10 && without_reason.is_empty(),
        "{without_reason:?}"
    );
    let lock = read("Cargo.lock");
    for banned in ["openssl-sys", "rustls-pemfile", "htpasswd-verify"] {
        assert!(read("deny.toml").contains(&format!("crate = \"{banned}\"")));
        assert!(
            !lock.contains(&format!("name = \"{banned}\"")),
            "{banned} is in the tree"
        );
    }
}

#[test]
fn the_reference_documents_every_key_with_its_default_and_range() {
    let faults = config::reference_faults(&read("proxy.toml"));
    assert!(faults.is_empty(), "proxy.toml: {}", faults.join("\n"));
}

#[test]
fn the_reference_is_accepted_with_and_without_its_commented_keys() {
    let text = read("proxy.toml");
    for text in [text.clone(), uncommented(&text)] {
        let dir = folder_with_files();
        let file = dir.path().join("proxy.toml");
        // The test must not depend on the directories of the service on this machine.
        let own = dir.path().to_str().unwrap();
        let text = text
            .replace("/var/log/tidegate", own)
            .replace("/run/tidegate", own)
            .replace("/var/www/certbot", own)
            .replace("/var/lib/tidegate", "state");
        fs::write(&file, text).unwrap();
        let (config, mut problems) = config::load(&file);
        let config = config.unwrap_or_else(|| panic!("{problems}"));
        let built = Snapshot::build(&config, None, BuildMode::Check, &mut problems);
        assert!(built.is_some() && problems.is_empty(), "{problems}");
    }
}

#[test]
fn the_defaults_in_the_reference_are_the_defaults_of_the_code() {
    let text = read("proxy.toml");
    let implied = parse("proxy.toml", &text);
    let mut written = parse("proxy.toml", &uncommented(&text));
    // The default is the number of cores; the reference shows an example.
    written.hashing.threads = implied.hashing.threads;
    // The default is empty; the reference shows an example.
    written.service.trusted_proxies = implied.service.trusted_proxies.clone();
    assert_eq!(written.connection, implied.connection);
    assert_eq!(written.service, implied.service);
    assert_eq!(written.hashing, implied.hashing);
    assert_eq!(written.tls, implied.tls);
    let numbers = |config: &Config| {
        (
            config.connections,
            config.connections_per_client,
            config.h2_memory,
            config.basic_size,
            (config.drain, config.drain_delay),
            config.log.level,
            config.log.format,
            config.log.access.is_some(),
        )
    };
    assert_eq!(numbers(&written), numbers(&implied));
    let (route, bare) = (&written.sites[0].routes[0], &implied.sites[0].routes[0]);
    assert_eq!(route.upstream.settings, bare.upstream.settings);
    assert_eq!(
        (route.is_registry, route.max_body),
        (bare.is_registry, bare.max_body)
    );
    // The long form of an upstream has the same timeouts.
    let mut long = written.sites[1].routes[0].upstream.settings.clone();
    long.endpoints = bare.upstream.settings.endpoints.clone();
    assert!(long.each.server_name.take().is_some());
    assert_eq!(long, bare.upstream.settings);
}

#[test]
fn every_example_is_accepted() {
    let mut count = 0;
    for path in all_below("examples") {
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            count += 1;
            let shown = path
                .strip_prefix(root())
                .unwrap_or(&path)
                .display()
                .to_string();
            assert!(!parse(&shown, &read(&shown)).sites.is_empty());
        }
    }
    assert!(count >= 3, "{count} examples");
}

#[test]
fn every_toml_block_of_the_documents_is_accepted() {
    let mut count = 0;
    for (name, text) in documents() {
        for block in blocks(&text, "toml") {
            count += 1;
            assert!(!parse(&name, block).sites.is_empty(), "{name}: {block}");
        }
    }
    assert!(count >= 6, "{count} blocks");
}

#[test]
fn every_link_of_the_documents_has_a_target() {
    let headings = |text: &str| -> Vec<String> {
        let titles = text.lines().filter(|line| line.starts_with('#'));
        let slug = |title: &str| {
            let kept = |c: char| c.is_alphanumeric() || c == ' ' || c == '-';
            let words: String = title.chars().filter(|c| kept(*c)).collect();
            words.trim().to_lowercase().replace(' ', "-")
        };
        titles.map(slug).collect()
    };
    let mut broken = Vec::new();
    for (name, text) in documents() {
        let folder = root().join(&name).parent().unwrap().to_owned();
        let links = text.split("](").skip(1);
        for link in links.map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                root().join(&name)
            } else {
                folder.join(path)
            };
            let is_there = target.exists()
                && (heading.is_empty()
                    || headings(&fs::read_to_string(&target).unwrap())
                        .iter()
                        .any(|own| own == heading));
            if !is_there {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_key_that_the_documents_name_exists() {
    let tables = [
        "listen.",
        "log.",
        "state.",
        "tls.",
        "limits.",
        "site.",
        "route.",
        "acme.",
        "throttle.",
    ];
    let keys = config::key_paths();
    let mut unknown = Vec::new();
    for (name, text) in documents() {
        for quoted in quoted(&text) {
            let key = quoted.split([' ', '=']).next().unwrap_or_default();
            let path = key
                .strip_prefix("route.")
                .map_or_else(|| key.to_owned(), |rest| format!("site.route.{rest}"));
            if !keys.contains(&path) && tables.iter().any(|table| key.starts_with(table)) {
                unknown.push(format!("{name}: {key}"));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

/// The test appends `--help` to each command line. The program parses the arguments before it, so an unknown subcommand or
/// option is an error, and then prints the help and ends.
#[test]
fn every_command_that_the_documents_name_is_parsed() {
    let (mut count, mut wrong) = (0, Vec::new());
    for (name, text) in documents() {
        for line in blocks(&text, "sh").into_iter().flat_map(str::lines) {
            let line = line.split(" #").next().unwrap_or(line);
            let line = line.split(" > ").next().unwrap_or(line);
            let words: Vec<_> = line.split_whitespace().collect();
            let is_first = |word: &&str| !["sudo", "-u"].contains(word);
            // `sudo -u tidegate tidegate check` runs the second `tidegate`.
            let command = match words.iter().position(is_first) {
                Some(at) if words.get(at) == Some(&"tidegate") => {
                    let is_user = words.get(at + 1) == Some(&"tidegate");
                    &words[at + 1 + usize::from(is_user)..]
                }
                _ => continue,
            };
            count += 1;
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
                .args(command)
                .arg("--help")
                .output()
                .unwrap();
            if !output.status.success() {
                let error_output = String::from_utf8_lossy(&output.stderr).into_owned();
                wrong.push(format!("{name}: {line}: {error_output}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 8, "{count} commands");
}

/// The names of the documents for users and developers, relative to the root, and their texts.
fn documents() -> Vec<(String, String)> {
    let mut names: Vec<_> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ]
    .map(str::to_owned)
    .into();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    let read = |name: String| {
        let text = read(&name);
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// The contents of the fenced code blocks with this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let starts = text.split(fence.as_str()).skip(1);
    starts
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

/// A sleep is a guess about time. A test waits for a condition instead.
#[test]
fn no_test_calls_sleep_itself() {
    let mut found = Vec::new();
    for path in all_below("tests/it") {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let is_exempt = ["tests/it/support.rs", "tests/it/rules.rs"].contains(&shown.as_str());
        for (number, line) in text.lines().enumerate() {
            if !is_exempt
                && ["park_timeout(", "thread::sleep("]
                    .iter()
                    .any(|call| line.contains(call))
            {
                found.push(format!("{shown}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(
        found.is_empty(),
        "use eventually or pause:\n{}",
        found.join("\n")
    );
}

/// A proxy that treats clients by their `User-Agent` would treat the next client wrongly.
#[test]
fn no_code_depends_on_the_user_agent() {
    // A filtered list needs several requests to the registry, which have the `User-Agent` of the client.
    let forwarded = [
        "agent: parts.headers.get(header::USER_AGENT),",
        "parts.headers.insert(header::USER_AGENT, agent.clone());",
    ];
    let (mut found, mut allowed) = (Vec::new(), 0);
    for file in sources() {
        for (number, line) in file.production().lines().enumerate() {
            let words = line.to_lowercase().replace('_', "-");
            if !words.contains("user-agent") {
                continue;
            }
            // The importer finds the name in nginx configurations, the health checks send a `User-Agent` of their own, and
            // the access log records the field.
            let is_exempt = file.shown.starts_with("src/import/nginx/")
                || file.shown == "src/access_log.rs"
                || (file.shown == "src/upstream/endpoint.rs" && !line.contains("get("));
            if is_exempt {
                continue;
            }
            if file.shown == "src/service/catalog.rs" && forwarded.contains(&line.trim()) {
                allowed += 1;
            } else {
                found.push(format!("{}:{}: {line}", file.shown, number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(allowed, forwarded.len());
}

#[test]
fn every_yes_in_the_table_of_clients_names_an_existing_test() {
    let text = read("docs/clients.md");
    let (table, tests) = text.split_once("\n## Which test shows what\n").unwrap();
    let header = table.lines().find(|line| line.starts_with("| | ")).unwrap();
    let operations = header.trim_matches('|').split('|').count() - 1;
    let mut shown = BTreeSet::new();
    let (mut client, mut missing) = ("", Vec::new());
    for line in tests.lines() {
        if let Some(name) = line
            .strip_prefix("- ")
            .and_then(|line| line.strip_suffix(':'))
        {
            client = name;
        }
        let Some((what, test)) = line.rsplit_once(": `") else {
            continue;
        };
        if !line.trim_start().starts_with("- ") {
            continue;
        }
        let test = test.trim_end_matches('`');
        if !is_real_test(test) {
            missing.push(test.to_owned());
        }
        if let Some(what) = what.strip_prefix("  - ") {
            shown.extend(what.split(", ").map(|what| (client, what.to_owned())));
        }
    }
    assert!(
        missing.is_empty(),
        "no such tests in tests/real: {missing:?}"
    );
    let mut count = 0;
    for row in table
        .lines()
        .filter(|line| line.starts_with("| ") && *line != header)
    {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), operations + 1, "{row}");
        let claimed = cells.iter().filter(|cell| **cell == "yes").count();
        let found = shown
            .iter()
            .filter(|(client, _)| *client == cells[0])
            .count();
        assert_eq!(claimed, found, "{row}");
        count += 1;
    }
    assert!(count >= 8, "{count} clients");
}

/// `tokens::name` is in tests/real/tokens.rs, `clients::docker::name` in tests/real/clients/docker.rs.
fn is_real_test(test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else {
        return false;
    };
    let file = root().join(format!("tests/real/{}.rs", module.replace("::", "/")));
    let text = fs::read_to_string(file).unwrap_or_default();
    text.contains(&format!("#[test]\nfn {name}() {{"))
}

/// One file of `src` that does not belong to a unit test.
struct Source {
    shown: String,
    /// `["config", "url"]` for `src/config/url.rs`.
    module: Vec<String>,
    text: String,
}

struct Import {
    line: usize,
    /// The imported module, without its submodules; `None` for a glob.
    to: Option<String>,
}

impl Source {
    /// The path of the module from the root of the crate, whose own path is empty.
    fn path(&self) -> Vec<String> {
        match self.module.as_slice() {
            [name] if name == "lib" => Vec::new(),
            path => path.to_vec(),
        }
    }

    /// The text before the unit tests.
    fn production(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or(&self.text)
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut sources = Vec::new();
    for path in all_below("src") {
        let inner = path.strip_prefix(&src).unwrap().with_extension("");
        let module: Vec<_> = inner
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if !module.iter().any(|part| part == "tests") {
            sources.push(Source {
                shown: format!("src/{}.rs", inner.display()),
                module,
                text: fs::read_to_string(&path).unwrap(),
            });
        }
    }
    assert!(sources.len() > 20, "too few files in {}", src.display());
    sources
}

/// The source files, and which file imports a name that another file defines.
struct Files<'a> {
    sources: &'a [Source],
    /// The names that the `use` lines of each module import, by the path of the module.
    uses: BTreeMap<Vec<String>, Vec<Use>>,
    /// Pairs of positions in `sources`: the importing file and the defining one.
    imports: BTreeSet<(usize, usize)>,
}

/// One name of a `use` line.
struct Use {
    name: String,
    /// The path from the root of the crate.
    path: Vec<String>,
    /// Whether this is `pub use`, which re-exports a name and does not depend on the file that defines it.
    is_reexport: bool,
}

impl<'a> Files<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let mut files = Self {
            sources,
            uses: BTreeMap::new(),
            imports: BTreeSet::new(),
        };
        for file in sources {
            let uses = use_paths(&code_only(file.production()))
                .into_iter()
                .filter_map(|(path, is_reexport)| {
                    let path = files.absolute(&file.path(), &path)?;
                    let name = path.last()?.clone();
                    Some(Use {
                        name,
                        path,
                        is_reexport,
                    })
                });
            let uses = uses.collect();
            files.uses.insert(file.path(), uses);
        }
        for (from, file) in sources.iter().enumerate() {
            let uses = files.uses[&file.path()].iter();
            for taken in uses.filter(|taken| !taken.is_reexport) {
                if let Some(to) = files.defining_file(&taken.path, 0)
                    && to != from
                {
                    files.imports.insert((from, to));
                }
            }
        }
        files
    }

    /// The path from the root of the crate; `None` for a path into another crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let base = match path.first()?.as_str() {
            "crate" | "tidegate" => return Some(path[1..].to_vec()),
            "self" => module.to_vec(),
            "super" => module[..module.len().checked_sub(ups)?].to_vec(),
            child => {
                let child = [module, &[child.to_owned()]].concat();
                self.position(&child)?;
                return Some([module, path].concat());
            }
        };
        Some([&base, &path[ups.max(1)..]].concat())
    }

    fn position(&self, module: &[String]) -> Option<usize> {
        self.sources.iter().position(|file| file.path() == module)
    }

    /// The file that defines the item at `path`. A re-export is followed to the definition.
    fn defining_file(&self, path: &[String], depth: usize) -> Option<usize> {
        if let Some(module) = self.position(path) {
            return Some(module);
        }
        let (module, rest) = (0..path.len())
            .rev()
            .map(|end| path.split_at(end))
            .find(|(module, _)| self.position(module).is_some())?;
        let name = rest.first()?;
        let own = [module, std::slice::from_ref(name)].concat();
        let brought = self.uses[module].iter();
        let mut brought = brought.filter(|brought| brought.name == *name && brought.path != own);
        match brought.next_back() {
            Some(Use { path, .. }) if depth < 8 => self.defining_file(path, depth + 1),
            _ => self.position(module),
        }
    }

    /// Each pair of files that import each other, directly or through other files.
    fn cycles(&self) -> Vec<String> {
        let reached: Vec<BTreeSet<usize>> = (0..self.sources.len())
            .map(|start| {
                let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
                while let Some(from) = open.pop() {
                    let next = self.imports.range((from, 0)..(from + 1, 0));
                    open.extend(next.map(|(_, to)| *to).filter(|to| seen.insert(*to)));
                }
                seen
            })
            .collect();
        self.imports
            .iter()
            .filter(|(from, to)| reached[*to].contains(from))
            .filter(|(from, to)| from < to || !self.imports.contains(&(*to, *from)))
            .map(|(from, to)| {
                let both = self.imports.contains(&(*to, *from));
                let arrow = if both { "<->" } else { "->" };
                let [from, to] = [from, to].map(|at| self.sources[*at].shown.as_str());
                format!("{from} {arrow} {to}")
            })
            .collect()
    }
}

/// Every path of the unindented `use` lines of a file, and whether the line is a re-export.
fn use_paths(code: &str) -> Vec<(Vec<String>, bool)> {
    let mut paths = Vec::new();
    for line in code.match_indices("use ") {
        let (before, after) = (&code[..line.0], &code[line.0 + 4..]);
        let start = before.rsplit('\n').next().unwrap();
        let is_use = start.is_empty() || start.starts_with("pub") && start.ends_with(' ');
        if is_use && let Some((tree, _)) = after.split_once(';') {
            let mut found = Vec::new();
            flatten(tree, &[], &mut found);
            paths.extend(found.into_iter().map(|path| (path, !start.is_empty())));
        }
    }
    paths
}

/// Expands a `use` tree: `a::{b, c::d as e}` becomes `a::b` and `a::c::d`.
fn flatten(tree: &str, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let (head, list) = match tree.split_once('{') {
        Some((head, list)) => (
            head,
            Some(list.rsplit_once('}').map_or(list, |(list, _)| list)),
        ),
        None => (tree, None),
    };
    let head = head.split(" as ").next().unwrap();
    let mut path = prefix.to_vec();
    path.extend(
        head.split("::")
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty() && (part != "self" || prefix.is_empty())),
    );
    let Some(list) = list else {
        paths.push(path);
        return;
    };
    let (mut depth, mut item) = (0, String::new());
    for c in list.chars().chain([',']) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !item.trim().is_empty() {
                    flatten(&item, &path, paths);
                }
                item.clear();
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// Whether `module` stands before `other` in the table.
fn comes_before(module: &str, other: &str) -> bool {
    let place = |name| {
        LEVELS
            .iter()
            .flat_map(|level| level.iter())
            .position(|of| *of == name)
    };
    matches!((place(module), place(other)), (Some(own), Some(others)) if own < others)
}

/// Every path that leaves the top-level module of the file: by `crate::`, by `tidegate::`, or by as many `super::` as needed.
fn imports(file: &Source) -> Vec<Import> {
    let code = code_only(file.production());
    let mut imports = Vec::new();
    for start in ["crate::", "tidegate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let path = &code[at..];
            let mut rest = path.trim_start_matches("super::");
            let ups = (path.len() - rest.len()) / "super::".len();
            if start == "super::" && ups < file.module.len() {
                continue;
            }
            rest = rest.strip_prefix(start).unwrap_or(rest);
            let line = code[..at].matches('\n').count() + 1;
            let names = first_names(rest);
            imports.extend(names.into_iter().map(|to| Import { line, to }));
        }
    }
    // The loop finds the paths by their beginnings, so they are not yet in the order of the lines.
    imports.sort_by_key(|import| import.line);
    imports
}

/// The first names of a path such as `a::b`, or of a list such as `{a::b, c}`.
fn first_names(path: &str) -> Vec<Option<String>> {
    let Some(list) = path.strip_prefix('{') else {
        return vec![first_name(path)];
    };
    let (mut depth, mut item, mut names) = (0, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(first_name(&item));
                item.clear();
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
    if !item.trim().is_empty() {
        names.push(first_name(&item));
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path
        .trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// The text with spaces in place of its comments and literals. Line breaks stay, so that line numbers stay correct.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = match next {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            '\'' => char_literal(rest),
            'r' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_string(rest),
            _ => 0,
        };
        let blank = if skipped == 0 {
            next.len_utf8()
        } else {
            skipped
        };
        let (taken, after) = rest.split_at(blank);
        if skipped == 0 {
            code.push_str(taken);
        } else {
            code.extend(taken.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = after;
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match text.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return at + 1,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The length of a character literal such as `'a'` or `'\n'`; 0 for a lifetime such as `'a`.
fn char_literal(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => chars.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn raw_string(text: &str) -> usize {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    let Some(inner) = text[1 + hashes..].strip_prefix('"') else {
        return 0;
    };
    let end = format!("\"{}", "#".repeat(hashes));
    inner
        .find(&end)
        .map_or(text.len(), |at| 2 + hashes + at + end.len())
}

/// The text of `proxy.toml` with every commented-out key in effect. A comment in prose has a space after its `#`.
fn uncommented(text: &str) -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    let lines = text
        .lines()
        .map(|line| if is_key(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// The texts between single backticks, outside of code blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2))
}

fn parse(name: &str, text: &str) -> Config {
    let (config, problems) = config::parse(Path::new(name), text.as_bytes());
    assert!(problems.is_empty(), "{problems}");
    config.unwrap()
}

/// A directory with the files that `proxy.toml` names.
fn folder_with_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    let hosts = vec!["docker.example.com".to_owned()];
    let made = rcgen::generate_simple_self_signed(hosts).unwrap();
    for file in ["fullchain.pem", "clients.pem", "ca.pem", "client.pem"] {
        fs::write(dir.path().join(file), made.cert.pem()).unwrap();
    }
    let key = dir.path().join("privkey.pem");
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let client_key = dir.path().join("client.key");
    fs::copy(&key, &client_key).unwrap();
    let private: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let secret = dir.path().join("token-secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    for file in [&key, &client_key, &secret] {
        fs::set_permissions(file, private.clone()).unwrap();
    }
    // The hash has the lowest possible cost.
    let line = "alice:$2y$04$abcdefghijklmnopqrstuuRtmY6nHRFPHgwlWHYhiaI7C0kbmOdKu\n";
    proxy::write_private(&dir.path().join("htpasswd"), line);
    let grants =
        "[[grant]]\nto = [\"alice\"]\nrepositories = [\"alice/*\"]\nactions = [\"push\"]\n";
    fs::write(dir.path().join("grants.toml"), grants).unwrap();
    dir
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The source, TOML and unit files below a folder, in the order of their names.
fn all_below(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if ["rs", "toml", "service"]
                .iter()
                .any(|kind| path.extension().is_some_and(|extension| extension == *kind))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

//! All files as one tree: `include` replaced by what it names.
//!
//! Called by `nginx`. A file that is included and not here is a remark, since configurations are often moved to another
//! machine first; a file that the command line names must be there.

use std::path::{Path, PathBuf};

use crate::import::nginx::files::FileSource;
use crate::import::nginx::glob;
use crate::import::nginx::path;
use crate::import::nginx::tree;
use crate::import::nginx::tree::{Directive, SourcePos};
use crate::import::nginx::{Error, shown};

/// What was read.
pub(super) struct Input {
    /// What stands in `http`, or in a file without one.
    pub(super) http: Vec<Directive>,
    /// What stands around it: processes, `stream`, `mail`.
    pub(super) main: Vec<Directive>,
    /// Names of files by number.
    pub(super) names: Vec<String>,
    /// Includes that found nothing.
    pub(super) absent: Vec<(SourcePos, String)>,
}

struct IncludeReader<'a> {
    files: &'a dyn FileSource,
    prefix: &'a Path,
    /// The files of the command line: each is read once.
    given: Vec<PathBuf>,
    /// The files that include each other at this moment.
    open: Vec<PathBuf>,
    names: Vec<String>,
    absent: Vec<(SourcePos, String)>,
}

/// Reads the files and all that they include.
pub(super) fn read(
    files: &dyn FileSource,
    names: &[PathBuf],
    prefix: &Path,
) -> Result<Input, Error> {
    let mut given: Vec<PathBuf> = Vec::new();
    let mut unique = Vec::new();
    for name in names {
        let canonical = files.canonical(name);
        if !given.contains(&canonical) {
            given.push(canonical);
            unique.push(name);
        }
    }
    let mut reader = IncludeReader {
        files,
        prefix,
        given,
        open: Vec::new(),
        names: Vec::new(),
        absent: Vec::new(),
    };
    let (mut http, mut main) = (Vec::new(), Vec::new());
    for name in unique {
        for directive in reader.file(name)? {
            match directive.name.as_str() {
                "http" => http.extend(directive.block.unwrap_or_default()),
                name if MAIN.contains(&name) => main.push(directive),
                _ => http.push(directive),
            }
        }
    }
    Ok(Input {
        http,
        main,
        names: reader.names,
        absent: reader.absent,
    })
}

impl IncludeReader<'_> {
    fn file(&mut self, name: &Path) -> Result<Vec<Directive>, Error> {
        let bytes = self
            .files
            .read(name)
            .map_err(|error| unreadable(name, &error))?;
        self.text(name, &bytes)
    }

    fn text(&mut self, name: &Path, bytes: &[u8]) -> Result<Vec<Directive>, Error> {
        let number = self.names.len();
        self.names.push(shown(name));
        let text = String::from_utf8_lossy(bytes);
        let parsed = tree::parse(number, &text).map_err(|wrong| Error::Syntax {
            file: shown(name),
            place: wrong.place,
            what: wrong.what,
            remedy: wrong.remedy,
        })?;
        self.open.push(self.files.canonical(name));
        let expanded = self.expand(parsed);
        self.open.pop();
        expanded
    }

    fn expand(&mut self, directives: Vec<Directive>) -> Result<Vec<Directive>, Error> {
        let mut expanded = Vec::new();
        for mut directive in directives {
            if directive.name == "include" && directive.args.len() == 1 {
                expanded.extend(self.included(&directive)?);
                continue;
            }
            if let Some(block) = directive.block.take() {
                directive.block = Some(self.expand(block)?);
            }
            expanded.push(directive);
        }
        Ok(expanded)
    }

    fn included(&mut self, include: &Directive) -> Result<Vec<Directive>, Error> {
        let pattern = path::absolute(include.first(), self.prefix);
        let found = if glob::is_pattern(include.first()) {
            glob::expand(self.files, &pattern)
        } else {
            vec![pattern]
        };
        let mut directives = Vec::new();
        for file in found {
            let canonical = self.files.canonical(&file);
            if self.open.contains(&canonical) {
                return Err(self.wrong(include, "the file includes itself", "remove the include"));
            }
            if self.names.len() >= MOST {
                let what = format!("more than {MOST} files are included");
                return Err(self.wrong(include, &what, "name the files with the registry alone"));
            }
            if self.given.contains(&canonical) {
                continue;
            }
            match self.files.read(&file) {
                Ok(bytes) => directives.extend(self.text(&file, &bytes)?),
                Err(error) => self
                    .absent
                    .push((include.at, format!("{}: {error}", shown(&file)))),
            }
        }
        Ok(directives)
    }

    fn wrong(&self, include: &Directive, what: &str, remedy: &str) -> Error {
        Error::Syntax {
            file: self.names.get(include.at.file).cloned().unwrap_or_default(),
            place: include.at.place,
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

fn unreadable(name: &Path, error: &std::io::Error) -> Error {
    Error::Unreadable {
        file: shown(name),
        why: error.to_string(),
        remedy: "name nginx's own file (nginx -t prints it), as a user who may read it",
    }
}

/// Read as one configuration; a snippet counts once for each place that includes it.
const MOST: usize = 1000;
/// What stands outside of `http`; everything else of a file without `http` belongs inside.
const MAIN: &[&str] = &[
    "user",
    "events",
    "pid",
    "daemon",
    "master_process",
    "load_module",
    "pcre_jit",
    "thread_pool",
    "timer_resolution",
    "lock_file",
    "env",
    "debug_points",
    "ssl_engine",
    "working_directory",
    "worker_processes",
    "worker_priority",
    "worker_cpu_affinity",
    "worker_rlimit_nofile",
    "worker_rlimit_core",
    "worker_shutdown_timeout",
    "stream",
    "mail",
];

//! The files of a configuration: reading them, and replacing each `include` by the files that it names.
//!
//! [`FsSource`] reads the file system of this machine; tests have a [`FileSource`] of their own. An included file that cannot be read
//! is only a warning, because configurations are often copied to another machine before they are imported. Its `include` stays in
//! its block, as a directive whose effect is not known, and closes the routes there. A file that the command line names must exist.

use std::io;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::bounded_file;
use crate::config::problem::quote;
use crate::import::nginx::unsupported;
use crate::import::nginx::unsupported::is_outside_of_http;

use crate::import::nginx::error::Error;
use crate::import::nginx::parser;
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::template_files;

/// A source of files.
pub trait FileSource {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The file does not exist, is not a regular file, is not readable, or is larger than any configuration.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Lists the names in a directory, in any order.
    ///
    /// # Errors
    ///
    /// The directory does not exist, is not a directory, or is not readable.
    fn names(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Returns one spelling for each file, with symbolic links resolved; the path itself if there is no such file.
    fn canonical(&self, path: &Path) -> PathBuf;
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug)]
pub struct FsSource;

impl FileSource for FsSource {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(bounded_file::read(path, MAX_FILE_SIZE)?)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(directory)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }
}

/// All files as one configuration.
pub(crate) struct Input {
    /// The directives of `http`, and the directives of files without an `http` block.
    pub(crate) http: Vec<Directive>,
    /// The directives around `http`: processes, `stream`, `mail`.
    pub(crate) main: Vec<Directive>,
    /// Whether an `http` block was read. If not, the directives that it holds for every server are unknown.
    pub(crate) has_http_block: bool,
    /// The indices of the files whose server blocks are translated; `None` for all. Other server blocks decide only which requests reach
    /// these.
    pub(crate) wanted: Option<Vec<usize>>,
    /// The paths of the files, as messages name them, by index.
    pub(crate) names: Vec<String>,
    /// The same paths with symbolic links resolved.
    canonical: Vec<PathBuf>,
    /// The includes of files that could not be read, with the reason.
    pub(crate) missing: Vec<(SourcePos, String)>,
}

/// Reads the files and all files that they include.
pub(crate) fn read(
    files: &dyn FileSource,
    names: &[PathBuf],
    prefix: &Path,
) -> Result<Input, Error> {
    let mut named: Vec<PathBuf> = Vec::new();
    let mut unique = Vec::new();
    for name in names {
        let canonical = files.canonical(name);
        if !named.contains(&canonical) {
            named.push(canonical);
            unique.push(name.clone());
        }
    }
    let input = read_files(files, &unique, &named, prefix)?;
    if input.has_http_block {
        return Ok(input);
    }
    Ok(around(files, &named, prefix).unwrap_or(input))
}

/// The configuration of the `nginx.conf` that includes all of these files: in their folder, in the folder above, or in the prefix.
fn around(files: &dyn FileSource, named: &[PathBuf], prefix: &Path) -> Option<Input> {
    let first = named.first()?;
    let folders = [
        first.parent(),
        first.parent().and_then(Path::parent),
        Some(prefix),
    ];
    let mut candidates = folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join("nginx.conf"));
    candidates.find_map(|candidate| {
        let canonical = files.canonical(&candidate);
        if named.contains(&canonical) {
            return None;
        }
        let mut input = read_files(files, &[candidate], &[canonical], prefix).ok()?;
        let index = |name: &PathBuf| input.canonical.iter().position(|known| known == name);
        let wanted: Option<Vec<_>> = named.iter().map(index).collect();
        input.wanted = Some(wanted?);
        input.has_http_block.then_some(input)
    })
}

/// Reads these files and all files that they include.
fn read_files(
    files: &dyn FileSource,
    names: &[PathBuf],
    named: &[PathBuf],
    prefix: &Path,
) -> Result<Input, Error> {
    let mut reader = IncludeReader {
        files,
        prefix,
        named: named.to_vec(),
        open: Vec::new(),
        names: Vec::new(),
        canonical: Vec::new(),
        missing: Vec::new(),
    };
    let (mut http, mut main) = (Vec::new(), Vec::new());
    let mut has_http_block = false;
    for name in names {
        let directives = reader.read_named(name)?;
        let has_http = directives.iter().any(|directive| directive.name == "http");
        has_http_block |= has_http;
        for directive in directives {
            match directive.name.as_str() {
                "http" => http.extend(directive.block.unwrap_or_default()),
                // An error_log around http is in effect inside as well.
                name if is_outside_of_http(name) || (has_http && name != "error_log") => {
                    main.push(directive);
                }
                _ => http.push(directive),
            }
        }
    }
    Ok(Input {
        http,
        main,
        has_http_block,
        wanted: None,
        names: reader.names,
        canonical: reader.canonical,
        missing: reader.missing,
    })
}

struct IncludeReader<'a> {
    files: &'a dyn FileSource,
    prefix: &'a Path,
    /// The files of the command line. Each of them is read once, even if another file includes it.
    named: Vec<PathBuf>,
    /// The chain of files that are being read, to detect a file that includes itself.
    open: Vec<PathBuf>,
    names: Vec<String>,
    canonical: Vec<PathBuf>,
    missing: Vec<(SourcePos, String)>,
}

impl IncludeReader<'_> {
    fn read_named(&mut self, path: &Path) -> Result<Vec<Directive>, Error> {
        let bytes = self.files.read(path).map_err(|error| Error::Unreadable {
            file: display_path(path),
            why: error.to_string(),
            remedy: "name nginx's own file (nginx -t prints it), as a user that may read it",
        })?;
        self.parse(path, &bytes)
    }

    fn parse(&mut self, path: &Path, bytes: &[u8]) -> Result<Vec<Directive>, Error> {
        let index = self.names.len();
        self.names.push(display_path(path));
        self.canonical.push(self.files.canonical(path));
        let text = String::from_utf8_lossy(bytes);
        let parsed = parser::parse(index, &text, unsupported::is_directive);
        let directives = parsed.as_ref().ok().map(Vec::as_slice);
        if let Some((position, mark)) = template_files::first_mark(path, &text, directives) {
            return Err(Error::Template {
                file: display_path(path),
                position,
                mark,
            });
        }
        let parsed = parsed.map_err(|error| Error::Syntax {
            file: display_path(path),
            position: error.position,
            what: error.what,
            remedy: error.remedy,
        })?;
        self.open.push(self.files.canonical(path));
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
        let pattern = self.prefix.join(include.first());
        let mut unlisted = Vec::new();
        let paths = if is_pattern(include.first()) {
            glob(self.files, &pattern, &mut unlisted)
        } else {
            vec![pattern]
        };
        let mut directives = Vec::new();
        for (directory, error) in unlisted {
            directives.extend(self.missing(include, &directory, &error));
        }
        for path in paths {
            let canonical = self.files.canonical(&path);
            if self.open.contains(&canonical) {
                return Err(self.error(include, "the file includes itself", "remove the include"));
            }
            if self.names.len() >= MAX_FILES {
                let what = format!("more than {MAX_FILES} files are included");
                return Err(self.error(include, &what, "name only the files with the registry"));
            }
            if self.named.contains(&canonical) {
                continue;
            }
            match self.files.read(&path) {
                Ok(bytes) => directives.extend(self.parse(&path, &bytes)?),
                Err(error) => directives.extend(self.missing(include, &path, &error)),
            }
        }
        Ok(directives)
    }

    /// Reports that a file or a directory cannot be read. Returns the directive that stays in place of the file, unless the file is one
    /// that programs bring along and that says nothing about access.
    fn missing(
        &mut self,
        include: &Directive,
        path: &Path,
        error: &io::Error,
    ) -> Option<Directive> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_harmless = HARMLESS_FILES.contains(&&*name);
        let effect = if is_harmless {
            "its directives are not imported"
        } else {
            "the routes in its block are closed, because its directives are unknown"
        };
        let what = format!("{}: {error}; {effect}", display_path(path));
        self.missing.push((include.at, what));
        (!is_harmless).then(|| include.clone())
    }

    fn error(&self, include: &Directive, what: &str, remedy: &str) -> Error {
        Error::Syntax {
            file: self.names.get(include.at.file).cloned().unwrap_or_default(),
            position: include.at.position,
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

/// A path as messages name it: quoted if it has blanks or control characters.
fn display_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    quote(&text)
}

/// Whether the argument of an `include` has wildcards, as in glob(3).
fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Expands a pattern with `*`, `?` and `[…]` to the matching paths, as glob(3) does.
///
/// The paths are sorted, so that the same files always give the same result. `unlisted` gets the directories that exist and cannot be
/// listed.
pub(crate) fn glob(
    files: &dyn FileSource,
    pattern: &Path,
    unlisted: &mut Vec<(PathBuf, io::Error)>,
) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        found = if is_pattern(&text) {
            let below = found
                .iter()
                .flat_map(|directory| matching_names(files, directory, &text, unlisted));
            below.take(MAX_FILES).collect()
        } else {
            found
                .into_iter()
                .map(|directory| directory.join(part))
                .collect()
        };
    }
    found.sort();
    found
}

fn matching_names(
    files: &dyn FileSource,
    directory: &Path,
    pattern: &str,
    unlisted: &mut Vec<(PathBuf, io::Error)>,
) -> Vec<PathBuf> {
    let listed = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let compiled = name_pattern(pattern);
    let is_match = |name: &String| {
        // As in the shell, a wildcard does not match a dot at the beginning of a name.
        let is_hidden = name.starts_with('.') && !pattern.starts_with('.');
        let compiled = compiled.as_ref();
        !is_hidden && compiled.is_some_and(|compiled| compiled.is_match(name))
    };
    let names = files.names(listed).unwrap_or_else(|error| {
        let is_absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        if !is_absent.contains(&error.kind()) {
            unlisted.push((listed.to_owned(), error));
        }
        Vec::new()
    });
    let matching = names.into_iter().filter(is_match);
    matching.map(|name| directory.join(name)).collect()
}

/// The regular expression for a name that matches a pattern; `None` if no name does.
fn name_pattern(pattern: &str) -> Option<Regex> {
    let mut text = String::from("(?s)^");
    let mut rest = pattern.chars();
    while let Some(next) = rest.next() {
        match next {
            '*' => text.push_str(".*"),
            '?' => text.push('.'),
            '[' => match character_class(rest.as_str()) {
                Some((class, after)) => {
                    text.push_str(&class);
                    rest = after.chars();
                }
                None => text.push_str("\\["),
            },
            _ => text.push_str(&escaped(next)),
        }
    }
    Regex::new(&format!("{text}$")).ok()
}

/// The set that begins a text after its `[`, as a regular expression, and what follows it; `None` if the set has no end. A `]` directly
/// at the beginning belongs to the set.
fn character_class(text: &str) -> Option<(String, &str)> {
    let set = text.strip_prefix(['!', '^']);
    let (start, set) = set.map_or(("[", text), |set| ("[^", set));
    let first = set.chars().next()?.len_utf8();
    let (set, after) = set.split_at_checked(first + set.get(first..)?.find(']')?)?;
    let mut class = String::from(start);
    let mut rest: &[char] = &set.chars().collect::<Vec<_>>();
    while let Some((character, after)) = rest.split_first() {
        class.push_str(&escaped(*character));
        rest = after;
        if let ['-', high, after @ ..] = after {
            class.extend(["-", &escaped(*high)]);
            rest = after;
        }
    }
    class.push(']');
    Some((class, after.strip_prefix(']')?))
}

/// A character as a regular expression.
fn escaped(character: char) -> String {
    format!("\\x{{{:x}}}", u32::from(character))
}

/// The files of nginx and certbot without directives about access or upstreams.
const HARMLESS_FILES: &[&str] = &[
    "mime.types",
    "fastcgi_params",
    "fastcgi.conf",
    "uwsgi_params",
    "scgi_params",
    "options-ssl-nginx.conf",
];
/// The largest accepted file in bytes, more than any nginx configuration has.
const MAX_FILE_SIZE: u64 = 16 * 1024 * 1024;
/// The maximum number of files of one configuration. A snippet counts once for each place that includes it.
const MAX_FILES: usize = 1000;

//! The files that `include` names: they are read, and their sites and groups are added to the document.
//!
//! `config::load` calls [`read`] and then [`merge`]. The sites of the configuration file come first, because the first site serves
//! clients without a server name. The sites of included files follow in the order of the patterns, and for one pattern in the byte
//! order of the file names.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use toml::de::{DeString, DeTable, DeValue};

use super::MAX_FILE_SIZE;
use super::document::{Document, Spanned};
use super::keys::{self, KEYS};
use super::problem::{Problem, quote};
use super::table::Table;
use crate::bounded_file;

/// An included file.
pub(crate) struct Included {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Reads every file that the document includes, and reports the patterns and files that cannot be used.
pub(crate) fn read(document: &Document<'_>) -> Vec<Included> {
    let root = Table::root_unchecked(document, KEYS);
    let Some(patterns) = root.get(&keys::INCLUDE) else {
        return Vec::new();
    };
    let folder = root.folder();
    let own = fs::canonicalize(root.file()).ok();
    let mut size = 0;
    let mut all: Vec<Included> = Vec::new();
    for pattern in &patterns.value.items {
        let paths = match expand(&folder, pattern) {
            Ok(paths) => paths,
            Err(problem) => {
                document.mark_incomplete();
                document.report(*problem);
                continue;
            }
        };
        for path in paths {
            if own.is_some() && fs::canonicalize(&path).ok() == own {
                document.report(names_itself(pattern));
                continue;
            }
            if all.iter().any(|included| included.path == path) {
                continue;
            }
            if all.len() >= MAX_FILES {
                let what = format!("include names more than {MAX_FILES} files");
                document.mark_incomplete();
                document.report(Problem::error(pattern.place, what).fix("name fewer files"));
                return all;
            }
            match bounded_file::read(&path, MAX_FILE_SIZE) {
                Ok(bytes) => {
                    size += bytes.len();
                    all.push(Included { path, bytes });
                }
                Err(error) => {
                    document.mark_incomplete();
                    document.report(unreadable(pattern, &path, &error));
                }
            }
            if size > MAX_TOTAL_SIZE {
                let what = format!(
                    "the included files are larger than {} MiB together",
                    MAX_TOTAL_SIZE >> 20
                );
                document.mark_incomplete();
                document.report(Problem::error(pattern.place, what).fix("name fewer files"));
                return all;
            }
        }
    }
    all
}

/// Returns the paths that a pattern names. `*` stands for any characters of a file name, and does not match a leading dot. A
/// pattern that matches no file is no error, because a folder may be empty; a path without `*` must exist.
fn expand(folder: &Path, pattern: &Spanned<String>) -> Result<Vec<PathBuf>, Box<Problem>> {
    let path = folder.join(&pattern.value);
    let parent = path.parent().unwrap_or_else(|| Path::new(""));
    let Some(name) = path.file_name().filter(|_| pattern.contains('*')) else {
        return Ok(vec![path]);
    };
    if parent.as_os_str().as_bytes().contains(&b'*') {
        let what = format!(
            "include: {} has \"*\" in the name of a folder",
            quote(pattern)
        );
        let problem = Problem::error(pattern.place, what);
        return Err(Box::new(
            problem.fix("write \"*\" in the last part only, as in \"conf.d/*.toml\""),
        ));
    }
    let mut names = Vec::new();
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) => return Err(Box::new(unreadable(pattern, parent, &error))),
    };
    for entry in entries {
        let entry = entry.map_err(|error| Box::new(unreadable(pattern, parent, &error)))?;
        if matches(name.as_bytes(), entry.file_name().as_bytes()) {
            names.push(entry.file_name());
        }
    }
    names.sort_by(|one: &OsString, other| one.as_bytes().cmp(other.as_bytes()));
    Ok(names.iter().map(|name| parent.join(name)).collect())
}

fn unreadable(pattern: &Spanned<String>, path: &Path, error: &dyn std::fmt::Display) -> Problem {
    let what = format!("include: cannot read {}: {error}", path.display());
    Problem::error(pattern.place, what)
        .fix("correct the path, which is relative to the folder of this file, or let the user of the proxy read it")
}

fn names_itself(pattern: &Spanned<String>) -> Problem {
    let what = format!("include: {} names this file itself", quote(pattern));
    Problem::error(pattern.place, what)
        .because("the sites of the file would be added to it again")
        .fix("move the other files to a folder of their own, as in \"conf.d/*.toml\"")
}

/// Whether a file name matches a pattern in which `*` stands for any bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    let mut parts = pattern.split(|byte| *byte == b'*');
    let (first, mut parts) = (parts.next().unwrap_or_default(), parts.peekable());
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    // The first occurrence of each part leaves most for the parts after it.
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let mut ends = part.len()..=rest.len();
        let Some(end) = ends.find(|end| rest.get(..*end).is_some_and(|rest| rest.ends_with(part)))
        else {
            return false;
        };
        rest = rest.get(end..).unwrap_or_default();
    }
    rest.is_empty()
}

/// Adds the sites and groups of the files to the document. Other keys of the files are reported.
pub(crate) fn merge<'t>(mut document: Document<'t>, files: &'t [Included]) -> Document<'t> {
    for file in files {
        let Some(table) = document.parse_included(&file.path, &file.bytes) else {
            continue;
        };
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let is_unknown = |name: &Name<'_>| KEYS.iter().all(|key| key.name() != name.get_ref());
        let names = entries.iter().map(|(name, _)| name);
        let unknown: Vec<_> = names.filter(|name| is_unknown(name)).collect();
        if !unknown.is_empty() {
            document.mark_incomplete();
            Table::root_unchecked(&document, KEYS).report_unknown(unknown, KEYS);
        }
        for (name, value) in entries {
            merge_entry(&mut document, name, value);
        }
    }
    document
}

type Name<'t> = toml::Spanned<DeString<'t>>;
type Value<'t> = toml::Spanned<DeValue<'t>>;

fn merge_entry<'t>(document: &mut Document<'t>, name: Name<'t>, value: Value<'t>) {
    let place = document.position(name.span().start);
    let key = name.get_ref().clone();
    let is_key = |other: &str| *key == *other;
    if !is_key(keys::SITE.name) && !is_key(keys::GROUPS.name) {
        if KEYS.iter().any(|known| is_key(known.name())) {
            let what = format!("{key} in an included file");
            let problem = Problem::error(place, what)
                .because("an included file has [[site]] tables and groups only, so that the settings of the process are in one file")
                .fix("move it to the configuration file");
            document.report(problem);
        }
        return;
    }
    let Some(own) = document.root_mut().get_mut(&*key) else {
        document.root_mut().insert(name, value);
        return;
    };
    match (own.get_mut(), value.into_inner()) {
        (DeValue::Array(own), DeValue::Array(more)) if is_key(keys::SITE.name) => {
            more.into_iter().for_each(|site| own.push(site));
        }
        (DeValue::Table(own), DeValue::Table(more)) if is_key(keys::GROUPS.name) => {
            let twice = merge_groups(own, more);
            for (earlier, later) in twice {
                report_group(document, &earlier, &later);
            }
        }
        (_, DeValue::Array(_)) if is_key(keys::SITE.name) => {}
        (_, DeValue::Table(_)) if is_key(keys::GROUPS.name) => {}
        _ => {
            let (expected, fix) = if is_key(keys::SITE.name) {
                ("a list of tables", "write [[site]], with two brackets")
            } else {
                (
                    keys::GROUPS.form.expected,
                    "write [groups], and name = [\"user\"] below it",
                )
            };
            document.report(Problem::error(place, format!("{key}: expected {expected}")).fix(fix));
        }
    }
}

/// Adds the groups, and returns the names of those that exist already: as they were, and as they are in the included file.
fn merge_groups<'t>(own: &mut DeTable<'t>, more: DeTable<'t>) -> Vec<(Name<'t>, Name<'t>)> {
    let mut twice = Vec::new();
    for (name, users) in more {
        let earlier = own
            .get_key_value(&**name.get_ref())
            .map(|(earlier, _)| earlier.clone());
        match earlier {
            Some(earlier) => twice.push((earlier, name)),
            None => {
                own.insert(name, users);
            }
        }
    }
    twice
}

fn report_group(document: &Document<'_>, earlier: &Name<'_>, later: &Name<'_>) {
    let place = document.position(later.span().start);
    let before = document.describe(document.position(earlier.span().start), place);
    let what = format!(
        "the group {} was defined before, in {before}",
        quote(later.get_ref())
    );
    document.report(
        Problem::error(place, what)
            .because("the rights of a group must not depend on which file is read last")
            .fix("remove it here or there, or choose another name"),
    );
}

/// More than any installation has. This limit and the next one bound the time and the memory that a wrong pattern takes.
const MAX_FILES: usize = 1000;
/// The maximum size of all included files together in bytes.
const MAX_TOTAL_SIZE: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters_but_a_leading_dot() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", false),
            ("*.toml", "a.toml~", false),
            ("*", "a", true),
            ("*", ".a", false),
            (".*", ".a", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("**", "ab", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}

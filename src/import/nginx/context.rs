//! What every step of the translation needs: the directives of `http`, the prefix of relative paths, and the remarks.

use std::collections::HashMap;
use std::path::Path;

use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::remarks::Remarks;

/// The context of a translation.
pub(crate) struct Context<'a> {
    /// The directives of `http`.
    pub(crate) http: &'a [Directive],
    /// The directory that relative paths are relative to.
    prefix: &'a Path,
    /// The `upstream` blocks by name.
    pub(crate) upstreams: HashMap<&'a str, &'a Directive>,
    pub(crate) remarks: Remarks,
}

impl<'a> Context<'a> {
    /// Creates the context of a configuration.
    pub(crate) fn new(http: &'a [Directive], prefix: &'a Path) -> Self {
        let upstreams = http.iter().filter(|d| d.name == "upstream");
        Self {
            http,
            prefix,
            upstreams: upstreams.map(|block| (block.first(), block)).collect(),
            remarks: Remarks::default(),
        }
    }

    /// A file path as the `proxy.toml` has it: absolute. `None` if the path has variables, so that it is known only when
    /// a request arrives.
    pub(crate) fn file_path(&self, text: &str) -> Option<String> {
        if text.is_empty() || text.contains(['$', '\0']) {
            return None;
        }
        Some(self.prefix.join(text).to_string_lossy().into_owned())
    }
    /// Adds a warning, as [`Remarks::warn`] does.
    pub(crate) fn warn(&mut self, at: SourcePos, what: impl Into<String>) {
        self.remarks.warn(at, what);
    }

    /// Adds a directive without a counterpart by its name.
    pub(crate) fn unsupported(&mut self, reason: &'static str, directive: &Directive) {
        self.remarks.unsupported(reason, directive);
    }

    /// Adds a directive without a counterpart, described by other words than its name.
    pub(crate) fn unsupported_as(
        &mut self,
        reason: &'static str,
        at: SourcePos,
        what: impl Into<String>,
    ) {
        self.remarks.unsupported_as(reason, at, what);
    }
}

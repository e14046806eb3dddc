//! What the model of nginx says about a request: whether nginx forwards it, and which directive decides that.

use crate::import::nginx::location_search::LocationNode;
use crate::import::nginx::parser::{Directive, SourcePos};

/// What nginx does with a request, and the directive that decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) cause: Cause,
    /// The server block that handles the request; `None` if there is none at this address.
    pub(crate) server: Option<SourcePos>,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// nginx forwards the request.
    Forward {
        /// The URLs of the upstream, in the form of tidegate.
        urls: Vec<String>,
        /// The path that the upstream receives.
        path: String,
        /// Whether the upstream receives the client's `Authorization`.
        sends_authorization: bool,
    },
    /// nginx does not forward the request.
    Closed,
    /// The model does not know what nginx does. The importer treats this outcome as closed.
    Unknown,
}

/// The directive that decides about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cause {
    /// Where the directive is written.
    pub(crate) at: SourcePos,
    /// The directive with its arguments, as warnings name it.
    pub(crate) label: String,
    /// The shortest path prefix, on a segment boundary and without a slash at its end, that contains every path for which the
    /// directive can decide.
    pub(crate) cover: String,
    /// If the directive is in a location whose regular expression matches only a few whole paths, such as `^/(404|500)\.html$`, these
    /// paths. Empty for every other directive.
    pub(crate) paths: Vec<String>,
    /// Whether nginx does not forward the request only because its path has no slash at its end: it redirects to the path with a
    /// slash, or has a location for that path alone.
    pub(crate) is_slash_redirect: bool,
    /// Whether nginx rejects no client here but has nothing to forward: it serves files, or responds itself to paths that only
    /// begin with the same text as the location.
    pub(crate) is_only_missing: bool,
    /// Whether nginx forwards the request, and the path of the request begins with the text of the location without being below it:
    /// `/uix` for `location /ui`.
    pub(crate) is_sibling: bool,
    /// Whether the model does not know what the directive does.
    pub(crate) is_unknown: bool,
}

impl Cause {
    /// A directive that can decide about every path with this prefix.
    pub(crate) fn new(directive: &Directive, cover: &str) -> Self {
        let label = match directive.name.as_str() {
            "server" => "server without a location for this path".to_owned(),
            _ => directive.label(),
        };
        Self {
            at: directive.at,
            label,
            cover: cover.to_owned(),
            ..Self::default()
        }
    }

    /// A location, named by one of the directives in effect in it.
    pub(crate) fn location(location: &LocationNode<'_>, decisive: Option<&Directive>) -> Self {
        let mut cause = Self::new(location.directive, &location.cover);
        cause.paths.clone_from(&location.paths);
        if let Some(decisive) = decisive {
            cause.label = format!("{} with {}", cause.label, decisive.name);
        }
        cause
    }

    /// The same cause, for which the model does not know the outcome.
    pub(crate) fn unknown(self) -> Self {
        Self {
            is_unknown: true,
            ..self
        }
    }
}

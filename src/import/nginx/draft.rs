//! The proxy.toml before it is text: tables, lines, and what is said beside a line.
//!
//! Made by the translation, printed by `write`.

use crate::import::nginx::tree::SourcePos;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct OutputConfig {
    pub(super) listen: Vec<Line>,
    pub(super) log: Vec<Line>,
    pub(super) tls: Vec<Line>,
    pub(super) limits: Vec<Line>,
    pub(super) sites: Vec<Site>,
}

/// One `[[site]]`.
#[derive(Debug)]
pub(super) struct Site {
    /// The server block it comes from.
    pub(super) at: SourcePos,
    pub(super) lines: Vec<Line>,
    pub(super) routes: Vec<Route>,
}

/// One `[[site.route]]`.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// The location it comes from, as it is written there.
    pub(super) at: SourcePos,
    pub(super) location: String,
    pub(super) path: String,
    /// Beside the path.
    pub(super) remark: Option<String>,
    pub(super) what: RouteAction,
}

/// What a route does.
#[derive(Clone, Debug)]
pub(super) enum RouteAction {
    /// Leads to an upstream.
    Proxied {
        lines: Vec<Line>,
        grants: Vec<Grant>,
    },
    /// Answers by itself; with what is said beside it.
    Responds(u16, Option<String>),
    /// Does what the gate cannot do; below a route that leads somewhere it has to be kept apart.
    Absent(String),
}

/// One `[[site.route.grant]]`.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) to: &'static str,
    pub(super) actions: &'static [&'static str],
}

/// `key = value # remark`.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) key: &'static str,
    pub(super) value: Value,
    pub(super) remark: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    List(Vec<String>),
    Table(Vec<(String, Self)>),
}

impl Line {
    pub(super) fn new(key: &'static str, value: Value) -> Self {
        Self {
            key,
            value,
            remark: None,
        }
    }

    pub(super) fn text(key: &'static str, text: impl Into<String>) -> Self {
        Self::new(key, Value::Text(text.into()))
    }

    pub(super) fn list(key: &'static str, list: Vec<String>) -> Self {
        Self::new(key, Value::List(list))
    }

    /// With something beside it; nothing for an empty text.
    pub(super) fn beside(mut self, remark: impl Into<String>) -> Self {
        let remark = remark.into();
        self.remark = (!remark.is_empty()).then_some(remark);
        self
    }
}

impl Value {
    pub(super) fn table<const N: usize>(entries: [(&str, &str); N]) -> Self {
        let entries = entries.map(|(key, text)| (key.to_owned(), Self::Text(text.to_owned())));
        Self::Table(entries.to_vec())
    }
}

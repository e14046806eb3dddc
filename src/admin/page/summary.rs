//! What stands above and below the tables: the state in a word, what somebody should look at, and a few facts.
//!
//! Called by `page`.

use super::figures;
use super::html::Html;
use super::status::Status;
use crate::state::LifecyclePhase;

/// The state first: of many tabs one sees little more.
pub(super) fn title(html: &mut Html, status: &Status) {
    let (_, word) = state(status);
    html.tags(word);
    if status.moving.count > 0 {
        html.tags(", ").text(status.moving.count).tags(" moving");
    }
    html.tags(" – tidegate on ").text(&status.host);
}

pub(super) fn header(html: &mut Html, status: &Status) {
    html.tags("<a class=\"skip\" href=\"#content\">Skip to the content</a>\n<header>\n");
    html.tags(
        "<img src=\"status.svg\" alt=\"\" width=\"36\" height=\"36\">\n<h1>tidegate <span>on ",
    );
    html.name(&status.host).tags("</span></h1>\n");
    let (class, word) = state(status);
    html.tags("<p id=\"state\" class=\"state\" data-live><span class=\"pill ");
    html.tags(class)
        .tags("\">")
        .tags(word)
        .tags("</span></p>\n");
    let moment = figures::format_time(status.now);
    let clock = moment.split(' ').next_back().unwrap_or_default();
    html.tags("<div class=\"tools\"><span id=\"as-of\" data-live>As of <time datetime=\"");
    html.text(figures::format_iso(status.now)).tags("\">");
    html.text(clock).tags("</time> UTC</span>");
    html.tags("<span id=\"live\" role=\"status\"></span>");
    html.tags("<button id=\"pause\" type=\"button\" hidden>Pause</button>");
    html.tags("<a id=\"reload\" class=\"button\" href=\"./\">Reload</a></div>\n</header>\n");
}

pub(super) fn warnings(html: &mut Html, status: &Status) {
    let readiness = &status.readiness;
    html.tags("<div id=\"warnings\" data-live>");
    let has_errors = !(readiness.reasons().is_empty() && readiness.errors().is_empty());
    if has_errors || !readiness.warnings().is_empty() {
        html.tags("<h2>To look at</h2><ul class=\"notes\">");
        for reason in readiness.reasons() {
            html.tags("<li class=\"bad\"><b>Not ready:</b> ");
            html.tags(reason).tags("</li>");
        }
        for error in readiness.errors() {
            html.tags("<li class=\"bad\"><b>Error:</b> ");
            html.text(error.replace('\n', " ")).tags("</li>");
        }
        for warning in readiness.warnings() {
            html.tags("<li class=\"warn\"><b>Warning:</b> ");
            html.text(warning.replace('\n', " ")).tags("</li>");
        }
        html.tags("</ul>");
    }
    html.tags("</div>\n");
}

pub(super) fn facts(html: &mut Html, status: &Status) {
    html.tags("<h2 class=\"unseen\">The gate</h2>\n<dl id=\"facts\" class=\"facts\" data-live>");
    html.tags("<dt>Version</dt><dd>");
    html.tags(env!("CARGO_PKG_VERSION")).tags("</dd>");
    html.tags("<dt>Up for</dt><dd>");
    html.text(figures::duration(status.age)).tags("</dd>");
    html.tags("<dt>Connections</dt><dd>");
    let (open, most) = status.connections;
    html.text(figures::count(open as u64)).tags(" <small>of ");
    html.text(figures::count(most as u64)).tags("</small></dd>");
    html.tags("<dt>Last reload</dt><dd>");
    reload(html, status);
    html.tags("</dd></dl>\n");
}

fn reload(html: &mut Html, status: &Status) {
    let ago = |time| {
        let since = status.now.duration_since(time);
        figures::duration(since.unwrap_or_default())
    };
    let (succeeded, failed) = status.reloads;
    match &status.reload.failed {
        Some((at, _)) => {
            html.tags("<span class=\"bad\">refused</span> <small>")
                .text(ago(*at));
            html.tags(" ago; in use is what was taken ");
            html.text(ago(status.reload.taken)).tags(" ago</small>");
        }
        None if succeeded == 0 && failed == 0 => {
            html.tags("none <small>since the start</small>");
        }
        None => {
            html.tags("taken <small>").text(ago(status.reload.taken));
            html.tags(" ago</small>");
        }
    }
}

pub(super) fn footer(html: &mut Html, status: &Status) {
    html.tags("<footer><p>Numbers for Prometheus at <a href=\"metrics\">/metrics</a>, readiness at <a href=\"readyz\">/readyz</a>. ");
    html.tags("All times are UTC.</p><p>tidegate ")
        .tags(env!("CARGO_PKG_VERSION"));
    html.tags(" on ").name(&status.host).tags("</p></footer>\n");
}

/// A class and a word.
fn state(status: &Status) -> (&'static str, &'static str) {
    match status.phase {
        LifecyclePhase::Starting => ("warn", "Starting"),
        LifecyclePhase::Draining => ("warn", "Draining"),
        LifecyclePhase::Serving if !status.readiness.is_ready() => ("bad", "Not ready"),
        LifecyclePhase::Serving if !status.readiness.errors().is_empty() => {
            ("bad", "Ready, with errors")
        }
        LifecyclePhase::Serving if !status.readiness.warnings().is_empty() => {
            ("warn", "Ready, with warnings")
        }
        LifecyclePhase::Serving => ("good", "Ready"),
    }
}

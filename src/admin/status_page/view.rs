//! The view of the status page: writes the [`Status`] as HTML, section by section.
//!
//! An element with `data-live` is replaced by the script of the page if its content changed. A row with `data-key` stays the
//! same element across refreshes.

use std::cmp::Reverse;
use std::time::SystemTime;

use super::charts;
use super::format;
use super::html::Html;
use super::model::{EndpointRow, RouteOutage, SiteRow, Status, TransferRow, Truncated};
use crate::activity::RejectedRequest;
use crate::metrics::Operation;
use crate::state::LifecyclePhase;
use crate::upstream;

/// The whole document.
pub(crate) fn document(status: &Status) -> String {
    let mut html = Html::default();
    html.tags(include_str!("head.html"));
    html.tags("<title>");
    title(&mut html, status);
    html.tags("</title>\n</head>\n<body>\n");
    header(&mut html, status);
    html.tags("<main id=\"content\" tabindex=\"-1\">\n");
    warnings(&mut html, status);
    facts(&mut html, status);
    transfers(&mut html, status);
    charts::write(&mut html, &status.samples);
    endpoints(&mut html, status);
    sites(&mut html, status);
    rejections(&mut html, status);
    html.tags("</main>\n");
    footer(&mut html, status);
    html.tags("</body>\n</html>\n");
    html.finish()
}

// ===== header, warnings, facts, footer =====

/// The title begins with the state, because a narrow browser tab shows little more than one word.
fn title(html: &mut Html, status: &Status) {
    let (_, state) = overall_state(status);
    html.tags(state);
    if status.transfers.count > 0 {
        html.tags(", ").text(status.transfers.count).tags(" moving");
    }
    html.tags(" – tidegate on ").text(&status.host);
}

fn header(html: &mut Html, status: &Status) {
    html.tags("<a class=\"skip\" href=\"#content\">Skip to the content</a>\n<header>\n");
    html.tags(
        "<img src=\"status.svg\" alt=\"\" width=\"36\" height=\"36\">\n<h1>tidegate <span>on ",
    );
    html.name(&status.host).tags("</span></h1>\n");
    let (class, state) = overall_state(status);
    html.tags("<p id=\"state\" class=\"state\" data-live><span class=\"pill ");
    html.tags(class)
        .tags("\">")
        .tags(state)
        .tags("</span></p>\n");
    html.tags("<div class=\"tools\"><span id=\"as-of\" data-live>As of ");
    time(html, status.now);
    html.tags("</span>");
    html.tags("<span id=\"live\" role=\"status\"></span>");
    html.tags("<button id=\"pause\" type=\"button\" hidden>Pause</button>");
    html.tags("<a id=\"reload\" class=\"button\" href=\"./\">Reload</a></div>\n</header>\n");
}

/// The state of the proxy, as a CSS class and a short text.
fn overall_state(status: &Status) -> (&'static str, &'static str) {
    match status.phase {
        LifecyclePhase::Starting => ("warn", "Starting"),
        LifecyclePhase::Withdrawing => ("warn", "About to drain"),
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

fn warnings(html: &mut Html, status: &Status) {
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
            message(html, error);
            html.tags("</li>");
        }
        // The error of a site includes the warnings of its endpoints.
        let is_in_an_error = |warning: &str| {
            readiness
                .errors()
                .iter()
                .any(|error| error.contains(warning))
        };
        for warning in readiness
            .warnings()
            .iter()
            .filter(|warning| !is_in_an_error(warning))
        {
            html.tags("<li class=\"warn\"><b>Warning:</b> ");
            message(html, warning);
            html.tags("</li>");
        }
        html.tags("</ul>");
    }
    html.tags("</div>\n");
}

fn facts(html: &mut Html, status: &Status) {
    html.tags("<h2 class=\"unseen\">The proxy</h2>\n<dl id=\"facts\" class=\"facts\" data-live>");
    html.tags("<dt>Version</dt><dd>");
    html.tags(env!("CARGO_PKG_VERSION")).tags("</dd>");
    html.tags("<dt>Up for</dt><dd>");
    html.text(format::duration(status.uptime)).tags("</dd>");
    html.tags("<dt>Connections</dt><dd>");
    html.text(format::count(status.open_connections as u64))
        .tags(" <small>of ");
    html.text(format::count(status.max_connections as u64))
        .tags("</small></dd>");
    html.tags("<dt>Last reload</dt><dd>");
    last_reload(html, status);
    html.tags("</dd></dl>\n");
}

fn last_reload(html: &mut Html, status: &Status) {
    let ago = |time| {
        let since = status.now.duration_since(time);
        format::duration(since.unwrap_or_default())
    };
    let loaded = status.last_reload.in_use_since;
    let (succeeded, failed) = status.reloads;
    match &status.last_reload.failed {
        Some((at, _)) => {
            html.tags("<span class=\"bad\">failed</span> <small>")
                .text(ago(*at));
            html.tags(" ago; the configuration in use was loaded ");
            html.text(ago(loaded)).tags(" ago</small>");
        }
        None if succeeded == 0 && failed == 0 => {
            html.tags("none <small>since the start</small>");
        }
        None => {
            html.tags("succeeded <small>").text(ago(loaded));
            html.tags(" ago</small>");
        }
    }
}

fn footer(html: &mut Html, status: &Status) {
    html.tags("<footer><p>Numbers for Prometheus at <a href=\"metrics\">/metrics</a>, readiness at <a href=\"readyz\">/readyz</a>.");
    html.tags("</p><p>tidegate ")
        .tags(env!("CARGO_PKG_VERSION"));
    html.tags(" on ").name(&status.host).tags("</p></footer>\n");
}

// ===== transfers in progress =====

fn transfers(html: &mut Html, status: &Status) {
    let transfers = &status.transfers;
    html.tags("<section id=\"moving\" aria-labelledby=\"moving-title\" data-live>\n<h2 id=\"moving-title\">Moving now <span class=\"count\">");
    html.text(format::count(transfers.count as u64))
        .tags("</span></h2>\n");
    if transfers.shown.is_empty() {
        html.tags("<p class=\"empty\">Nothing moves right now. A push or a pull is shown here as long as it runs.</p>\n</section>\n");
        return;
    }
    html.tags("<div class=\"frame\"><table class=\"moving\"><caption class=\"unseen\">Pushes and pulls in progress, the oldest first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Repository</th><th scope=\"col\">Direction</th><th scope=\"col\">User</th><th scope=\"col\">From</th>");
    html.tags("<th scope=\"col\">Site</th><th scope=\"col\" class=\"number\">Moved</th><th scope=\"col\" class=\"number\">Rate</th><th scope=\"col\" class=\"number\">Duration</th>");
    html.tags("</tr></thead>\n<tbody>\n");
    for transfer in largest(&transfers.shown) {
        transfer_row(html, transfer);
    }
    html.tags("</tbody></table></div>\n");
    more(html, hidden(transfers), ", of which each has moved less");
    html.tags("</section>\n");
}

/// The transfers that fit on the page: those that have moved most, in their order.
fn largest(transfers: &[TransferRow]) -> Vec<&TransferRow> {
    let mut largest: Vec<_> = transfers.iter().enumerate().collect();
    largest.sort_by_key(|(_, transfer)| Reverse(transfer.bytes));
    largest.truncate(MAX_ROWS);
    largest.sort_by_key(|(position, _)| *position);
    largest.into_iter().map(|(_, transfer)| transfer).collect()
}

fn transfer_row(html: &mut Html, transfer: &TransferRow) {
    html.tags("<tr data-key=\"")
        .text(transfer.number)
        .tags("\"><th scope=\"row\">");
    html.name(&transfer.repository);
    // The number is the ID of `tidegate cut`.
    html.tags(" <small>#").text(transfer.number);
    html.tags("</small></th><td>");
    html.tags(match transfer.operation {
        Operation::Push => "<span class=\"push\"><span aria-hidden=\"true\">↑</span> push</span>",
        Operation::Websocket => "<span aria-hidden=\"true\">↕</span> websocket",
        _ => "<span class=\"pull\"><span aria-hidden=\"true\">↓</span> pull</span>",
    });
    html.tags("</td><td data-label=\"by\">");
    user(html, &transfer.user, "anonymous");
    html.tags("</td><td data-label=\"from\">")
        .name(&transfer.client);
    html.tags("</td><td data-label=\"to\">")
        .name(&transfer.site);
    html.tags("</td><td class=\"number moved\" data-label=\"Moved\">");
    moved(html, transfer);
    html.tags("</td><td class=\"number\" data-label=\"Rate\">");
    match transfer.rate {
        0 => html.tags("<span class=\"placeholder\">waiting</span>"),
        rate => html.text(format::rate(rate)),
    };
    html.tags("</td><td class=\"number\" data-label=\"Duration\">")
        .text(format::duration(transfer.age));
    html.tags("</td></tr>\n");
}

/// How much of a transfer is done: `344 MiB of 1.4 GiB, 24 %, 2 min left`. Only the first number is known of a chunked body.
fn moved(html: &mut Html, transfer: &TransferRow) {
    html.text(format::bytes(transfer.bytes));
    if let (Some(length), Some(percent)) = (transfer.length, transfer.percent()) {
        html.tags(" of\u{a0}").text(format::bytes(length));
        html.tags(", ").text(percent).tags("\u{a0}%");
    }
    if let Some(left) = transfer.time_left().filter(|left| !left.is_zero()) {
        html.tags(", ")
            .text(format::duration(left))
            .tags("\u{a0}left");
    }
}

// ===== upstreams =====

fn endpoints(html: &mut Html, status: &Status) {
    let endpoints = &status.endpoints;
    html.tags("<section id=\"upstreams\" aria-labelledby=\"upstreams-title\" data-live>\n<h2 id=\"upstreams-title\">Upstreams <span class=\"count\">");
    html.text(format::count(endpoints.count as u64))
        .tags("</span></h2>\n");
    if endpoints.shown.is_empty() {
        html.tags("<p class=\"empty\">No route leads to an upstream.</p>\n</section>\n");
        return;
    }
    html.tags("<div class=\"frame\"><table class=\"upstreams\"><caption class=\"unseen\">Endpoints of all upstreams, those that are down first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Endpoint</th><th scope=\"col\">State</th><th scope=\"col\" class=\"number\">Requests in progress</th></tr></thead>\n<tbody>\n");
    for endpoint in endpoints.shown.iter().take(MAX_ROWS) {
        endpoint_row(html, endpoint);
    }
    html.tags("</tbody></table></div>\n");
    more(html, hidden(endpoints), "");
    html.tags("</section>\n");
}

fn endpoint_row(html: &mut Html, endpoint: &EndpointRow) {
    html.tags("<tr data-key=\"").text(&endpoint.name);
    html.tags("\"><th scope=\"row\">").name(&endpoint.name);
    html.tags("</th><td>");
    match &endpoint.status {
        upstream::Status::Up => {
            html.tags("<span class=\"pill good\">up</span>");
        }
        upstream::Status::Unchecked => {
            html.tags("<span class=\"pill warn\">not checked yet</span>");
        }
        upstream::Status::Down(outage) => {
            html.tags("<span class=\"pill bad\">down</span> <span class=\"why\">since ");
            time(html, outage.since);
            html.tags(": ").name(&outage.cause).tags("</span>");
        }
    }
    html.tags("</td><td class=\"number\" data-label=\"Requests in progress\">");
    html.text(format::count(endpoint.requests as u64))
        .tags("</td></tr>\n");
}

// ===== sites =====

fn sites(html: &mut Html, status: &Status) {
    let sites = &status.sites;
    html.tags("<section id=\"sites\" aria-labelledby=\"sites-title\" data-live>\n<h2 id=\"sites-title\">Sites <span class=\"count\">");
    html.text(format::count(sites.count as u64))
        .tags("</span></h2>\n");
    html.tags("<div class=\"frame\"><table class=\"sites\"><caption class=\"unseen\">Sites: first those without an endpoint, then those whose certificate expires first; counts since the start</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Site</th><th scope=\"col\">Certificate until</th><th scope=\"col\" class=\"number\">Left</th>");
    html.tags("<th scope=\"col\" class=\"number\">Requests</th><th scope=\"col\" class=\"number\">Rejected</th><th scope=\"col\" class=\"number\">Errors</th></tr></thead>\n<tbody>\n");
    for site in sites.shown.iter().take(MAX_ROWS) {
        site_row(html, site);
    }
    html.tags("</tbody></table></div>\n");
    more(html, hidden(sites), ", whose certificates last longer");
    html.tags("</section>\n");
}

fn site_row(html: &mut Html, site: &SiteRow) {
    html.tags(match site.outages.is_empty() {
        true => "<tr data-key=\"",
        false => "<tr class=\"down\" data-key=\"",
    });
    html.text(&site.name).tags("\"><th scope=\"row\">");
    html.name(&site.name);
    if site.other_names > 0 {
        html.tags(" <small>and ")
            .text(site.other_names)
            .tags(match site.other_names {
                1 => " other name</small>",
                _ => " other names</small>",
            });
    }
    for RouteOutage {
        path,
        endpoint,
        outage,
    } in &site.outages
    {
        html.tags(" <span class=\"outage\">cannot serve ")
            .name(path);
        html.tags(": ").name(endpoint).tags(" is down since ");
        time(html, outage.since);
        html.tags(": ").name(&outage.cause).tags("</span>");
    }
    html.tags("</th><td class=\"until\" data-label=\"Certificate until\">");
    if let Some(validity) = &site.validity {
        time(html, validity.until);
    }
    html.tags("</td><td class=\"number\" data-label=\"Left\">");
    days_left(html, site);
    html.tags("</td>");
    let sums = site.sums.as_ref();
    site_count(html, "Requests", "", sums.map(|sums| sums.requests));
    site_count(html, "Rejected", "", sums.map(|sums| sums.rejections));
    site_count(html, "Errors", "bad", sums.map(|sums| sums.errors));
    html.tags("</tr>\n");
}

fn days_left(html: &mut Html, site: &SiteRow) {
    let Some(validity) = &site.validity else {
        html.tags("<span class=\"pill warn\">none yet</span>");
        return;
    };
    html.tags(match (validity.days_left, site.is_expiring) {
        (..0, _) => "<span class=\"pill bad\">expired</span>",
        (..LAST_DAYS, true) => "<span class=\"pill bad\">",
        (..LAST_DAYS, false) | (_, true) => "<span class=\"pill warn\">",
        (_, false) => "<span>",
    });
    if validity.days_left >= 0 {
        let unit = if validity.days_left == 1 {
            "\u{a0}day"
        } else {
            "\u{a0}days"
        };
        html.text(format::count(validity.days_left.unsigned_abs()))
            .tags(unit)
            .tags("</span>");
    }
}

/// A cell with a number of requests, in the colour of `class` if it is not zero; empty if the requests are counted under
/// another name of the site.
fn site_count(html: &mut Html, label: &'static str, class: &'static str, count: Option<u64>) {
    html.tags("<td class=\"number\" data-label=\"").tags(label);
    html.tags("\">");
    match count {
        None => {}
        Some(count) if count == 0 || class.is_empty() => {
            html.text(format::count(count));
        }
        Some(count) => {
            html.tags("<span class=\"").tags(class).tags("\">");
            html.text(format::count(count)).tags("</span>");
        }
    }
    html.tags("</td>");
}

// ===== rejections =====

fn rejections(html: &mut Html, status: &Status) {
    html.tags("<section id=\"rejections\" aria-labelledby=\"rejections-title\" data-live>\n<h2 id=\"rejections-title\">Rejections and upstream errors</h2>\n");
    if status.rejections.is_empty() {
        html.tags("<p class=\"empty\">Nothing was rejected since the start. The 401 with which every login begins is not shown.</p>\n</section>\n");
        return;
    }
    html.tags("<div class=\"frame\"><table class=\"rejections\"><caption class=\"unseen\">The last requests that the proxy rejected or for which the upstream failed, the latest first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">When</th><th scope=\"col\">Reason</th><th scope=\"col\">Request</th><th scope=\"col\">User</th>");
    html.tags("<th scope=\"col\">From</th><th scope=\"col\">Site</th></tr></thead>\n<tbody>\n");
    for rejection in status.rejections.iter().take(MAX_REJECTIONS) {
        rejection_row(html, rejection, status);
    }
    html.tags("</tbody></table></div>\n");
    let hidden = status.rejections.len().saturating_sub(MAX_REJECTIONS);
    more(html, hidden, "; the access log has all of them");
    html.tags("</section>\n");
}

fn rejection_row(html: &mut Html, rejection: &RejectedRequest, status: &Status) {
    let ago = status.now.duration_since(rejection.at).unwrap_or_default();
    html.tags("<tr><td class=\"when\">");
    html.text(format::duration(ago)).tags(" ago ");
    time(html, rejection.at);
    html.tags("</td><td class=\"reason\"><code");
    html.tags(match rejection.reason.is_upstream_error() {
        true => " class=\"bad\">",
        false => ">",
    });
    html.tags(rejection.reason.as_str()).tags("</code>");
    if rejection.count > 1 {
        html.tags(" <b>×").text(format::count(rejection.count));
        html.tags("</b> <small>since ");
        time(html, rejection.first_at);
        html.tags("</small>");
    }
    html.tags(" <span class=\"why\">");
    html.name(&rejection.message)
        .tags("</span></td><td class=\"asked\"><code>");
    html.name(&rejection.request)
        .tags("</code></td><td data-label=\"by\">");
    user(html, &rejection.user, "unknown");
    html.tags("</td><td data-label=\"from\">")
        .name(&rejection.client);
    html.tags("</td><td data-label=\"to\">");
    html.name(if rejection.site.is_empty() {
        "–"
    } else {
        &rejection.site
    });
    html.tags("</td></tr>\n");
}

// ===== parts of several sections =====

/// A time, which the script shows in the time zone of the browser.
fn time(html: &mut Html, time: SystemTime) {
    html.tags("<time datetime=\"").text(format::iso_time(time));
    html.tags("\">").text(format::time(time)).tags("</time>");
}

/// A message on one line, with its times as the page shows all times.
fn message(html: &mut Html, message: &str) {
    let line = message.replace('\n', " ");
    let mut rest = &*line;
    while let Some((before, at, after)) = format::find_iso_time(rest) {
        html.text(before);
        time(html, at);
        rest = after;
    }
    html.text(rest);
}

/// A user name, or `placeholder` in italics if there is none. The italics distinguish it from a user of that name.
fn user(html: &mut Html, user: &str, placeholder: &'static str) {
    if user.is_empty() {
        html.tags("<i class=\"placeholder\">")
            .tags(placeholder)
            .tags("</i>");
    } else {
        html.name(user);
    }
}

/// The number of rows of a list that are not on the page.
fn hidden<T>(list: &Truncated<T>) -> usize {
    list.hidden() + list.shown.len().saturating_sub(MAX_ROWS)
}

/// The line below a table that does not show all rows.
fn more(html: &mut Html, hidden: usize, description: &'static str) {
    if hidden > 0 {
        html.tags("<p class=\"more\">")
            .text(format::count(hidden as u64));
        html.tags(" more").tags(description).tags(".</p>\n");
    }
}

/// The longest table of the page. No part of the page scrolls by itself, so a longer table would push the other sections out
/// of sight.
const MAX_ROWS: usize = 20;
/// The maximum number of rejections, which are the last section of the page.
const MAX_REJECTIONS: usize = 12;
/// A certificate with fewer days left is never shown as good: it is an error if the certificate has lived most of its time, else
/// a warning.
const LAST_DAYS: i64 = 3;

//! The view of the status page: writes the [`Status`] as HTML, section by section.
//!
//! An element with `data-live` is replaced by the script of the page if its content changed. A row with `data-key` stays the
//! same element across refreshes.

use super::charts;
use super::format;
use super::html::Html;
use super::model::{EndpointRow, SiteRow, Status, TransferRow};
use crate::activity::RejectedRequest;
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
    let now = format::time(status.now);
    let clock = now.split(' ').next_back().unwrap_or_default();
    html.tags("<div class=\"tools\"><span id=\"as-of\" data-live>As of <time datetime=\"");
    html.text(format::iso_time(status.now)).tags("\">");
    html.text(clock).tags("</time> UTC</span>");
    html.tags("<span id=\"live\" role=\"status\"></span>");
    html.tags("<button id=\"pause\" type=\"button\" hidden>Pause</button>");
    html.tags("<a id=\"reload\" class=\"button\" href=\"./\">Reload</a></div>\n</header>\n");
}

/// The state of the proxy, as a CSS class and a short text.
fn overall_state(status: &Status) -> (&'static str, &'static str) {
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
    let loaded = status.last_reload.taken;
    let (succeeded, failed) = status.reloads;
    match &status.last_reload.failed {
        Some((at, _)) => {
            html.tags("<span class=\"bad\">refused</span> <small>")
                .text(ago(*at));
            html.tags(" ago; the configuration in use was taken ");
            html.text(ago(loaded)).tags(" ago</small>");
        }
        None if succeeded == 0 && failed == 0 => {
            html.tags("none <small>since the start</small>");
        }
        None => {
            html.tags("taken <small>").text(ago(loaded));
            html.tags(" ago</small>");
        }
    }
}

fn footer(html: &mut Html, status: &Status) {
    html.tags("<footer><p>Numbers for Prometheus at <a href=\"metrics\">/metrics</a>, readiness at <a href=\"readyz\">/readyz</a>. ");
    html.tags("All times are UTC.</p><p>tidegate ")
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
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"moving-title\" tabindex=\"0\"><table class=\"moving\"><caption class=\"unseen\">Pushes and pulls under way, the oldest first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Repository</th><th scope=\"col\">Direction</th><th scope=\"col\">User</th><th scope=\"col\">From</th>");
    html.tags("<th scope=\"col\">Site</th><th scope=\"col\" class=\"number\">Moved</th><th scope=\"col\" class=\"number\">Rate</th><th scope=\"col\" class=\"number\">For</th>");
    html.tags("</tr></thead>\n<tbody>\n");
    for transfer in &transfers.shown {
        transfer_row(html, transfer);
    }
    html.tags("</tbody></table></div>\n");
    more(html, transfers.hidden(), ", of which each has moved less");
    html.tags("</section>\n");
}

fn transfer_row(html: &mut Html, transfer: &TransferRow) {
    html.tags("<tr data-key=\"")
        .text(transfer.number)
        .tags("\"><th scope=\"row\">");
    html.name(&transfer.repository);
    // The number is the ID of `tidegate cut`.
    html.tags(" <small>#").text(transfer.number);
    html.tags("</small></th><td>");
    html.tags(match transfer.is_push {
        true => "<span class=\"push\"><span aria-hidden=\"true\">↑</span> push</span>",
        false => "<span class=\"pull\"><span aria-hidden=\"true\">↓</span> pull</span>",
    });
    html.tags("</td><td data-label=\"by\">");
    user(html, &transfer.user, "anonymous");
    html.tags("</td><td data-label=\"from\">")
        .name(&transfer.client);
    html.tags("</td><td data-label=\"to\">")
        .name(&transfer.site);
    html.tags("</td><td class=\"number\">")
        .text(format::bytes(transfer.bytes));
    html.tags("</td><td class=\"number\">")
        .text(format::rate(transfer.rate));
    html.tags("</td><td class=\"number\">")
        .text(format::duration(transfer.age));
    html.tags("</td></tr>\n");
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
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"upstreams-title\" tabindex=\"0\"><table class=\"upstreams\"><caption class=\"unseen\">Endpoints of all upstreams, those that are down first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Endpoint</th><th scope=\"col\">State</th><th scope=\"col\" class=\"number\">Requests under way</th></tr></thead>\n<tbody>\n");
    for endpoint in &endpoints.shown {
        endpoint_row(html, endpoint);
    }
    html.tags("</tbody></table></div>\n");
    more(html, endpoints.hidden(), "");
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
            html.tags(
                "<span class=\"pill bad\">down</span> <span class=\"why\">since <time datetime=\"",
            );
            html.text(format::iso_time(outage.since)).tags("\">");
            html.text(format::time(outage.since)).tags("</time>: ");
            html.name(&outage.cause).tags("</span>");
        }
    }
    html.tags("</td><td class=\"number\" data-unit=\"under way\">");
    html.text(format::count(endpoint.requests as u64))
        .tags("</td></tr>\n");
}

// ===== sites =====

fn sites(html: &mut Html, status: &Status) {
    let sites = &status.sites;
    html.tags("<section id=\"sites\" aria-labelledby=\"sites-title\" data-live>\n<h2 id=\"sites-title\">Sites <span class=\"count\">");
    html.text(format::count(sites.count as u64))
        .tags("</span></h2>\n");
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"sites-title\" tabindex=\"0\"><table class=\"sites\"><caption class=\"unseen\">Sites, the one whose certificate ends first on top; counts since the start</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Site</th><th scope=\"col\">Certificate until</th><th scope=\"col\" class=\"number\">Left</th>");
    html.tags("<th scope=\"col\" class=\"number\">Requests</th><th scope=\"col\" class=\"number\">Refused</th><th scope=\"col\" class=\"number\">Errors</th></tr></thead>\n<tbody>\n");
    for site in &sites.shown {
        site_row(html, site);
    }
    html.tags("</tbody></table></div>\n");
    more(html, sites.hidden(), ", whose certificates last longer");
    html.tags("</section>\n");
}

fn site_row(html: &mut Html, site: &SiteRow) {
    html.tags("<tr data-key=\"")
        .text(&site.name)
        .tags("\"><th scope=\"row\">");
    html.name(&site.name);
    if site.other_names > 0 {
        html.tags(" <small>and ")
            .text(site.other_names)
            .tags(match site.other_names {
                1 => " other name</small>",
                _ => " other names</small>",
            });
    }
    html.tags("</th><td data-label=\"until\">");
    if let Some(validity) = &site.validity {
        html.tags("<time datetime=\"")
            .text(format::iso_time(validity.until))
            .tags("\">");
        let until = format::time(validity.until);
        html.text(until.split(' ').next().unwrap_or_default());
        html.tags("</time>");
    }
    html.tags("</td><td class=\"number\">");
    days_left(html, site);
    html.tags("</td>");
    let sums = site.sums.as_ref();
    site_count(html, "requests", sums.map(|sums| sums.requests));
    site_count(html, "refused", sums.map(|sums| sums.rejections));
    site_count(html, "errors", sums.map(|sums| sums.errors));
    html.tags("</tr>\n");
}

fn days_left(html: &mut Html, site: &SiteRow) {
    let Some(validity) = &site.validity else {
        html.tags("<span class=\"pill warn\">none yet</span>");
        return;
    };
    html.tags(match (validity.days_left, site.is_expiring) {
        (..0, _) => "<span class=\"pill bad\">expired</span>",
        (_, true) => "<span class=\"pill warn\">",
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

/// A cell with a number of requests; empty if they are counted under another name of the site.
fn site_count(html: &mut Html, unit: &'static str, count: Option<u64>) {
    html.tags("<td class=\"number\" data-unit=\"")
        .tags(unit)
        .tags("\">");
    if let Some(count) = count {
        html.text(format::count(count));
    }
    html.tags("</td>");
}

// ===== rejections =====

fn rejections(html: &mut Html, status: &Status) {
    html.tags("<section id=\"refusals\" aria-labelledby=\"refusals-title\" data-live>\n<h2 id=\"refusals-title\">Refused lately</h2>\n");
    if status.rejections.is_empty() {
        html.tags("<p class=\"empty\">Nothing was refused since the start. That a client is first asked for a password is how every login begins, and not shown.</p>\n</section>\n");
        return;
    }
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"refusals-title\" tabindex=\"0\"><table class=\"refusals\"><caption class=\"unseen\">The last 50 requests that the proxy refused, the latest first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">When</th><th scope=\"col\">Reason</th><th scope=\"col\">Asked</th><th scope=\"col\">User</th>");
    html.tags("<th scope=\"col\">From</th><th scope=\"col\">Site</th></tr></thead>\n<tbody>\n");
    for rejection in &status.rejections {
        rejection_row(html, rejection, status);
    }
    html.tags("</tbody></table></div>\n</section>\n");
}

fn rejection_row(html: &mut Html, rejection: &RejectedRequest, status: &Status) {
    let ago = status.now.duration_since(rejection.at).unwrap_or_default();
    html.tags("<tr><td class=\"when\"><time datetime=\"");
    html.text(format::iso_time(rejection.at)).tags("\">");
    html.text(format::duration(ago))
        .tags(" ago</time></td><td><code>");
    html.tags(rejection.reason.as_str())
        .tags("</code> <span class=\"why\">");
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

/// The line below a table that does not show all rows.
fn more(html: &mut Html, hidden: usize, description: &'static str) {
    if hidden > 0 {
        html.tags("<p class=\"more\">And ")
            .text(format::count(hidden as u64));
        html.tags(" more").tags(description).tags(".</p>\n");
    }
}

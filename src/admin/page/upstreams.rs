//! Where requests go, and whether it is there.
//!
//! Called by `page`.

use super::figures;
use super::html::Html;
use super::status::Status;
use crate::upstream;

pub(super) fn write(html: &mut Html, status: &Status) {
    let endpoints = &status.endpoints;
    html.tags("<section id=\"upstreams\" aria-labelledby=\"upstreams-title\" data-live>\n<h2 id=\"upstreams-title\">Upstreams <span class=\"count\">");
    html.text(figures::count(endpoints.count as u64))
        .tags("</span></h2>\n");
    if endpoints.shown.is_empty() {
        html.tags("<p class=\"empty\">No route leads to an upstream.</p>\n</section>\n");
        return;
    }
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"upstreams-title\" tabindex=\"0\"><table class=\"upstreams\"><caption class=\"unseen\">Endpoints of all upstreams, those that are down first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Endpoint</th><th scope=\"col\">State</th><th scope=\"col\" class=\"number\">Requests under way</th></tr></thead>\n<tbody>\n");
    for endpoint in &endpoints.shown {
        html.tags("<tr data-key=\"").text(&endpoint.name);
        html.tags("\"><th scope=\"row\">").name(&endpoint.name);
        html.tags("</th><td>");
        state(html, &endpoint.status);
        html.tags("</td><td class=\"number\" data-unit=\"under way\">");
        html.text(figures::count(endpoint.busy as u64))
            .tags("</td></tr>\n");
    }
    html.tags("</tbody></table></div>\n");
    if endpoints.count > endpoints.shown.len() {
        let more = endpoints.count - endpoints.shown.len();
        html.tags("<p class=\"more\">And ")
            .text(figures::count(more as u64))
            .tags(" more.</p>\n");
    }
    html.tags("</section>\n");
}

fn state(html: &mut Html, status: &upstream::Status) {
    match status {
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
            html.text(figures::format_iso(outage.since)).tags("\">");
            html.text(figures::format_time(outage.since))
                .tags("</time>: ");
            html.name(&outage.cause).tags("</span>");
        }
    }
}

//! The sites: how long their certificates last, and what came to them.
//!
//! Called by `page`.

use super::figures;
use super::html::Html;
use super::status::{Site, Status};

pub(super) fn write(html: &mut Html, status: &Status) {
    let sites = &status.sites;
    html.tags("<section id=\"sites\" aria-labelledby=\"sites-title\" data-live>\n<h2 id=\"sites-title\">Sites <span class=\"count\">");
    html.text(figures::count(sites.count as u64))
        .tags("</span></h2>\n");
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"sites-title\" tabindex=\"0\"><table class=\"sites\"><caption class=\"unseen\">Sites, the one whose certificate ends first on top; counts since the start</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Site</th><th scope=\"col\">Certificate until</th><th scope=\"col\" class=\"number\">Left</th>");
    html.tags("<th scope=\"col\" class=\"number\">Requests</th><th scope=\"col\" class=\"number\">Refused</th><th scope=\"col\" class=\"number\">Errors</th></tr></thead>\n<tbody>\n");
    for site in &sites.shown {
        row(html, site);
    }
    html.tags("</tbody></table></div>\n");
    if sites.count > sites.shown.len() {
        let more = sites.count - sites.shown.len();
        html.tags("<p class=\"more\">And ")
            .text(figures::count(more as u64));
        html.tags(" more, whose certificates last longer.</p>\n");
    }
    html.tags("</section>\n");
}

fn row(html: &mut Html, site: &Site) {
    html.tags("<tr data-key=\"")
        .text(&site.name)
        .tags("\"><th scope=\"row\">");
    html.name(&site.name);
    if site.others > 0 {
        html.tags(" <small>and ")
            .text(site.others)
            .tags(match site.others {
                1 => " other name</small>",
                _ => " other names</small>",
            });
    }
    html.tags("</th><td data-label=\"until\">");
    if let Some(term) = &site.term {
        html.tags("<time datetime=\"")
            .text(figures::format_iso(term.until))
            .tags("\">");
        let until = figures::format_time(term.until);
        html.text(until.split(' ').next().unwrap_or_default());
        html.tags("</time>");
    }
    html.tags("</td><td class=\"number\">");
    left(html, site);
    html.tags("</td>");
    let sums = site.sums.as_ref();
    count(html, "requests", sums.map(|sums| sums.requests));
    count(html, "refused", sums.map(|sums| sums.rejections));
    count(html, "errors", sums.map(|sums| sums.errors));
    html.tags("</tr>\n");
}

/// Nothing where it is counted under another name.
fn count(html: &mut Html, unit: &'static str, count: Option<u64>) {
    html.tags("<td class=\"number\" data-unit=\"")
        .tags(unit)
        .tags("\">");
    if let Some(count) = count {
        html.text(figures::count(count));
    }
    html.tags("</td>");
}

fn left(html: &mut Html, site: &Site) {
    let Some(term) = &site.term else {
        html.tags("<span class=\"pill warn\">none yet</span>");
        return;
    };
    html.tags(match (term.days, site.is_aged) {
        (..0, _) => "<span class=\"pill bad\">expired</span>",
        (_, true) => "<span class=\"pill warn\">",
        (_, false) => "<span>",
    });
    if term.days >= 0 {
        let unit = if term.days == 1 {
            "\u{a0}day"
        } else {
            "\u{a0}days"
        };
        html.text(figures::count(term.days.unsigned_abs()))
            .tags(unit)
            .tags("</span>");
    }
}
